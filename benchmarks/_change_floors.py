"""The classical floors every change map is compared with: change-vector analysis and PCA–k-means.

They hold the whole image and are meant for tables and tests, not for large rasters.
"""

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA


def change_vector_analysis(before: NDArray, after: NDArray) -> NDArray[np.float64]:
    """Length of the difference of the two dates, each band standardised by its own date's mean and deviation.

    Malila, "Change vector analysis: an approach for detecting forest changes with Landsat", 1980.

    Args:
        before: first date `[C, H, W]`, any unit.
        after: second date, same shape.

    Returns:
        `[H, W]`, 0 to infinity.
    """

    def standardise(image: NDArray) -> NDArray[np.float64]:
        image = image.astype(np.float64)
        deviation = image.std(axis=(1, 2), keepdims=True)
        return (image - image.mean(axis=(1, 2), keepdims=True)) / np.where(deviation > 0, deviation, 1)

    return np.sqrt(((standardise(before) - standardise(after)) ** 2).sum(axis=0))


def pca_kmeans(difference: NDArray, *, block: int = 4, components: int = 3, seed: int = 0) -> NDArray[np.bool_]:
    """Split a difference image in two by k-means on principal components of its neighbourhoods.

    Celik, "Unsupervised change detection in satellite images using principal component analysis and k-means
    clustering", IEEE GRSL 6(4), 2009.

    Args:
        difference: magnitude of the difference `[H, W]`.
        block: side of the neighbourhood (and of the blocks the components are learned on), in pixels.
        components: how many principal components are kept.
        seed: seed of k-means.

    Returns:
        `[H, W]`, True where the cluster with the larger mean difference is.
    """
    height, width = difference.shape
    blocks = difference[: height // block * block, : width // block * block]
    blocks = blocks.reshape(height // block, block, width // block, block).swapaxes(1, 2).reshape(-1, block * block)
    pca = PCA(min(components, block * block, len(blocks)), random_state=seed).fit(blocks)
    before = (block - 1) // 2
    padded = np.pad(difference, ((before, block - 1 - before), (before, block - 1 - before)), mode="symmetric")
    around = np.lib.stride_tricks.sliding_window_view(padded, (block, block)).reshape(-1, block * block)
    label = KMeans(2, n_init=4, random_state=seed).fit_predict(pca.transform(around)).reshape(height, width)
    changed = difference[label == 1].mean() > difference[label == 0].mean()
    return label == int(changed)
