"""The deep half of a change score: how far a place's tokens moved between two dates.

Tokens carry a large part that all places share and that light, season and sensor move together. Each date's own mean
token is taken out first. What is left is compared as a direction, over single tokens and over neighbourhoods of three
by three, and the smaller of the distances to slightly displaced tokens is kept: a shift that alignment could not take
out must not look like change.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter

from geodino.token_store import TokenStore

FloatArray = NDArray[np.float32]

# Token rows worked on at once.
_ROWS = 64
# Token rows a distance reaches beyond its own: one for the neighbourhood, one for the displacement.
_REACH = 2
SCALES = (1, 3)


@dataclass(frozen=True)
class TokenChange:
    """Distance of tokens between two dates.

    Attributes:
        centres: mean token of each date, `[2, D]`.
        layers: number of layers that are concatenated in a token; each is compared on its own.
        tolerance: displacement that is forgiven, in tokens, 0 to 1.
    """

    centres: FloatArray
    layers: int
    tolerance: float

    @property
    def channels(self) -> int:
        """Distances a token has: one for each layer and scale."""
        return self.layers * len(SCALES)

    def distances(self, before: FloatArray, after: FloatArray, valid: NDArray[np.bool_]) -> FloatArray:
        """Distances `[layers x scales, h, w]` in [0, 2] of tokens `[D, h, w]`; 0 where not valid."""
        found = []
        weight = valid.astype(np.float32)
        for layer in range(self.layers):
            part = slice(layer * len(before) // self.layers, (layer + 1) * len(before) // self.layers)
            first = (before[part] - self.centres[0, part, None, None]) * weight
            second = (after[part] - self.centres[1, part, None, None]) * weight
            for scale in SCALES:
                one, other = (first, second) if scale == 1 else (_pool(first, scale), _pool(second, scale))
                found.append(_displaced_distance(one, other, self.tolerance) * weight)
        return np.stack(found)


def fit_token_change(before: TokenStore, after: TokenStore, *, layers: int, tolerance: float) -> TokenChange:
    """Measure both dates' mean token over the places both have."""
    rows, columns = np.nonzero(before.valid & after.valid)
    step = max(1, len(rows) // 50_000)
    rows, columns = rows[::step], columns[::step]
    centres = np.stack([store.at(rows, columns).mean(axis=0) for store in (before, after)])
    return TokenChange(centres.astype(np.float32), layers, float(np.clip(tolerance, 0, 1)))


def distance_rows(
    change: TokenChange, before: TokenStore, after: TokenStore, start: int, stop: int
) -> tuple[FloatArray, NDArray[np.bool_]]:
    """Distances `[channels, stop - start, columns]` of token rows and where both dates have tokens."""
    top, bottom = max(start - _REACH, 0), min(stop + _REACH, before.valid.shape[0])
    first, valid = before.read(top, bottom)
    second, other = after.read(top, bottom)
    valid = valid & other
    distances = change.distances(first, second, valid)
    return distances[:, start - top : stop - top], valid[start - top : stop - top]


def _pool(tokens: FloatArray, scale: int) -> FloatArray:
    return uniform_filter(tokens, (0, scale, scale), mode="nearest")


def _displaced_distance(before: FloatArray, after: FloatArray, tolerance: float) -> FloatArray:
    """Smallest cosine distance between a token and the other date's token displaced by up to ``tolerance``."""
    best = _cosine_distance(before, after)
    if tolerance > 0:
        for axis in (1, 2):
            for direction in (-1, 1):
                moved = (1 - tolerance) * after + tolerance * _neighbour(after, axis, direction)
                best = np.minimum(best, _cosine_distance(before, moved))
                moved = (1 - tolerance) * before + tolerance * _neighbour(before, axis, direction)
                best = np.minimum(best, _cosine_distance(moved, after))
    return best


def _neighbour(tokens: FloatArray, axis: int, direction: int) -> FloatArray:
    """Tokens moved by one along an axis, the edge repeated."""
    index = np.clip(np.arange(tokens.shape[axis]) + direction, 0, tokens.shape[axis] - 1)
    return np.take(tokens, index, axis=axis)


def _cosine_distance(first: FloatArray, second: FloatArray) -> FloatArray:
    product = np.einsum("dhw,dhw->hw", first, second)
    length = np.sqrt(np.einsum("dhw,dhw->hw", first, first) * np.einsum("dhw,dhw->hw", second, second))
    return (1 - product / np.maximum(length, 1e-12)).astype(np.float32)
