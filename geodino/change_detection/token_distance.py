"""How far a place's tokens moved between two dates.

Tokens carry a large part that all places share and that light, season and sensor move together. Each date's own mean
token is taken out first. What is left is compared as a direction, over single tokens and over neighbourhoods of three
by three, and the smaller of the distances to slightly displaced tokens is kept: a shift that alignment could not take
out must not look like change.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter

from geodino.dense.tokens import SceneTokens

FloatArray = NDArray[np.float32]

# Token rows worked on at once.
ROWS = 64
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
        """Distances and textures of tokens `[D, h, w]`: `[2, layers x scales, h, w]` in [0, 2]; 0 where not valid.

        The texture is the smaller of both dates' mean distances between a token and its four neighbours.
        """
        found = []
        weight = valid.astype(np.float32)
        for layer in range(self.layers):
            part = slice(layer * len(before) // self.layers, (layer + 1) * len(before) // self.layers)
            first = (before[part] - self.centres[0, part, None, None]) * weight
            second = (after[part] - self.centres[1, part, None, None]) * weight
            for scale in SCALES:
                one, other = (_unit(tokens if scale == 1 else _pool(tokens, scale)) for tokens in (first, second))
                found.append(np.stack(_compare(one, other, self.tolerance)) * weight)
        return np.stack(found, axis=1)


def fit_token_change(before: SceneTokens, after: SceneTokens, *, layers: int, tolerance: float) -> TokenChange:
    """Measure both dates' mean token over the places both have."""
    rows, columns = np.nonzero(before.valid & after.valid)
    step = max(1, len(rows) // 50_000)
    rows, columns = rows[::step], columns[::step]
    centres = np.stack([store.at(rows, columns).mean(axis=0) for store in (before, after)])
    return TokenChange(centres.astype(np.float32), layers, float(np.clip(tolerance, 0, 1)))


def distance_rows(change: TokenChange, before: SceneTokens, after: SceneTokens, start: int, stop: int) -> FloatArray:
    """Distances and textures `[2, channels, stop - start, columns]` of token rows; 0 where either date has none."""
    top, bottom = max(start - _REACH, 0), min(stop + _REACH, before.valid.shape[0])
    first, valid = before.read(top, bottom)
    second, other = after.read(top, bottom)
    return change.distances(first, second, valid & other)[:, :, start - top : stop - top]


def _pool(tokens: FloatArray, scale: int) -> FloatArray:
    return uniform_filter(tokens, (0, scale, scale), mode="nearest")


def _unit(tokens: FloatArray) -> FloatArray:
    length = np.sqrt(np.einsum("dhw,dhw->hw", tokens, tokens))
    return tokens / np.maximum(length, 1e-6)


@dataclass(frozen=True)
class _Products:
    """Inner products of two dates' unit tokens with each other and with their neighbours along one axis.

    Attributes:
        first: of the first date's neighbours, one fewer than tokens along the axis.
        second: the same of the second date.
        ahead: of the first date's token and the second date's next one.
        behind: of the first date's next token and the second date's.
    """

    first: FloatArray
    second: FloatArray
    ahead: FloatArray
    behind: FloatArray

    @classmethod
    def of(cls, before: FloatArray, after: FloatArray, axis: int) -> "_Products":
        here, following = (
            tuple(tokens[:, part] if axis == 1 else tokens[:, :, part] for tokens in (before, after))
            for part in (slice(None, -1), slice(1, None))
        )
        return cls(
            _dot(here[0], following[0]),
            _dot(here[1], following[1]),
            _dot(here[0], following[1]),
            _dot(following[0], here[1]),
        )


def _compare(before: FloatArray, after: FloatArray, tolerance: float) -> tuple[FloatArray, FloatArray]:
    """Distance and texture `[h, w]` of two dates' unit tokens.

    The distance is the smallest cosine distance when either date's token is displaced by up to ``tolerance``, that is
    mixed with a neighbour. The cosine of a mixture needs inner products of the tokens alone: no displaced copy of the
    features is made. The texture is the smaller of both dates' mean distances between neighbours.
    """
    near = _dot(before, after)
    best = near.copy()
    textures, count = np.zeros((2, *near.shape), np.float32), np.zeros(near.shape, np.float32)
    keep = 1 - tolerance
    for axis in (1, 2):
        if near.shape[axis - 1] < 2:
            continue
        products = _Products.of(before, after, axis)
        for direction in (1, -1):
            inner = slice(None, -1) if direction == 1 else slice(1, None)
            place = (inner,) if axis == 1 else (slice(None), inner)
            crosses = (products.ahead, products.behind) if direction == 1 else (products.behind, products.ahead)
            for cross, own in zip(crosses, (products.second, products.first), strict=True):
                squared = keep**2 + tolerance**2 + 2 * keep * tolerance * own
                mixed = (keep * near[place] + tolerance * cross) / np.sqrt(np.maximum(squared, 1e-6))
                best[place] = np.maximum(best[place], mixed)
            textures[0][place] += 1 - products.first
            textures[1][place] += 1 - products.second
            count[place] += 1
    distance = np.clip(1 - best, 0, 2).astype(np.float32)
    return distance, textures.min(axis=0) / np.maximum(count, 1)


def _dot(first: FloatArray, second: FloatArray) -> FloatArray:
    return np.einsum("dhw,dhw->hw", first, second)
