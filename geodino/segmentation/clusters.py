"""k-means classes without labels, with numbers and colours that stay put from run to run."""

import numpy as np
from numpy.typing import NDArray

from geodino.heads.legend import LARGEST_CLASS
from tiles.errors import InputError

# Above this many sampled tokens mini-batches give the same centres for a fraction of the time.
_WHOLE_BATCH = 20_000
# Starts from other tokens; the tightest clusters are kept.
_STARTS = 4
_STEPS = 30


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
    check_clusters(clusters)
    if len(sample) < clusters:
        raise InputError(f"the scene has {len(sample)} valid tokens, too few for {clusters} clusters; ask for fewer")
    centres = (_of_all if len(sample) <= _WHOLE_BATCH else _of_batches)(sample, clusters, seed)
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


def _of_all(sample: NDArray[np.float32], clusters: int, seed: int) -> NDArray[np.float32]:
    """Centres by SciPy: of a small scene the import of scikit-learn would take as long as everything else."""
    from scipy.cluster.vq import ClusterError, kmeans2

    found: list[tuple[float, NDArray[np.float32]]] = []
    for generator in np.random.default_rng(seed).spawn(_STARTS):
        try:
            centres, nearest = kmeans2(sample, clusters, _STEPS, minit="++", missing="raise", rng=generator)
        except ClusterError:  # a centre that no token is near to
            continue
        found.append((float(np.square(sample - centres[nearest]).sum()), centres))
    if not found:
        raise InputError(f"the scene has fewer than {clusters} different kinds of tokens; ask for fewer clusters")
    return min(found, key=lambda pair: pair[0])[1]


def _of_batches(sample: NDArray[np.float32], clusters: int, seed: int) -> NDArray[np.float32]:
    from sklearn.cluster import MiniBatchKMeans

    fitted = MiniBatchKMeans(clusters, n_init=_STARTS, random_state=seed, batch_size=4096).fit(sample)
    return fitted.cluster_centers_
