"""The order of tiles is a function of seed and step."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pretrain.data.sampling import permuted, share, step_indices, stream_seed


@given(size=st.integers(1, 3000), key=st.integers(0, 2**63 - 1))
def test_every_element_has_one_image(size: int, key: int) -> None:
    assert sorted(permuted(np.arange(size), size, key)) == list(range(size))


def test_a_permutation_of_many_is_computed_point_by_point() -> None:
    images = permuted(np.array([0, 1, 99_999_999]), 100_000_000, 7)
    assert len({*images.tolist()}) == 3
    assert ((images >= 0) & (images < 100_000_000)).all()


def test_neighbours_are_scattered() -> None:
    images = permuted(np.arange(1000), 10_000, 3)
    assert abs(np.corrcoef(np.arange(1000), images)[0, 1]) < 0.1


@given(size=st.integers(5, 40), batch=st.integers(1, 16), seed=st.integers(0, 99))
def test_every_tile_comes_once_an_epoch(size: int, batch: int, seed: int) -> None:
    steps = -(-3 * size // batch)
    order = np.concatenate([step_indices(size, batch, step, seed) for step in range(steps)])
    for epoch in range(3):
        assert sorted(order[epoch * size : (epoch + 1) * size]) == list(range(size))


def test_epochs_differ_and_seeds_differ() -> None:
    first, second = step_indices(50, 50, 0, 0), step_indices(50, 50, 1, 0)
    assert (first != second).any()
    assert (first != step_indices(50, 50, 0, 1)).any()


def test_ranks_and_micro_batches_cut_the_same_batch() -> None:
    indices = step_indices(100, 24, 3, 0)
    parts = [share(share(indices, micro, 2), rank, 3) for micro in range(2) for rank in range(3)]
    np.testing.assert_array_equal(np.concatenate(parts), indices)


def test_streams_of_different_places_differ() -> None:
    assert len({stream_seed(0, a, b) for a in range(10) for b in range(10)}) == 100
