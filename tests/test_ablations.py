"""Each ablation of a ResNet takes away what it says, and nothing else."""

from typing import Any

import pytest
import torch
from torch import nn

from crossover.config import CrossoverError
from crossover.fields import ModelConfig
from crossover.training.models import LocallyConnected2d, build_model, count_parameters, forward_flops, input_sizes

X = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def resnet(seed: int = 0, **args: Any) -> Any:
    torch.manual_seed(seed)
    config = ModelConfig(name="resnet_test", arch="basic_resnet", args={"widths": [8, 16], "depths": [1, 1], **args})
    return build_model(config, image_size=16, classes=10).eval()


def test_the_neutral_values_build_the_same_network_from_the_same_seed() -> None:
    plain = resnet().state_dict()
    named = resnet(head="pool", weights="shared").state_dict()
    assert plain.keys() == named.keys()
    assert all(torch.equal(plain[k], named[k]) for k in plain)


def test_a_locally_connected_layer_with_equal_weights_is_the_convolution() -> None:
    for stride, padding in ((1, 1), (2, 1), (1, 0)):
        conv = nn.Conv2d(3, 5, 3, stride=stride, padding=padding, bias=False)
        local = LocallyConnected2d(conv, 16, 16)
        with torch.no_grad():
            local.weight[:] = conv.weight.reshape(5, -1).T
        torch.testing.assert_close(local(X), conv(X), atol=1e-5, rtol=1e-5)


def test_untying_multiplies_the_weights_of_each_layer_by_its_places_and_keeps_the_flops() -> None:
    tied, free = resnet(), resnet(weights="untied")
    places = {"stem.conv": 256, "stages.0.0.conv1_kxk.conv": 256, "stages.1.0.conv2_kxk.conv": 64}
    for name, count in places.items():
        assert free.get_submodule(name).weight.numel() == count * tied.get_submodule(name).weight.numel()
    assert isinstance(free.stages[1][0].shortcut.conv, nn.Conv2d), "a 1x1 convolution joins no pixels"
    assert forward_flops(free, 16) == forward_flops(tied, 16)
    assert count_parameters(free) > 30 * count_parameters(tied)
    stem = [m.stem(X.roll(2, 3))[..., 4:-4] - m.stem(X).roll(2, 3)[..., 4:-4] for m in (tied, free)]
    assert float(stem[0].detach().abs().max()) < 1e-5
    assert float(stem[1].detach().abs().max()) > 0.1
    assert input_sizes(tied, 16)["stages.1.0.conv2_kxk.conv"] == (8, 8)
    assert float((free.stem.conv.weight.std() / tied.stem.conv.weight.std()).detach()) == pytest.approx(1, abs=0.1)
    free(X).sum().backward()
    assert all(p.grad is not None for p in free.parameters())


def test_a_flat_head_reads_places_and_a_pooled_one_does_not() -> None:
    pooled, flat = (resnet(head=head) for head in ("pool", "flatten"))
    assert flat.head.fc.in_features == 16 * 8 * 8
    maps = pooled.forward_features(X)
    torch.testing.assert_close(pooled.forward_head(maps.roll(4, 2)), pooled.forward_head(maps), atol=1e-5, rtol=1e-5)
    assert float((flat.forward_head(maps.roll(4, 2)) - flat.forward_head(maps)).detach().abs().max()) > 1e-3


def test_an_unknown_value_is_refused() -> None:
    with pytest.raises(CrossoverError, match=r"'head': 'mean'.* cannot be built: allowed are head=pool or flatten"):
        resnet(head="mean")
