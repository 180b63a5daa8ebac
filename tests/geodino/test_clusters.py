import numpy as np
import pytest

from geodino.segmentation.clusters import fit_clusters
from tiles.errors import InputError


def blobs(seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.concatenate([centre + 0.05 * rng.normal(size=(200, 4)) for centre in 3 * np.eye(4)]).astype(np.float32)


def test_well_separated_groups_are_the_clusters() -> None:
    centres = fit_clusters(blobs(), 4)
    assert sorted(np.abs(centres - 3).min(axis=1).round(1)) == [0, 0, 0, 0]
    assert len({int(row.argmax()) for row in centres}) == 4


def test_numbers_do_not_depend_on_the_seed_or_the_order_of_the_sample() -> None:
    one = fit_clusters(blobs(), 4, seed=0)
    other = fit_clusters(np.random.default_rng(1).permutation(blobs()), 4, seed=5)
    np.testing.assert_allclose(one, other, atol=1e-3)


@pytest.mark.parametrize("clusters", [1, 255, 0, -3])
def test_impossible_numbers_are_refused(clusters: int) -> None:
    with pytest.raises(InputError, match="2 to 254"):
        fit_clusters(blobs(), clusters)


def test_more_clusters_than_samples_are_refused() -> None:
    with pytest.raises(InputError, match="too few for 10 clusters"):
        fit_clusters(blobs()[:5], 10)
