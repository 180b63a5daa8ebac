"""Curation on arrays: duplicates by brute force, trees on known clusters, even shares."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tiles.archive.curate import (
    balance,
    balanced_sample,
    centred,
    even_shares,
    hierarchical_kmeans,
    layout,
    near_duplicates,
    tree_sizes,
)


def unbalanced(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Ten kinds of very different frequency in 16 dimensions, and the kind of each point."""
    generator = np.random.default_rng(seed)
    sizes = [1600, 800, 400, 200, 100, 50, 40, 30, 20, 10]
    kinds = np.repeat(np.arange(10), sizes)
    centres = generator.normal(size=(10, 16)) * 4
    return centres[kinds] + generator.normal(size=(len(kinds), 16)) * 0.5, kinds


def test_centring_leaves_unit_vectors_around_zero():
    points = np.random.default_rng(0).normal(size=(200, 8)) + 100
    found = centred(points)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    assert np.abs(found.mean(axis=0)).max() < 0.2


@settings(deadline=None)
@given(st.integers(0, 10_000), st.floats(0.2, 0.95), st.sampled_from([3, 7, 100]))
def test_a_tile_repeats_the_first_kept_tile_that_it_is_like(seed, threshold, block):
    points = np.random.default_rng(seed).normal(size=(40, 3))
    points = (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)
    alike = points @ points.T > threshold
    expected: list[int] = []
    for i in range(40):
        expected.append(next((j for j in range(i) if expected[j] == j and alike[i, j]), i))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tiles.archive.curate._BLOCK", block)
        np.testing.assert_array_equal(near_duplicates(points, threshold), expected)


def test_layouts_tell_copies_from_like_ground():
    generator = np.random.default_rng(0)
    tiles = generator.random((30, 3, 20, 20)).astype(np.float32)
    copies = np.clip(tiles * 1.05 + generator.normal(0, 0.01, tiles.shape), 0, 1).astype(np.float32)
    flat = np.full((2, 3, 20, 20), 0.3, np.float32)
    layouts = layout(np.concatenate([tiles, copies, flat]))
    same = np.ones((62, 4), np.float32) / 2  # embeddings that tell nothing apart
    first = near_duplicates(same, 0.9, layouts)
    np.testing.assert_array_equal(first, [*range(30), *range(30), 60, 61])
    by_hand = np.array([[values[:, :10, :10].mean() for values in tiles]])
    assert layout(np.repeat(by_hand.reshape(30, 1, 1, 1), 8, 2).repeat(8, 3)).max() == 0


def test_the_same_layout_is_a_copy_whatever_the_embeddings_say():
    tiles = np.random.default_rng(0).random((10, 3, 16, 16)).astype(np.float32)
    layouts = layout(np.concatenate([tiles, tiles * 0.7]))
    apart = np.eye(20, dtype=np.float32)  # an untrained backbone sees brightness first
    np.testing.assert_array_equal(near_duplicates(apart, 0.9, layouts), [*range(10), *range(10)])


def test_like_layouts_need_like_embeddings():
    fields = np.random.default_rng(0).random((5, 3, 10, 10)).repeat(8, axis=2).repeat(8, axis=3).astype(np.float32)
    here, moved = fields[:, :, 4:68, 4:68], fields[:, :, 6:70, 6:70]  # two pixels of 64
    layouts = layout(np.concatenate([here, moved]))
    same = (layouts[:5] * layouts[5:]).sum(axis=1)
    assert ((same > 0.75) & (same < 0.9)).any()
    alike = np.concatenate([np.eye(5), np.eye(5)]).astype(np.float32)
    expected = np.where(same > 0.75, np.arange(5), np.arange(5, 10))
    np.testing.assert_array_equal(near_duplicates(alike, 0.9, layouts)[5:], expected)
    expected = np.where(same > 0.9, np.arange(5), np.arange(5, 10))
    np.testing.assert_array_equal(near_duplicates(np.eye(10, dtype=np.float32), 0.9, layouts)[5:], expected)


def test_slopes_of_light_and_noise_are_no_layout():
    generator = np.random.default_rng(0)
    slope = 0.3 + 0.2 * np.linspace(0, 1, 32)[:, None] * np.ones((6, 3, 1, 32)) * generator.uniform(
        0.5, 1, (6, 1, 1, 1)
    )
    noisy = slope + generator.normal(0, 0.01, slope.shape)
    assert not layout(slope.astype(np.float32)).any() and not layout(noisy.astype(np.float32)).any()


@given(st.lists(st.integers(0, 50), min_size=1, max_size=20), st.integers(0, 300), st.integers(0, 5))
def test_even_shares_reach_the_target_and_differ_by_one_at_most(sizes, target, seed):
    sizes = np.array(sizes)
    shares = even_shares(sizes, target, np.random.default_rng(seed))
    assert shares.sum() == min(target, sizes.sum()) and (shares <= sizes).all()
    unfilled = shares[shares < sizes]
    if len(unfilled):
        assert unfilled.min() >= shares.max() - 1


def test_trees_balance_unbalanced_data():
    points, kinds = unbalanced()
    tree = hierarchical_kmeans(points, (100, 10), (10, 3))
    assert [len(c) for c in tree.centres] == [100, 10]
    drawn = balanced_sample(tree, 500, seed=1)
    assert len(drawn) == 500 and len(np.unique(drawn)) == 500
    before, after = balance(kinds, 10), balance(kinds[drawn], 10)
    assert before < 0.55 and after > before + 0.2
    np.testing.assert_array_equal(drawn, balanced_sample(tree, 500, seed=1))


def test_resampling_spreads_centres_over_rare_kinds():
    points, kinds = unbalanced()
    plain = hierarchical_kmeans(points, (40,), (1,))
    flat = hierarchical_kmeans(points, (40,), (10,))

    def rare(tree) -> int:  # centres among the five rarest kinds
        nearest = np.argmin(((tree.centres[0][:, None] - points[None]) ** 2).sum(-1), axis=1)
        return int((kinds[nearest] >= 5).sum())

    assert rare(flat) > rare(plain)


def test_few_tiles_and_equal_tiles_do_not_break_the_tree():
    same = np.zeros((50, 4))
    tree = hierarchical_kmeans(same, *tree_sizes(50))
    assert len(balanced_sample(tree, 10)) == 10
    assert tree_sizes(5) == ((1,), (10,))
    assert tree_sizes(21531)[0] == (1076, 107, 10)


def test_balance_is_perplexity_over_clusters():
    assert balance(np.arange(8), 8) == pytest.approx(1)
    assert balance(np.zeros(8, int), 8) == pytest.approx(1 / 8)
