"""k-means classes without labels, with numbers and colours that stay put from run to run."""

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans, MiniBatchKMeans

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


class Reservoir:
    """A uniform sample of a stream of feature vectors, the same for the same stream whatever its block sizes.

    Every vector gets a pseudo-random key from its position; the ``size`` smallest keys are kept.
    """

    def __init__(self, size: int, seed: int = 0) -> None:
        self.size, self.seed = size, seed
        self._keys: NDArray[np.uint64] = np.empty(0, dtype=np.uint64)
        self._kept: NDArray[np.float32] | None = None

    def add(self, positions: NDArray[np.int64], features: NDArray[np.float32]) -> None:
        """Offer vectors ``features`` `[N, D]` found at ``positions`` `[N]` (token row times width plus column)."""
        keys = _mix(positions.astype(np.uint64) + np.uint64(self.seed) * np.uint64(0x9E3779B97F4A7C15))
        if len(self._keys) == self.size:
            near = keys < self._keys.max()
            keys, features = keys[near], features[near]
        keys = np.concatenate([self._keys, keys])
        kept = features if self._kept is None else np.concatenate([self._kept, features])
        if len(keys) > self.size:
            best = np.argpartition(keys, self.size)[: self.size]
            keys, kept = keys[best], kept[best]
        self._keys, self._kept = keys, kept

    def sample(self) -> NDArray[np.float32]:
        """The vectors kept, `[at most size, D]`, in the order of their keys."""
        if self._kept is None:
            raise InputError("the scene has no valid pixel to learn clusters from")
        return self._kept[np.argsort(self._keys, kind="stable")]


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Bit mixer (the finaliser of SplitMix64): neighbouring positions get unrelated keys."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
