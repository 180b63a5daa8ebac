"""Dense features of a scene, held in memory: a job (``geodino features``) makes them once a scene and backbone."""

import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from odc.geo.geobox import GeoBox
from pyproj import Transformer

HELD_BYTES = 4 * 1024**3
FIT_SAMPLE = 20_000  # tokens that a PCA and a scaling are measured on
_BLOCK = 1 << 15  # tokens multiplied at once: their float32 copy stays in the processor's cache

_cubes: OrderedDict[str, "Cube"] = OrderedDict()
_lock = threading.Lock()


@dataclass(frozen=True, eq=False)
class Cube:
    """Features of a scene.

    Attributes:
        tokens: ``[N, D]`` float16, unit length; the valid tokens, row by row.
        index: int64 ``[H, W]``: where a token is in ``tokens``, -1 where there is none.
        geobox: The token grid.
    """

    tokens: np.ndarray
    index: np.ndarray
    geobox: GeoBox

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the token grid."""
        return int(self.index.shape[0]), int(self.index.shape[1])

    def spread(self, values: np.ndarray, nothing: float) -> np.ndarray:
        """Values ``[K, N]`` of the valid tokens on the grid, ``[K, H, W]``."""
        grid = np.full((len(values), self.index.size), nothing, dtype=values.dtype)
        grid[:, self.index.ravel() >= 0] = values
        return grid.reshape(len(values), *self.shape)

    def product(self, weights: np.ndarray) -> np.ndarray:
        """``weights [K, D]`` times the tokens: float32 ``[K, N]``."""
        out = np.empty((len(weights), len(self.tokens)), dtype=np.float32)
        turned = weights.astype(np.float32)
        for start in range(0, len(self.tokens), _BLOCK):
            part = self.tokens[start : start + _BLOCK].astype(np.float32)
            np.matmul(turned, part.T, out=out[:, start : start + _BLOCK])
        return out

    def sample(self) -> np.ndarray:
        """Some tokens, evenly spread: float32 ``[n, D]``."""
        step = max(1, len(self.tokens) // FIT_SAMPLE)
        return self.tokens[::step].astype(np.float32)


def open_cube(path: Path) -> Cube:
    """The features in a Zarr store, held in memory for every session.

    Raises:
        InputError: Where it is no feature cube.
    """
    key = f"{path}:{path.stat().st_mtime_ns}"
    with _lock:
        if key in _cubes:
            _cubes.move_to_end(key)
            return _cubes[key]
    cube = _read(path)
    with _lock:
        _cubes[key] = cube
        while len(_cubes) > 1 and sum(one.tokens.nbytes for one in _cubes.values()) > HELD_BYTES:
            _cubes.popitem(last=False)
    return cube


def _read(path: Path) -> Cube:
    from geodino.dense.cube_reader import cube_array  # PyTorch, which no page needs to be drawn

    cube = cube_array(path)
    height, width = cube.geobox.shape
    tokens = np.empty((height * width, cube.channels), dtype=np.float16)
    for top in range(0, height, 64):
        part = cube.rows(top, min(top + 64, height))
        tokens[top * width : top * width + part[0].size] = part.reshape(cube.channels, -1).T
    valid = np.isfinite(tokens[:, 0])
    index = np.full(height * width, -1, dtype=np.int64)
    index[valid] = np.arange(int(valid.sum()))
    kept = tokens if valid.all() else tokens[valid]
    return Cube(kept, index.reshape(height, width), cube.geobox)


def cells_at(geobox: GeoBox, x: np.ndarray, y: np.ndarray, crs: object) -> np.ndarray:
    """Row and column of each place on a grid, int64 ``[N, 2]``; places outside have numbers beyond it.

    Args:
        geobox: The grid.
        x: Eastings or longitudes ``[N]``.
        y: Northings or latitudes ``[N]``.
        crs: What they are coordinates of.
    """
    columns, rows = ~geobox.affine @ Transformer.from_crs(crs, str(geobox.crs), always_xy=True).transform(x, y)
    return np.floor(np.stack([rows, columns], axis=-1)).astype(np.int64)
