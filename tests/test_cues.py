import numpy as np
import pytest

from crossover.data.cues import (
    LEVELS,
    MOTIF,
    ZERO,
    bayes_accuracy,
    bayes_predictions,
    blocks,
    draw_patterns,
    generate,
    local_only_accuracy,
)
from crossover.fields import CuesData

WORLD = CuesData(
    kind="cues",
    name="cues",
    image_size=16,
    classes=10,
    alpha=0.15,
    beta=1.5,
    q=0.8,
    world_seed=0,
    n_pool=300,
    n_val=50,
    n_test=100,
)


def dials(**changes: float) -> CuesData:
    return WORLD.model_copy(update=changes)


def test_exact_bayes_accuracy_is_0994_at_the_default_dials() -> None:
    assert bayes_accuracy(WORLD, 20_000) == pytest.approx(0.994, abs=0.003)


def test_global_cue_alone_gives_0988() -> None:
    assert bayes_accuracy(dials(beta=0.0), 8_000) == pytest.approx(0.988, abs=0.004)


def test_bayes_accuracy_without_the_pattern_meets_the_local_bound() -> None:
    assert local_only_accuracy(WORLD) == pytest.approx(0.82)
    assert bayes_accuracy(dials(alpha=0.0), 8_000) == pytest.approx(0.82, abs=0.013)  # three standard errors


def test_a_certain_motif_makes_the_world_solvable_by_it_alone() -> None:
    assert bayes_accuracy(dials(alpha=0.0, q=1.0), 1_000) > 0.995


def test_no_cue_leaves_chance() -> None:
    assert bayes_accuracy(dials(alpha=0.0, beta=0.0), 2_000) == pytest.approx(0.1, abs=0.03)
    assert local_only_accuracy(dials(beta=0.0)) == 0.1


def test_bayes_rule_agrees_with_a_sum_written_out_for_one_image() -> None:
    world = dials(image_size=8, classes=3, alpha=0.3, beta=0.4)
    images, _ = next(blocks(world, 2, 5))
    patterns, motifs = draw_patterns(world)
    for image, predicted in zip(images, bayes_predictions(world, images), strict=True):
        x = (image.astype(float) - ZERO) / LEVELS
        posterior = np.zeros(3)
        for y in range(3):
            for m in range(3):
                weight = 0.8 * (m == y) + 0.2 / 3
                for row in range(8 - MOTIF + 1):
                    for column in range(8 - MOTIF + 1):
                        mean = 0.3 * patterns[y].astype(float)
                        mean[row : row + MOTIF, column : column + MOTIF] += 0.4 * motifs[m]
                        posterior[y] += weight * np.exp(-0.5 * np.sum((x - mean) ** 2) + 0.5 * np.sum(x**2))
        assert predicted == np.argmax(posterior)


def test_every_size_is_a_prefix_of_the_same_pool() -> None:
    small, large = generate(WORLD), generate(dials(n_pool=9_000))
    np.testing.assert_array_equal(small[0], large[0][:350])
    np.testing.assert_array_equal(small[1], large[1][:350])


def test_the_dials_leave_noise_labels_and_places_unchanged() -> None:
    (with_cues, labels), (without, same) = (next(blocks(w, 1, 64)) for w in (WORLD, dials(beta=0.0)))
    np.testing.assert_array_equal(labels, same)
    changed = (with_cues != without).any(axis=3)
    assert (changed.sum(axis=(1, 2)) <= MOTIF * MOTIF).all()
    assert changed.any(axis=(1, 2)).all()


def test_train_and_test_streams_differ() -> None:
    train, _, test, _ = generate(WORLD)
    assert not (train[:100] == test).all(axis=(1, 2, 3)).any()


def test_motif_follows_the_label_with_probability_q_plus_chance() -> None:
    world = dials(alpha=0.0, q=0.5)
    expected = 0.5 + 0.5 / 10
    assert bayes_accuracy(world, 4_000) == pytest.approx(expected, abs=0.03)
