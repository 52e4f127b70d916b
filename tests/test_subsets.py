import numpy as np
import pytest

from crossover.config import CrossoverError
from crossover.data.subsets import chain_order, index_hash, stratified_holdout, subset

BALANCED = np.repeat(np.arange(10), 100)
SKEWED = np.repeat([0, 1, 2], [700, 250, 50])


def test_smaller_subset_is_prefix_of_larger() -> None:
    pool = np.arange(1000)
    small, large = (subset(pool, BALANCED, n_train=n, chain=3) for n in (70, 700))
    np.testing.assert_array_equal(small, large[:70])


@pytest.mark.parametrize("labels", [BALANCED, SKEWED])
def test_chain_is_a_permutation(labels: np.ndarray) -> None:
    np.testing.assert_array_equal(np.sort(chain_order(labels, 0)), np.arange(len(labels)))


def test_every_prefix_of_a_balanced_chain_is_balanced_within_one_image() -> None:
    one_hot = np.eye(10)[BALANCED[chain_order(BALANCED, 1)]]
    counts = np.cumsum(one_hot, axis=0)
    assert (counts.max(axis=1) - counts.min(axis=1)).max() <= 1


def test_prefixes_keep_the_proportions_of_a_skewed_pool() -> None:
    counts = np.cumsum(np.eye(3)[SKEWED[chain_order(SKEWED, 0)]], axis=0)
    expected = np.arange(1, 1001)[:, None] * np.array([0.7, 0.25, 0.05])
    assert np.abs(counts - expected).max() <= 2


def test_chains_are_independent_draws() -> None:
    first, second = (set(subset(np.arange(1000), BALANCED, n_train=500, chain=c).tolist()) for c in (0, 1))
    assert 200 < len(first & second) < 300  # half of each at random: 250 expected


def test_holdout_is_stratified_fixed_and_disjoint() -> None:
    pool, held = stratified_holdout(SKEWED, 0.1, "abc")
    np.testing.assert_array_equal(np.bincount(SKEWED[held]), [70, 25, 5])
    assert len(np.intersect1d(pool, held)) == 0
    assert len(pool) + len(held) == 1000
    np.testing.assert_array_equal(held, stratified_holdout(SKEWED, 0.1, "abc")[1])


def test_holdout_needs_two_images_of_each_class() -> None:
    with pytest.raises(CrossoverError, match="class dog has 1 training image"):
        stratified_holdout(np.array([0, 0, 0, 1]), 0.1, ("cat", "dog"))


@pytest.mark.parametrize("n", [9, 1001])
def test_impossible_sizes_name_what_is_allowed(n: int) -> None:
    with pytest.raises(CrossoverError, match=rf"n_train={n} is not possible: allowed are 10 .* to 1000"):
        subset(np.arange(1000), BALANCED, n_train=n, chain=0)


def test_index_hash_depends_on_order_not_on_integer_width() -> None:
    assert index_hash(np.array([1, 2], np.int32)) == index_hash(np.array([1, 2], np.int64))
    assert index_hash(np.array([1, 2])) != index_hash(np.array([2, 1]))


def test_as_many_images_as_classes_have_one_of_each() -> None:
    labels = np.repeat([0, 1, 2], [400, 8, 100])
    for chain in range(20):
        order = chain_order(labels, chain)
        assert sorted(labels[order[:3]]) == [0, 1, 2]
        assert sorted(order) == list(range(508))
        counts = np.bincount(labels[order[:254]])
        assert abs(counts - [200, 4, 50]).max() <= 1
