"""Choosing tiles to train on: near-duplicates go, rare kinds of ground stay.

The method is that of LVD-142M and LVD-1689M (Oquab et al. 2024, section 3; Siméoni et al. 2025, section 3.1), with
hierarchical k-means and resampling after Vo et al. 2024, "Automatic Data Curation for Self-Supervised Learning: A
Clustering-Based Approach". Everything here works on arrays of embeddings; where they come from is the caller's matter.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_BLOCK = 2048
_GRID = 8
# Light and dark that vary by less than one step of 8 bits are noise and compression.
_LEAST_CONTRAST = 1 / 255
# Among 3.1 million pairs of different EuroSAT chips no two correlate by more than 0.85; brightened copies do by 0.98
# and more, chips written again as JPEG of quality 50 by 0.9 (but for nearly flat ones), chips moved by two of their 64
# pixels by 0.74 to 0.95, which some pairs of different chips reach as well: there embeddings have to agree.
_SURE_LAYOUT = 0.9
_LIKELY_LAYOUT = 0.75
_LLOYD_STEPS = 50
_RESAMPLINGS = 10


def centred(embeddings: np.ndarray) -> np.ndarray:
    """Embeddings ``[N, D]`` with their mean taken off, at unit length, float32.

    What all tiles share says nothing about which are alike; without it, cosines spread over their whole range.
    """
    moved = embeddings.astype(np.float64) - embeddings.mean(axis=0, dtype=np.float64)
    length = np.linalg.norm(moved, axis=1, keepdims=True)
    return (moved / np.maximum(length, 1e-12)).astype(np.float32)


def layout(values: np.ndarray) -> np.ndarray:
    """What lies where in a tile, whatever its brightness: 8 × 8 means of every band, centred, at unit length.

    Two forests have like embeddings and unlike layouts; a tile and its re-encoded, brightened copy have both alike. The
    plane that fits best is taken off: two tiles of sea that darken to one side are not yet alike.

    Args:
        values: Unit values ``[N, C, H, W]``, ``H`` and ``W`` at least 8.

    Returns:
        float32 ``[N, 64 C]``; 0 where what is left varies by less than a step of 8 bits, so that nothing can be said.
    """
    count, bands, height, width = values.shape
    rows, columns = np.arange(_GRID) * height // _GRID, np.arange(_GRID) * width // _GRID
    sums = np.add.reduceat(np.add.reduceat(values, rows, axis=2, dtype=np.float64), columns, axis=3)
    areas = np.diff(np.r_[rows, height])[:, None] * np.diff(np.r_[columns, width])
    means = sums / areas
    means -= means.mean(axis=(2, 3), keepdims=True)
    slope = np.linspace(-1, 1, _GRID)
    slope /= np.sqrt(_GRID * (slope**2).sum())
    for plane in (slope[:, None] * np.ones(_GRID), slope * np.ones((_GRID, 1))):
        means -= (means * plane).sum(axis=(2, 3), keepdims=True) * plane
    flat = means.reshape(count, bands * _GRID**2)
    length = np.linalg.norm(flat, axis=1, keepdims=True)
    told = length > _LEAST_CONTRAST * np.sqrt(flat.shape[1])
    return (flat / np.where(told, length, np.inf)).astype(np.float32)


def near_duplicates(embeddings: np.ndarray, threshold: float, layouts: np.ndarray | None = None) -> np.ndarray:
    """For every tile the first of the tiles to be kept that it repeats (itself, where it repeats none).

    A tile repeats another when their layouts are the same, or when the cosine of their embeddings exceeds the threshold
    and their layouts are similar; without layouts, when the cosine does. It is held against the kept tiles before it
    only, so that each tile left out is like the one kept for it: groups of tiles that are alike in a chain would join
    unlike ends, and in calm water they do. Exact: no pair is left out of the comparison.

    Args:
        embeddings: float32 ``[N, D]`` of unit length.
        threshold: Cosine above which two tiles may show the same.
        layouts: float32 ``[N, K]`` as `layout` gives them, or None to go by embeddings alone.

    Returns:
        int64 ``[N]``; a tile is to be kept when its entry is its own number.
    """

    def alike(some: np.ndarray, others: np.ndarray) -> np.ndarray:
        close: np.ndarray = embeddings[some] @ embeddings[others].T > threshold
        if layouts is None:
            return close
        same = layouts[some] @ layouts[others].T
        return (same > _SURE_LAYOUT) | (close & (same > _LIKELY_LAYOUT))

    repeated = np.arange(len(embeddings))
    kept = np.zeros(0, np.int64)
    for first in range(0, len(embeddings), _BLOCK):
        here = np.arange(first, min(first + _BLOCK, len(embeddings)))
        for second in range(0, len(kept), _BLOCK):
            others = kept[second : second + _BLOCK]
            found = alike(here, others)
            new = found.any(axis=1) & (repeated[here] == here)
            repeated[here[new]] = others[found[new].argmax(axis=1)]
        here = here[repeated[here] == here]
        found = np.tril(alike(here, here), -1)
        for i in np.flatnonzero(found.any(axis=1)):
            if (earlier := np.flatnonzero(found[i] & (repeated[here] == here))).size:
                repeated[here[i]] = here[earlier[0]]
        kept = np.concatenate([kept, here[repeated[here] == here]])
    return repeated


@dataclass(frozen=True)
class Tree:
    """Clusters of clusters.

    Attributes:
        levels: For each level, from the finest: the cluster of every point of the level below (tiles, then clusters),
            int64 ``[N]``, ``[K1]``, ``[K2]``, …
        centres: For each level the cluster centres, float64 ``[K, D]``.
    """

    levels: tuple[np.ndarray, ...]
    centres: tuple[np.ndarray, ...]

    def cluster_of(self, level: int) -> np.ndarray:
        """The cluster of every tile at a level (0 is the finest), int64 ``[N]``."""
        chosen = self.levels[0]
        for parents in self.levels[1 : level + 1]:
            chosen = parents[chosen]
        return chosen


def hierarchical_kmeans(
    embeddings: np.ndarray, clusters: Sequence[int], resample: Sequence[int], seed: int = 0
) -> Tree:
    """K-means of k-means centres, each level resampled so that its centres spread evenly over the data's support.

    Plain k-means puts most centres where most tiles are. Resampling runs it again and again on only the few tiles
    nearest to each centre, which flattens the density it sees.

    Args:
        embeddings: ``[N, D]``.
        clusters: Number of clusters of each level, from the finest.
        resample: Tiles (or centres) kept near each centre when resampling, for each level; 1 does not resample.
        seed: Of the initial centres.
    """
    points = embeddings.astype(np.float64)
    levels, centres = [], []
    for level, (count, kept) in enumerate(zip(clusters, resample, strict=True)):
        found, assigned = _kmeans(points, points, count, seed + level)
        if kept > 1:
            for turn in range(_RESAMPLINGS):
                chosen = _closest(points, found, assigned, kept)
                found, assigned = _kmeans(points[chosen], points, count, seed + 1000 * (turn + 1) + level)
        levels.append(assigned)
        centres.append(found)
        points = found
    return Tree(tuple(levels), tuple(centres))


def _kmeans(some: np.ndarray, points: np.ndarray, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """At most ``count`` centres ``[K, D]`` of some points, and the nearest one of every point, int64 ``[N]``."""
    from sklearn.cluster import KMeans  # half a second that readers of tiles need not spend

    # k-means++ picks among distinct points only.
    count = min(count, len(np.unique(some, axis=0)))
    fitted = KMeans(count, n_init=1, max_iter=_LLOYD_STEPS, random_state=seed).fit(some)
    return fitted.cluster_centers_, fitted.predict(points).astype(np.int64)


def _closest(points: np.ndarray, centres: np.ndarray, assigned: np.ndarray, kept: int) -> np.ndarray:
    """Numbers of the ``kept`` points nearest to each centre among its own, sorted."""
    distance = ((points - centres[assigned]) ** 2).sum(axis=1)
    order = np.lexsort((distance, assigned))
    firsts = np.flatnonzero(np.r_[True, np.diff(assigned[order]) > 0])
    place = np.arange(len(order)) - np.repeat(firsts, np.diff(np.r_[firsts, len(order)]))
    return np.sort(order[place < kept])


def even_shares(sizes: np.ndarray, target: int, generator: np.random.Generator) -> np.ndarray:
    """How many to take from groups of ``sizes`` so that all give the same where they can, ``target`` in all.

    The cap ``c`` solves ``sum(min(c, sizes)) <= target``; what is then still missing is drawn among the groups that
    could give one more.
    """
    sizes = np.asarray(sizes, np.int64)
    target = int(min(target, sizes.sum()))
    low, high = 0, int(sizes.max(initial=0))
    while low < high:
        middle = (low + high + 1) // 2
        if np.minimum(middle, sizes).sum() <= target:
            low = middle
        else:
            high = middle - 1
    shares = np.minimum(low, sizes)
    more = np.flatnonzero(sizes > shares)
    missing = target - int(shares.sum())
    if missing:
        shares[generator.choice(more, missing, replace=False)] += 1
    return shares


def balanced_sample(tree: Tree, target: int, seed: int = 0) -> np.ndarray:
    """Tiles drawn evenly from the tree, from its top down: sorted numbers, int64.

    Args:
        tree: Clusters of all tiles.
        target: Number of tiles to draw.
        seed: Of the draw.
    """
    generator = np.random.default_rng(seed)
    top = len(tree.levels) - 1
    # For each level the members of every cluster: clusters of the level below, or tiles at the finest.
    members = [_members(parents, len(c)) for parents, c in zip(tree.levels, tree.centres, strict=True)]
    held = [np.bincount(tree.cluster_of(level), minlength=len(tree.centres[level])) for level in range(top + 1)]
    taken: list[np.ndarray] = []

    def draw(level: int, cluster: int, wanted: int) -> None:
        if not wanted:
            return
        children = members[level][cluster]
        if level == 0:
            taken.append(generator.choice(children, wanted, replace=False))
            return
        for child, share in zip(children, even_shares(held[level - 1][children], wanted, generator), strict=True):
            draw(level - 1, int(child), int(share))

    for cluster, share in enumerate(even_shares(held[top], target, generator)):
        draw(top, cluster, int(share))
    return np.sort(np.concatenate(taken)) if taken else np.zeros(0, np.int64)


def _members(parents: np.ndarray, count: int) -> list[np.ndarray]:
    order = np.argsort(parents, kind="stable")
    return np.split(order, np.cumsum(np.bincount(parents, minlength=count))[:-1])


def balance(clusters: np.ndarray, count: int) -> float:
    """How evenly tiles lie over clusters: 1 for all alike, 1 / count for all in one (perplexity over count)."""
    share = np.bincount(clusters, minlength=count) / max(len(clusters), 1)
    share = share[share > 0]
    return float(np.exp(-(share * np.log(share)).sum()) / count)


def tree_sizes(tiles: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Clusters and resampling of each level for so many tiles.

    About 20 tiles a finest cluster and a tenth as many clusters a level, down to ten; 10, then 3 points resampled near
    each centre, as in Vo et al.'s smaller settings.
    """
    finest = max(1, tiles // 20)
    sizes = [finest]
    while sizes[-1] // 10 >= 10:
        sizes.append(sizes[-1] // 10)
    return tuple(sizes), (10, *(3,) * (len(sizes) - 1))


@dataclass(frozen=True)
class Choice:
    """What curation chose.

    Attributes:
        kept: bool ``[N]``.
        duplicate_of: int64 ``[N]``; the tile that each one repeats, itself where none.
        cluster: int64 ``[N]``; cluster at the top of the tree.
        clusters: Number of clusters of each level, from the finest.
        balance_before: Evenness of all tiles over the finest and over the top clusters, see `balance`.
        balance_after: The same of the kept tiles.
    """

    kept: np.ndarray
    duplicate_of: np.ndarray
    cluster: np.ndarray
    clusters: tuple[int, ...]
    balance_before: tuple[float, float]
    balance_after: tuple[float, float]


def choose(
    embeddings: np.ndarray, keep: float, threshold: float, seed: int = 0, layouts: np.ndarray | None = None
) -> Choice:
    """Leave out near-duplicates, cluster the rest and draw evenly.

    Args:
        embeddings: float32 ``[N, D]`` as `centred` gives them.
        keep: Share of all tiles to keep; fewer are kept where duplicates leave fewer.
        threshold: Cosine above which tiles are near-duplicates.
        seed: Of clusters and draws.
        layouts: What confirms near-duplicates, see `near_duplicates`.
    """
    duplicate_of = near_duplicates(embeddings, threshold, layouts)
    unique = duplicate_of == np.arange(len(duplicate_of))
    rows = np.flatnonzero(unique)
    tree = hierarchical_kmeans(embeddings[rows], *tree_sizes(len(rows)), seed=seed)
    kept = np.zeros(len(embeddings), bool)
    kept[rows[balanced_sample(tree, max(1, round(keep * len(embeddings))), seed)]] = True
    sizes = tuple(len(centres) for centres in tree.centres)
    by_level = []
    for level in (0, len(sizes) - 1):
        clusters = np.zeros(len(embeddings), np.int64)
        clusters[rows] = tree.cluster_of(level)
        by_level.append(clusters[duplicate_of])
    finest, top = by_level
    return Choice(
        kept=kept,
        duplicate_of=duplicate_of,
        cluster=top,
        clusters=sizes,
        balance_before=(balance(finest, sizes[0]), balance(top, sizes[-1])),
        balance_after=(balance(finest[kept], sizes[0]), balance(top[kept], sizes[-1])),
    )
