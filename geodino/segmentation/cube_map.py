"""A map straight from a feature cube: labels in, classes out, no backbone and no pixels read.

The quick answer while labels are still being placed. Interpolated scores are convex combinations of their four tokens'
scores: where the four agree on the class, so does every pixel between them, and only the other cells are worked out.
The result is exactly that of interpolating every pixel.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import rasterio
import torch
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from geodino.dense.cube import VARIABLE, open_cube
from geodino.heads.balance import fit_head
from geodino.heads.labels import Labels
from geodino.heads.legend import Legend
from geodino.heads.linear import BlockScale, LinearHead
from geodino.segmentation.pipeline import SegmentationResult
from tiles.errors import InputError
from tiles.writing.cog import CogWriter, MapClass
from tiles.writing.stitch import upsample_rows

FloatArray = NDArray[np.float32]

_SCALE_SAMPLE = 5_000
# Cells worked out at once: their scores stay within the processor's cache.
_CELLS = 2048
# Token rows of a strip, which is classified and handed to the writer before the next.
_ROWS = 32


def segment_cube(
    cube: Path, geobox: GeoBox, labels: Labels, output: Path, *, overwrite: bool = False
) -> tuple[LinearHead, Legend]:
    """Train on labels and map the scene a cube was made of.

    Args:
        cube: what ``geodino features`` wrote.
        geobox: the scene's pixel grid.
        labels: labelled pixels on that grid.
        output: the map: uint8, 0 nodata (tokens without features), classes from 1.
        overwrite: replace an existing file.

    Returns:
        The head and its classes.

    Raises:
        InputError: the cube is not of this grid, or a class has no label on features.
    """
    features, valid, transform = _read(cube)
    patch = _patch_of(cube, transform, geobox, valid.shape)
    tokens, known = _interpolate(features, valid, labels, patch)
    classes = labels.classes[known]
    gone = [name for index, name in enumerate(labels.legend.names) if not (classes == index).any()]
    if gone:
        raise InputError(f"every label of {', '.join(gone)} lies where {cube} has no features; give labels elsewhere")
    rows, columns = np.nonzero(valid)
    step = max(1, len(rows) // _SCALE_SAMPLE)
    sample = features[:, rows[::step], columns[::step]].T.astype(np.float32)
    nothing = np.zeros((int(known.sum()), 0), np.float32)
    scales = (BlockScale.of(sample), BlockScale(np.zeros(0, np.float32), np.ones(0, np.float32)))
    parts = (tokens[known], nothing, classes, scales)
    head = fit_head(*parts)
    logits = _logits(head, features)
    legend = labels.legend
    listed = [MapClass(i + 1, n, c) for i, (n, c) in enumerate(zip(legend.names, legend.colors, strict=True))]
    height, width = (int(side) for side in geobox.shape)
    with (
        rasterio.Env(GDAL_NUM_THREADS="ALL_CPUS"),
        CogWriter(
            output, geobox, dtype="uint8", nodata=0, classes=listed, resampling="nearest", descriptions=("class",),
            tags={"GEODINO_CUBE_SOURCE": cube.name}, overwrite=overwrite,
        ) as writer,
    ):  # fmt: skip
        for row, strip in classify_pixels(logits, valid, patch, height, width):
            writer.write(row, strip[None])
    return head, legend


def map_cube(
    cube: Path, geobox: GeoBox, labels: Labels, output: Path, *, overwrite: bool = False
) -> SegmentationResult:
    """`segment_cube` with the result that `segment` gives."""
    _, legend = segment_cube(cube, geobox, labels, output, overwrite=overwrite)
    with rasterio.open(output) as file:
        # The coarsest overview is enough to say how much of the map each class takes.
        levels = file.overviews(1)
        shape = (-(-file.height // levels[-1]), -(-file.width // levels[-1])) if levels else file.shape
        counts = np.bincount(file.read(1, out_shape=shape).ravel(), minlength=256)[1 : len(legend) + 1]
    shares = tuple(float(count / max(counts.sum(), 1)) for count in counts)
    note = "made from the cube alone: no refined borders, nodata by token"
    return SegmentationResult(output, legend, None, (*labels.notes, note), shares)


def classify_pixels(
    logits: FloatArray, valid: NDArray[np.bool_], patch: int, height: int, width: int
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Class of every pixel, from 1, by bilinear interpolation of token scores; 0 under invalid tokens.

    Args:
        logits: scores `[K, h, w]`.
        valid: tokens `[h, w]`.
        patch: pixels of a token's side.
        height: pixel rows.
        width: pixel columns.

    Yields:
        First row and classes `[n, width]`, from top to bottom.
    """
    strips: Iterable[tuple[int, NDArray[np.uint8]]]
    if patch % 2:
        strips = (
            (row, piece.argmax(axis=0).astype(np.uint8) + np.uint8(1))
            for row, piece in upsample_rows([logits], patch, height, width)
        )
    else:
        strips = _cell_strips(logits, patch, height, width)
    whole = bool(valid.all())
    for row, classes in strips:
        if not whole:
            tokens = np.arange(row, row + len(classes)) // patch
            classes = np.where(np.repeat(valid, patch, axis=1)[tokens, :width], classes, np.uint8(0))
        yield row, classes


def _cell_strips(logits: FloatArray, patch: int, height: int, width: int) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Strips of classes; cells lie between token centres, so the first begins half a token above the raster."""
    padded = np.pad(logits, ((0, 0), (1, 1), (1, 1)), mode="edge")
    half = patch // 2
    for start in range(0, padded.shape[1] - 1, _ROWS):
        cells = _classify_cells(padded[:, start : start + _ROWS + 1], patch)
        top = start * patch - half
        first, last = max(top, 0), min(top + len(cells), height)
        if first < last:
            yield first, cells[first - top : last - top, half : half + width]


def _classify_cells(padded: FloatArray, patch: int) -> NDArray[np.uint8]:
    """Classes from 1 of the pixels of every cell between four neighbouring scores `[K, h, w]`."""
    winner = padded.argmax(axis=0).astype(np.uint8) + np.uint8(1)
    corners = (winner[:-1, :-1], winner[:-1, 1:], winner[1:, :-1], winner[1:, 1:])
    agree = (corners[0] == corners[1]) & (corners[0] == corners[2]) & (corners[0] == corners[3])
    classes = np.repeat(np.repeat(corners[0], patch, axis=0), patch, axis=1)
    share = (np.arange(patch, dtype=np.float32) + 0.5) / patch
    down, right = share[:, None], share[None]
    weights = np.stack([(1 - down) * (1 - right), (1 - down) * right, down * (1 - right), down * right])
    cells = classes.reshape(agree.shape[0], patch, agree.shape[1], patch)
    row, column = np.nonzero(~agree)
    for start in range(0, len(row), _CELLS):
        r, c = row[start : start + _CELLS], column[start : start + _CELLS]
        around = np.stack([padded[:, r, c], padded[:, r, c + 1], padded[:, r + 1, c], padded[:, r + 1, c + 1]], axis=-1)
        scores = around @ weights.reshape(4, -1)
        cells[r, :, c, :] = (scores.argmax(axis=0).astype(np.uint8) + np.uint8(1)).reshape(-1, patch, patch)
    return classes


def _read(cube: Path) -> tuple[NDArray[np.float16], NDArray[np.bool_], Affine]:
    """Features `[D, h, w]` in half precision, 0 where invalid, their validity, and the grid's transform."""
    opened = open_cube(cube)
    transform = opened.rio.transform()
    if cube.suffix == ".zarr":
        import zarr

        # As they lie on disk: through xarray every value would be widened to float32 and narrowed again.
        features = np.asarray(zarr.open_group(cube, mode="r")[VARIABLE][:]).astype(np.float16, copy=False)
    else:
        features = opened.astype(np.float16).to_numpy()
    valid = ~np.isnan(features[0])
    if not valid.all():
        features = np.where(valid, features, np.float16(0))
    return features, valid, transform


def _patch_of(cube: Path, transform: Affine, geobox: GeoBox, shape: tuple[int, ...]) -> int:
    """Pixels of a token's side, checked against the scene's grid."""
    ratio = (~geobox.affine) @ transform
    patch = round(ratio.a)
    rows, columns = -(-int(geobox.shape[0]) // max(patch, 1)), -(-int(geobox.shape[1]) // max(patch, 1))
    if patch < 1 or (rows, columns) != shape or max(abs(ratio.c), abs(ratio.f)) > 0.01:
        raise InputError(f"{cube} was not made of this scene: its grid is another one")
    return patch


def _interpolate(
    features: NDArray[np.float16], valid: NDArray[np.bool_], labels: Labels, patch: int
) -> tuple[FloatArray, NDArray[np.bool_]]:
    height, width = valid.shape
    row = np.maximum((labels.rows + 0.5) / patch - 0.5, 0)
    col = np.maximum((labels.cols + 0.5) / patch - 0.5, 0)
    top, left = row.astype(np.int64), col.astype(np.int64)
    found = np.zeros((len(labels), len(features)), np.float32)
    total = np.zeros(len(labels), np.float32)
    for down in (0, 1):
        for right in (0, 1):
            r, c = np.minimum(top + down, height - 1), np.minimum(left + right, width - 1)
            weight = np.abs(1 - down - (row - top)) * np.abs(1 - right - (col - left)) * valid[r, c]
            found += weight[:, None].astype(np.float32) * features[:, r, c].T.astype(np.float32)
            total += weight.astype(np.float32)
    known = total > 1e-6
    found[known] /= total[known, None]
    return found, known


def _logits(head: LinearHead, features: NDArray[np.float16]) -> FloatArray:
    """Scores `[K, h, w]`, a few rows at a time: the float32 copy of the cube is never whole."""
    scores = np.empty((head.classes, *features.shape[1:]), np.float32)
    for start in range(0, features.shape[1], _ROWS):
        # torch widens half precision several times faster than numpy.
        part = torch.from_numpy(np.ascontiguousarray(features[:, start : start + _ROWS])).float().numpy()
        scores[:, start : start + _ROWS] = head.token_logits(part)
    return scores
