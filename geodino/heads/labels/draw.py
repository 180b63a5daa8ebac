"""Draws a bounded number of labelled pixels of each class while they come by, so that a country's are never held.

Each pixel has a number that looks drawn by chance and depends on the seed and its place alone. Within an object pixels
are ranked by that number; a class keeps those of the lowest rank, and among equals of the lowest number. A pixel that
is passed over stays so whatever comes later, because what comes only moves ranks up. So the sample depends neither on
the order of the pixels nor on how many come at once.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

BLOCK_PIXELS = 1 << 21
_WORD = (1 << 64) - 1


class Draw:
    """At most ``most`` pixels of each class, shared evenly among its objects.

    Args:
        most: pixels kept of each class.
        seed: another one draws others.
    """

    def __init__(self, most: int, seed: int = 0) -> None:
        self.most, self.seed = most, seed
        self._held: dict[int, tuple[NDArray[np.int64], NDArray[np.int64]]] = {}

    @property
    def classes(self) -> list[int]:
        """The classes that came, sorted."""
        return sorted(self._held)

    def add(self, places: NDArray[np.int64], classes: NDArray, objects: NDArray) -> None:
        """Take pixels that have not come before.

        Args:
            places: number of each pixel in its grid, row by row, int64 `[N]`.
            classes: class of each `[N]`.
            objects: object of each `[N]`.
        """
        for value in np.unique(classes):
            here = classes == value
            found = places[here], objects[here].astype(np.int64)
            held = self._held.get(int(value))
            if held is not None:
                found = np.concatenate([held[0], found[0]]), np.concatenate([held[1], found[1]])
            if len(found[0]) > self.most:
                kept = self._lowest(*found)
                found = found[0][kept], found[1][kept]
            self._held[int(value)] = found

    def sample(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Places, classes and objects of the pixels kept, each `[M]`, class by class."""
        none = np.empty(0, dtype=np.int64)
        places = [none, *(self._held[value][0] for value in self.classes)]
        objects = [none, *(self._held[value][1] for value in self.classes)]
        counts = [len(self._held[value][0]) for value in self.classes]
        classes = np.repeat(np.array(self.classes, dtype=np.int64), counts)
        return np.concatenate(places), classes, np.concatenate(objects)

    def _lowest(self, places: NDArray[np.int64], objects: NDArray[np.int64]) -> NDArray[np.int64]:
        """Indices of the ``most`` pixels that come first by rank within their object, then by chance."""
        chance = chance_of(places, self.seed)
        order = np.argsort(chance)
        order = order[np.argsort(objects[order], kind="stable")]
        starts = np.flatnonzero(np.diff(objects[order], prepend=objects[order[0]] - 1))
        rank = np.arange(len(order)) - np.repeat(starts, np.diff(starts, append=len(order)))
        last = np.partition(rank, self.most - 1)[self.most - 1]
        sure, edge = order[rank < last], order[rank == last]
        return np.concatenate([sure, edge[np.argsort(chance[edge])][: self.most - len(sure)]])


def chance_of(places: NDArray[np.int64], seed: int) -> NDArray[np.uint64]:
    """A number for each place that looks drawn by chance, no two alike (SplitMix64; Steele, Lea and Flood, 2014)."""
    value = places.astype(np.uint64) + np.uint64((seed + 1) * 0x9E3779B97F4A7C15 & _WORD)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def row_blocks(height: int, width: int, first: int = 0) -> Iterator[tuple[int, int]]:
    """First and last row (exclusive) of blocks of at most ``BLOCK_PIXELS`` pixels, from the one with a row on."""
    rows = max(1, BLOCK_PIXELS // width)
    for start in range(first // rows * rows, height, rows):
        yield start, min(start + rows, height)
