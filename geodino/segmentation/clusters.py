"""k-means classes without labels, with numbers and colours that stay put from run to run."""

import numpy as np
from numpy.typing import NDArray

from geodino.heads.legend import LARGEST_CLASS
from tiles.errors import InputError

# Above this many sampled tokens mini-batches give the same centres for a fraction of the time.
_WHOLE_BATCH = 20_000


def fit_clusters(sample: NDArray[np.float32], clusters: int, *, seed: int = 0) -> NDArray[np.float32]:
    """Cluster centres of a feature sample, in a stable order.

    Args:
        sample: features `[N, D]`, L2-normalised.
        clusters: how many, 2 to 254.
        seed: seed of the initialisation.

    Returns:
        Centres `[K, D]`, ordered along the sample's first principal axis (its sign fixed by the largest loading), so
        that neighbouring class numbers look alike and the same scene always gets the same numbers.

    Raises:
        InputError: fewer than 2 or more than 254 clusters, or fewer distinct samples than clusters.
    """
    from sklearn.cluster import KMeans, MiniBatchKMeans

    check_clusters(clusters)
    if len(sample) < clusters:
        raise InputError(f"the scene has {len(sample)} valid tokens, too few for {clusters} clusters; ask for fewer")
    kind = KMeans if len(sample) <= _WHOLE_BATCH else MiniBatchKMeans
    options = {} if kind is KMeans else {"batch_size": 4096}
    centres = kind(clusters, n_init=4, random_state=seed, **options).fit(sample).cluster_centers_
    centred = sample - sample.mean(axis=0)
    _, vectors = np.linalg.eigh((centred.T @ centred).astype(np.float64))
    axis = vectors[:, -1]
    axis = axis * np.sign(axis[np.abs(axis).argmax()])
    return np.ascontiguousarray(centres[np.argsort(centres @ axis, kind="stable")], dtype=np.float32)


def check_clusters(clusters: int) -> None:
    """Refuse a number of clusters that a map cannot hold, before any work.

    Raises:
        InputError: no whole number, fewer than 2 or more than 254.
    """
    if not isinstance(clusters, (int, np.integer)) or not 2 <= clusters <= LARGEST_CLASS:
        raise InputError(f"--clusters takes a whole number from 2 to {LARGEST_CLASS}, not {clusters}")
