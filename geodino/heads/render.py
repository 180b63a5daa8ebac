"""Scores on the token grid to a classified raster on the pixel grid, row by row."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rasterio.windows import Window
from threadpoolctl import threadpool_limits

from geodino.dense.tokens import SceneTokens
from geodino.heads.edge_refinement import RADIUS, apply_lines, guided_lines, token_means
from geodino.heads.linear import LinearHead
from geodino.heads.pixel_features import HALO, spectral_features
from geodino.heads.random_features import Waves
from tiles.scenes.band import Pixels
from tiles.scenes.reader import SceneReader
from tiles.scenes.scene import Scene
from tiles.workers import cores, in_order
from tiles.writing.stitch import upsample_rows

FloatArray = NDArray[np.float32]

# Token rows worked on at once; enough to keep the context rows a small share, few enough to stay in the caches.
_ROWS = 16
# Pixel rows classified at once: enough to keep the rows read around them a small share.
_PIXEL_ROWS = 32
# Threads that classify; each holds a piece of the map as wide as the scene.
_THREADS = 4


@dataclass(frozen=True)
class ClassRows:
    """Consecutive rows of a map.

    Attributes:
        row: first pixel row.
        classes: uint8 `[n, width]`, 0 nodata, classes from 1.
        confidence: probability of the class in whole percent, uint8 `[n, width]`, 255 nodata; None where not asked for.
    """

    row: int
    classes: NDArray[np.uint8]
    confidence: NDArray[np.uint8] | None


@dataclass(frozen=True)
class _Read:
    """Rows to classify: lines from colour to score, the guide's colours, and what the head reads of single pixels."""

    row: int
    lines: FloatArray
    seen: Pixels
    own: Pixels | None


def render_classes(
    head: LinearHead,
    waves: Waves,
    tokens: SceneTokens,
    guide: Scene,
    pixels: Scene | None,
    *,
    refine: bool = True,
    confidence: bool = False,
) -> Iterator[ClassRows]:
    """Score, sharpen and classify a scene from top to bottom.

    Args:
        head: the scores.
        waves: what the head reads of a pixel beside its features.
        tokens: the scene's tokens.
        guide: bands whose colours the borders follow; its validity is the map's.
        pixels: bands the head reads at pixel level, None for a head that only reads tokens.
        refine: sharpen the coarse scores with the guide; False interpolates them bilinearly.
        confidence: also say how sure each pixel's class is.
    """
    channels = len(guide.bands) if refine else 0
    lines = _lines(head, tokens, guide, channels)
    classes = head.classes

    if not head.pixel_weight.shape[1]:
        pixels = None

    def classify(read: _Read) -> ClassRows:
        piece, seen, own = read.lines, read.seen, read.own
        slopes = piece[: classes * channels].reshape(classes, channels, *piece.shape[1:])
        offsets = piece[classes * channels : classes * (channels + 1)]
        logits = apply_lines(slopes, offsets, seen.values) if refine else offsets.copy()
        known = seen.valid & (piece[-1] > 1e-3)
        if own is not None:
            logits += waves.logits(head, spectral_features(own)[:, HALO:-HALO, HALO:-HALO])
            known &= own.valid[HALO:-HALO, HALO:-HALO]
        return _decide(read.row, logits, known, confidence)

    with contextlib.ExitStack() as stack:
        guide_reader = stack.enter_context(SceneReader(guide))
        pixel_reader = None if pixels is None else stack.enter_context(SceneReader(pixels))
        same = pixels is not None and pixels.band_names == guide.band_names
        # Products this small gain nothing from threads of their own, which would only wait beside those that classify.
        stack.enter_context(threadpool_limits(1, "blas"))

        def reads() -> Iterator[_Read]:
            for row, piece in _gathered(upsample_rows(lines, tokens.pixels, guide.height, guide.width)):
                own = None
                if pixel_reader is not None:
                    around = Window(-HALO, row - HALO, guide.width + 2 * HALO, piece.shape[1] + 2 * HALO)
                    own = pixel_reader.read(around)
                if own is not None and same:
                    seen = Pixels(own.values[:, HALO:-HALO, HALO:-HALO], own.valid[HALO:-HALO, HALO:-HALO])
                else:
                    seen = guide_reader.read(Window(0, row, guide.width, piece.shape[1]))
                yield _Read(row, piece, seen, own)

        threads = min(cores(), _THREADS)
        yield from in_order(classify, reads(), threads=threads, ahead=threads, name="geodino-classify")


def _gathered(pieces: Iterator[tuple[int, FloatArray]]) -> Iterator[tuple[int, FloatArray]]:
    """Consecutive pieces ``[K, n, width]`` put together to ``_PIXEL_ROWS`` or a little more."""
    parts: list[FloatArray] = []
    first = 0
    for row, piece in pieces:
        first = first if parts else row
        parts.append(piece)
        if row + piece.shape[1] - first >= _PIXEL_ROWS:
            yield first, np.concatenate(parts, axis=1)
            parts = []
    if parts:
        yield first, np.concatenate(parts, axis=1)


def _decide(row: int, logits: FloatArray, known: NDArray[np.bool_], confidence: bool) -> ClassRows:
    best = logits.argmax(axis=0)
    classes = np.where(known, best + 1, 0).astype(np.uint8)
    if not confidence:
        return ClassRows(row, classes, None)
    share = 1 / np.exp(logits - logits.max(axis=0)).sum(axis=0)
    return ClassRows(row, classes, np.where(known, np.round(100 * share), 255).astype(np.uint8))


def _lines(head: LinearHead, tokens: SceneTokens, guide: Scene, channels: int) -> Iterator[FloatArray]:
    """Slopes, offsets and validity `[K C + K + 1, h, columns]` of token rows, top to bottom."""
    rows, columns = tokens.valid.shape
    with SceneReader(guide) as reader:
        for start in range(0, rows, _ROWS):
            stop = min(start + _ROWS, rows)
            top, bottom = max(start - RADIUS, 0), min(stop + RADIUS, rows)
            features, valid = tokens.read(top, bottom)
            logits = head.token_logits(features)
            means, moments = _guide_tokens(reader, top, bottom, columns, tokens.pixels, channels)
            slopes, offsets = guided_lines(logits, means, moments, valid=valid, radius=RADIUS)
            # A token's share of validity carries over to its neighbours' pixels: only pixels out of reach are nodata.
            near = _near(valid)
            whole = np.concatenate([slopes.reshape(-1, *slopes.shape[2:]), offsets, near[None]])
            yield whole[:, start - top : stop - top]


def _near(valid: NDArray[np.bool_]) -> FloatArray:
    """1 where a token or one of its eight neighbours is valid."""
    padded = np.pad(valid, 1)
    height, width = valid.shape
    near = np.zeros_like(valid)
    for down in range(3):
        for right in range(3):
            near |= padded[down : down + height, right : right + width]
    return near.astype(np.float32)


def _guide_tokens(
    reader: SceneReader, top: int, bottom: int, columns: int, patch: int, channels: int
) -> tuple[FloatArray, FloatArray]:
    if channels == 0:
        shape = (bottom - top, columns)
        return np.zeros((0, *shape), np.float32), np.zeros((0, 0, *shape), np.float32)
    seen = reader.read(Window(0, top * patch, columns * patch, (bottom - top) * patch))
    return token_means(seen.values, seen.valid, patch)
