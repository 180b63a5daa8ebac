"""The change score of a pair as a field of rows: any range of rows on demand, equal to the same rows of the whole."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from rasterio.windows import Window
from threadpoolctl import threadpool_limits

from geodino.change_detection import pooling
from geodino.change_detection.alignment import Pair
from geodino.change_detection.method import TOKEN_MOST, TOKEN_WEIGHT, Method
from geodino.change_detection.null_model import (
    Background,
    LogHistogram,
    Threshold,
    automatic_threshold,
    fit_background,
    log_distance,
)
from geodino.change_detection.spectral import HALO, SpectralModel
from geodino.change_detection.texture import TexturedBackground, TextureHistogram, fit_textured
from geodino.change_detection.token_distance import ROWS, TokenChange, distance_rows
from geodino.dense.store import TokenStore
from geodino.dense.tokens import SceneTokens
from geodino.heads.edge_refinement import RADIUS, apply_lines, guided_lines, token_means
from tiles.scenes.reader import SceneReader
from tiles.scenes.scene import Scene
from tiles.workers import cores, in_order
from tiles.writing.stitch import upsample_rows

FloatArray = NDArray[np.float32]
T = TypeVar("T")

_BLOCK_ROWS = 128
# Blocks the calibration reads at most, spread evenly over the scene; a smaller scene is read whole.
_CALIBRATION_BLOCKS = 16
# Blocks measured at once; each is as wide as the scene.
_THREADS = 4


@dataclass(frozen=True)
class TokenHalf:
    """The deep half: both dates' tokens and how far apart they are.

    Attributes:
        before: tokens of the first date.
        after: tokens of the second date.
        change: the comparison.
        compared: its distances and textures, `[2 x channels]` values a token.
        backgrounds: stable background of each of its channels.
    """

    before: SceneTokens
    after: SceneTokens
    change: TokenChange
    compared: TokenStore
    backgrounds: tuple[TexturedBackground, ...]

    @property
    def patch(self) -> int:
        """Pixels of a token's side."""
        return self.before.pixels

    def scores(self, start: int, stop: int) -> tuple[FloatArray, NDArray[np.bool_]]:
        """Mean deviation over layers and scales `[stop - start, columns]` of token rows, and validity."""
        values, valid = self.compared.read(start, stop)
        logs, textures = log_distance(values.reshape(2, self.change.channels, *values.shape[1:]))
        parts = [
            background.standardise(log, texture)
            for background, log, texture in zip(self.backgrounds, logs, textures, strict=True)
        ]
        return np.where(valid, np.mean(parts, axis=0), 0).astype(np.float32), valid


def token_half(before: SceneTokens, after: SceneTokens, change: TokenChange, folder: Path) -> TokenHalf:
    """Compare the tokens of the whole scene once, keep the distances in ``folder`` and calibrate every channel."""
    histograms = [TextureHistogram() for _ in range(change.channels)]
    rows, columns = before.valid.shape
    compared = TokenStore.open(
        folder, {}, rows=rows, columns=columns, channels=2 * change.channels, dtype=np.float32, restart=True
    )
    for start in range(0, rows, ROWS):
        found, valid = distance_rows(change, before, after, start, min(start + ROWS, rows))
        compared.write(start, found.reshape(-1, *found.shape[2:]), valid)
        logs, textures = log_distance(found)
        for histogram, log, texture in zip(histograms, logs, textures, strict=True):
            histogram.add(log[valid], texture[valid])
    return TokenHalf(before, after, change, compared, tuple(fit_textured(h) for h in histograms))


@dataclass(frozen=True)
class ScoreRows:
    """Consecutive rows of a score.

    Attributes:
        row: first pixel row.
        score: deviations above the stable background, float32 `[n, width]`, NaN where either date is nodata.
    """

    row: int
    score: FloatArray


@dataclass
class ScoreField:
    """The score of one pair.

    Attributes:
        pair: the two dates on one grid.
        method: which halves are read.
        spectral: the spectral half, None when the method does not read it.
        tokens: the deep half, None when the method does not read it.
        objects: pool the score over small image objects.
        spectral_background: stable background of the spectral distance, by texture.
        final: stable background of the combined score.
        histogram: combined scores before their own calibration.
    """

    pair: Pair
    method: Method
    spectral: SpectralModel | None
    tokens: TokenHalf | None
    objects: bool = False
    spectral_background: TexturedBackground | None = None
    final: Background = field(default_factory=lambda: Background(0.0, 1.0))
    histogram: LogHistogram = field(default_factory=LogHistogram)

    def calibrate(self) -> None:
        """Measure the stable background of the spectral half and of the combined score."""
        if self.spectral is not None:
            by_texture = TextureHistogram()
            for logs, textures in self._sampled(self._spectral):
                by_texture.add(logs, textures)
            self.spectral_background = fit_textured(by_texture)
        self.histogram = LogHistogram()
        for logs in self._sampled(self.combined):
            self.histogram.add(logs)
        self.final = fit_background(self.histogram)

    def threshold(self) -> Threshold:
        """The automatic threshold of the calibrated score."""
        spread = self.spectral_background.rest.spread if self.spectral_background is not None else 0.0
        return automatic_threshold(self.histogram, self.final, spread=spread)

    def rows(self) -> Iterator[ScoreRows]:
        """The whole score from top to bottom."""

        def score(readers: "Readers", start: int, stop: int) -> ScoreRows:
            return ScoreRows(start, self.final.standardise(self.combined(readers, start, stop)))

        yield from self.each(score, self.blocks())

    def blocks(self) -> list[tuple[int, int]]:
        """Row ranges that the score is made in, top to bottom."""
        height = self.pair.before.height
        step = _BLOCK_ROWS if self.tokens is None else -(-_BLOCK_ROWS // self.tokens.patch) * self.tokens.patch
        return [(start, min(start + step, height)) for start in range(0, height, step)]

    def _sampled(self, measure: Callable[["Readers", int, int], T]) -> Iterator[T]:
        """What ``measure`` gives for blocks spread evenly over the scene."""
        blocks = self.blocks()
        picked = np.unique(np.linspace(0, len(blocks) - 1, min(_CALIBRATION_BLOCKS, len(blocks))).astype(int))
        yield from self.each(measure, [blocks[number] for number in picked])

    def each(self, measure: Callable[["Readers", int, int], T], blocks: Sequence[tuple[int, int]]) -> Iterator[T]:
        """What ``measure`` gives for each block, in order; blocks are measured side by side."""
        threads = max(1, min(cores(), _THREADS, len(blocks)))
        idle: SimpleQueue[Readers] = SimpleQueue()

        def work(block: tuple[int, int]) -> T:
            readers = idle.get()
            try:
                return measure(readers, *block)
            finally:
                idle.put(readers)

        with contextlib.ExitStack() as stack:
            for _ in range(threads):
                idle.put(stack.enter_context(self.readers()))
            # Products this small gain nothing from threads of their own, which would only wait beside these.
            stack.enter_context(threadpool_limits(1, "blas"))
            yield from in_order(work, blocks, threads=threads, ahead=threads, name="geodino-score")

    def combined(self, readers: "Readers", start: int, stop: int) -> FloatArray:
        """Score before its own calibration, as a log distance `[stop - start, width]`; NaN where nodata."""
        if not self.objects:
            return self._pixelwise(readers, start, stop)
        top, bottom = max(start - pooling.HALO, 0), min(stop + pooling.HALO, self.pair.before.height)
        before, after, valid = readers.read(top, bottom)
        pooled = pooling.pool(self._pixelwise(readers, top, bottom), pooling.image_objects(before, after, valid))
        return pooled[start - top : stop - top]

    def _pixelwise(self, readers: "Readers", start: int, stop: int) -> FloatArray:
        parts = []
        if self.spectral_background is not None:
            parts.append((1.0, self.spectral_background.standardise(*self._spectral(readers, start, stop))))
        if self.tokens is not None:
            deep = self._deep(readers, start, stop)
            parts.append((TOKEN_WEIGHT, np.minimum(deep, TOKEN_MOST)) if parts else (1.0, deep))
        total = np.sqrt(sum(weight**2 for weight, _ in parts))
        return np.asarray(sum(weight * part for weight, part in parts) / total, dtype=np.float32)

    def _spectral(self, readers: "Readers", start: int, stop: int) -> tuple[FloatArray, FloatArray]:
        """Log spectral distance and log texture of pixel rows."""
        assert self.spectral is not None
        before, after, valid = readers.read(start - HALO, stop + HALO, HALO)
        logs = log_distance(self.spectral.measure(before, after, valid, self.pair.jitter)).astype(np.float32)
        return logs[0, HALO:-HALO, HALO:-HALO], logs[1, HALO:-HALO, HALO:-HALO]

    def _deep(self, readers: "Readers", start: int, stop: int) -> FloatArray:
        """Token scores brought to pixels, their borders moved to where the two images differ."""
        assert self.tokens is not None
        patch, (rows, columns) = self.tokens.patch, self.tokens.before.valid.shape
        first, last = start // patch, -(-stop // patch)
        inner_top, inner_bottom = max(first - 1, 0), min(last + 1, rows)
        top, bottom = max(inner_top - RADIUS, 0), min(inner_bottom + RADIUS, rows)
        scores, valid = self.tokens.scores(top, bottom)
        before, after, seen = readers.read(top * patch, bottom * patch, 0, columns * patch)
        guide = difference_guide(before, after)
        slopes, offsets = guided_lines(scores[None], *token_means(guide, seen, patch), valid=valid)
        lines = np.concatenate([slopes[0], offsets])[:, inner_top - top : inner_bottom - top]
        width = self.pair.before.width
        fine = bring_to_pixels(lines, inner_top, patch, start, stop, self.pair.before.height, width)
        at = start - top * patch
        local, here = guide[:, at : at + stop - start, :width], seen[at : at + stop - start, :width]
        score = apply_lines(fine[None, :-1], fine[-1:], local)[0]
        return np.where(here, score, np.nan).astype(np.float32)

    def readers(self) -> "Readers":
        """Both dates, to be opened with ``with``."""
        return Readers(self.pair)


def bring_to_pixels(
    values: FloatArray, first: int, patch: int, start: int, stop: int, height: int, width: int
) -> FloatArray:
    """Pixel rows ``start`` to ``stop`` of token rows ``values`` `[K, h, columns]` that begin at token row ``first``.

    The rows are those of the whole array's bilinear interpolation where ``values`` reaches a token beyond them.
    """
    rows = min((first + values.shape[1]) * patch, height) - first * patch
    fine = np.concatenate([piece for _, piece in upsample_rows([values], patch, rows, width)], axis=1)
    skip = start - first * patch
    return fine[:, skip : skip + stop - start]


def difference_guide(before: FloatArray, after: FloatArray) -> FloatArray:
    """What the borders of a deep score follow: the absolute difference of the dates, mean over bands `[1, H, W]`."""
    return np.abs(before - after).mean(axis=0, keepdims=True)


class Readers:
    """Both dates open for reading, the same bands of each."""

    def __init__(self, pair: Pair) -> None:
        self.width = pair.before.width
        self._scenes: tuple[Scene, Scene] = (pair.before.select(pair.bands), pair.after.select(pair.bands))
        self._open: list[SceneReader] = []

    def __enter__(self) -> "Readers":
        self._open = [SceneReader(scene).__enter__() for scene in self._scenes]
        return self

    def __exit__(self, *error: object) -> None:
        for reader in self._open:
            reader.__exit__(None, None, None)

    def read(
        self, start: int, stop: int, halo: int = 0, width: int | None = None
    ) -> tuple[FloatArray, FloatArray, NDArray[np.bool_]]:
        """Both dates' values `[C, stop - start, width + 2 halo]` and where both are valid."""
        window = Window(-halo, start, (self.width if width is None else width) + 2 * halo, stop - start)
        before, after = (reader.read(window) for reader in self._open)
        return before.values, after.values, before.valid & after.valid
