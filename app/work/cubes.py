"""Dense features of a scene in memory, and what a page makes of them within a second: PCA, likeness, classes.

The features come from a job (``geodino features``), once a scene and backbone; everything here is arithmetic on the
token grid. What it makes is a small raster that the tile server enlarges smoothly, a preview of what the commands make
on the pixel grid.
"""

import threading
from collections import OrderedDict
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import rasterio
import zarr
from odc.geo.geobox import GeoBox
from sklearn.decomposition import PCA

from geodino.dense.cube_zarr import VARIABLE
from geodino.heads.labels import Labels
from geodino.heads.legend import Legend
from geodino.heads.linear import BlockScale, LinearHead, fit_logistic, softmax
from geodino.heads.metrics import Agreement, confusion_matrix
from geodino.heads.validation import spatial_blocks, spatial_folds
from tiles.errors import InputError

HELD_BYTES = 4 * 1024**3
FIT_SAMPLE = 20_000  # tokens that a PCA and a scaling are measured on
NOTHING = 255  # nodata of previews in one byte
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
    try:
        group = zarr.open_group(path, mode="r")
        array = group[VARIABLE]
    except (KeyError, FileNotFoundError, ValueError) as error:
        raise InputError(f"{path} is no feature cube; delete it and prepare the scene again.") from error
    channels, height, width = array.shape
    affine = rasterio.Affine(*group.attrs["proj:transform"])
    crs = group["spatial_ref"].attrs["crs_wkt"]
    tokens = np.empty((height * width, channels), dtype=np.float16)
    for top in range(0, height, 64):
        part = np.asarray(array[:, top : top + 64])
        tokens[top * width : top * width + part[0].size] = part.reshape(channels, -1).T
    valid = np.isfinite(tokens[:, 0])
    index = np.full(height * width, -1, dtype=np.int64)
    index[valid] = np.arange(int(valid.sum()))
    kept = tokens if valid.all() else tokens[valid]
    return Cube(kept, index.reshape(height, width), GeoBox((height, width), affine, crs))


def pca(cube: Cube) -> np.ndarray:
    """First three principal components as colours, uint8 ``[3, H, W]`` in 1 … 255; 0 is nodata."""
    sample = cube.sample()
    fitted = PCA(n_components=min(3, *sample.shape), random_state=0).fit(sample)
    scores = cube.product(fitted.components_) - (fitted.components_ @ fitted.mean_)[:, None]
    low, high = np.percentile(scores, (2, 98), axis=1)
    shown = 1 + np.clip((scores - low[:, None]) / np.maximum(high - low, 1e-9)[:, None], 0, 1) * 254
    colors = cube.spread(shown.astype(np.uint8), 0)
    return np.concatenate([colors, np.repeat(colors[:1], 3 - len(colors), axis=0)]) if len(colors) < 3 else colors


def likeness(cube: Cube, more: list[tuple[int, int]], less: list[tuple[int, int]] | None = None) -> np.ndarray:
    """Cosine of every token to some tokens, float32 ``[H, W]``, NaN where nodata.

    Args:
        cube: The features.
        more: Rows and columns of tokens to look like: the likeness to the nearest of them counts.
        less: Tokens to look unlike: the likeness to the nearest of them is taken away.

    Raises:
        InputError: Where a place has no data.
    """

    def nearest(places: list[tuple[int, int]]) -> np.ndarray:
        positions = [cube.index[place] for place in places]
        if min(positions) < 0:
            raise InputError("There is no data at that place; click inside the scene.")
        return cube.product(cube.tokens[positions].astype(np.float32)).max(axis=0)

    score = nearest(more) - (nearest(less) if less else 0)
    return cube.spread(score[None].astype(np.float32), np.nan)[0]


@dataclass(frozen=True)
class LiveMap:
    """A map from examples, on the token grid.

    Attributes:
        probabilities: uint8 ``[K, H, W]``: percent times 2; 255 where nodata.
        confidence: Probability of the winning class in percent, uint8 ``[H, W]``, 255 where nodata.
        names: Names of the classes, in the order of ``probabilities``.
        head: The classifier.
        agreement: Cross-validated agreement; None where examples are too few or too close together.
    """

    probabilities: np.ndarray
    confidence: np.ndarray
    names: tuple[str, ...]
    head: LinearHead
    agreement: Agreement | None


def classify(cube: Cube, labels: Labels) -> LiveMap:
    """Fit a head on labelled tokens and map the whole scene.

    Raises:
        InputError: Where fewer than two classes have examples on valid tokens.
    """
    labels, positions = _inside(cube, labels)
    tokens = cube.tokens[positions].astype(np.float32)
    none = np.zeros((len(tokens), 0), dtype=np.float32)
    sample = cube.sample()
    scales = (BlockScale.of(sample), BlockScale.of(np.zeros((1, 0), dtype=np.float32)))
    head = fit_logistic(tokens, none, labels.classes, scales)
    shares = softmax(cube.product(head.token_weight) + head.bias[:, None])
    best = shares.max(axis=0)
    return LiveMap(
        probabilities=cube.spread(np.rint(shares * 200).astype(np.uint8), NOTHING),
        confidence=cube.spread(np.rint(best * 100).astype(np.uint8)[None], NOTHING)[0],
        names=labels.legend.names,
        head=head,
        agreement=_cross_validated(labels, tokens, none, scales),
    )


def _inside(cube: Cube, labels: Labels) -> tuple[Labels, np.ndarray]:
    """Labels on tokens that have data, and which tokens those are; classes that have none left are dropped."""
    positions = cube.index[labels.rows, labels.cols]
    labels, positions = labels.take(positions >= 0), positions[positions >= 0]
    present = np.unique(labels.classes)
    if len(present) < 2:
        raise InputError("Two classes need examples inside the scene; draw some where the scene has data.")
    legend = Legend(tuple(labels.legend.names[i] for i in present), tuple(labels.legend.colors[i] for i in present))
    return replace(labels, classes=np.searchsorted(present, labels.classes), legend=legend), positions


def _cross_validated(
    labels: Labels, tokens: np.ndarray, none: np.ndarray, scales: tuple[BlockScale, BlockScale]
) -> Agreement | None:
    """Agreement on examples that lie apart from those fitted on."""
    groups = spatial_blocks(labels.rows, labels.cols, labels.objects)
    folds = spatial_folds(labels.classes, groups, 0)
    if not folds:
        return None
    count = len(labels.legend)
    confusion = np.zeros((count, count), dtype=np.int64)
    for train, test in folds:
        head = fit_logistic(tokens[train], none[train], labels.classes[train], scales)
        predicted = head.logits(tokens[test], none[test]).argmax(axis=1)
        confusion += confusion_matrix(labels.classes[test], predicted, count)
    return Agreement(confusion)


def write_preview(path: Path, values: np.ndarray, geobox: GeoBox, nodata: float, names: tuple[str, ...] = ()) -> Path:
    """Write a raster of the token grid for the tile server, under its name in one step.

    Args:
        path: Where; a ``.tif``.
        values: ``[C, H, W]``.
        geobox: The token grid.
        nodata: Value that means nothing.
        names: One a band.
    """
    part = path.with_name(f".{path.name}.part")
    profile = {
        "driver": "GTiff",
        "count": len(values),
        "height": values.shape[1],
        "width": values.shape[2],
        "dtype": values.dtype.name,
        "crs": None if geobox.crs is None else geobox.crs.to_wkt(),
        "transform": geobox.affine,
        "nodata": nodata,
        "tiled": True,
        "blockxsize": 256,
        "blockysize": 256,
        "interleave": "pixel",
    }
    with rasterio.open(part, "w", **profile) as target:
        target.write(values)
        if names:
            target.descriptions = names
    part.replace(path)
    return path
