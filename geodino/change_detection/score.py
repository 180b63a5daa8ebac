"""The change score of a pair: any range of its rows on demand, equal to the same rows of the whole."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from queue import SimpleQueue
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from rasterio.windows import Window
from threadpoolctl import threadpool_limits

from geodino.change_detection import object_pooling
from geodino.change_detection.alignment import Pair
from geodino.change_detection.null_by_texture import TexturedBackground, TextureHistogram, fit_textured
from geodino.change_detection.null_model import (
    Background,
    LogHistogram,
    Threshold,
    automatic_threshold,
    fit_background,
    log_distance,
)
from geodino.change_detection.spectral_distance import HALO, SpectralModel
from geodino.change_detection.token_score import TokenScore
from geodino.heads.edge_refinement import RADIUS, apply_lines, guided_lines, token_means
from tiles.scenes.reader import SceneReader
from tiles.workers import cores, in_order
from tiles.writing.stitch import upsample_rows

FloatArray = NDArray[np.float32]
T = TypeVar("T")

# Weight of the tokens' score against the bands' in a fused one, and the deviations it counts at most: what one stable
# token in a thousand exceeds. A token covers many pixels and carries what lies around it, so it must not decide alone
# (docs/results.md, Windows).
_TOKEN_WEIGHT = 0.5
_TOKEN_MOST = 3.1
_BLOCK_ROWS = 128
# Blocks the calibration reads at most, spread evenly over the scene; a smaller scene is read whole.
_CALIBRATION_BLOCKS = 16
# Blocks measured at once; each is as wide as the scene.
_THREADS = 4


class Readers:
    """Pairs open for reading, each scene once, whichever pairs it belongs to."""

    def __init__(self, pairs: Iterable[Pair]) -> None:
        scenes = {(id(scene), pair.bands): scene for pair in pairs for scene in (pair.before, pair.after)}
        self._open = {key: SceneReader(scene.select(key[1])) for key, scene in scenes.items()}

    def __enter__(self) -> "Readers":
        with contextlib.ExitStack() as stack:
            for reader in self._open.values():
                stack.enter_context(reader)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def read(
        self, pair: Pair, start: int, stop: int, halo: int = 0, width: int | None = None
    ) -> tuple[FloatArray, FloatArray, NDArray[np.bool_]]:
        """Both dates' values `[C, stop - start, width + 2 halo]` and where both are valid."""
        window = Window(-halo, start, (pair.before.width if width is None else width) + 2 * halo, stop - start)
        before, after = (self._open[id(scene), pair.bands].read(window) for scene in (pair.before, pair.after))
        return before.values, after.values, before.valid & after.valid


Measure = Callable[[Readers, int, int], T]


def each_block(measure: Measure[T], blocks: Sequence[tuple[int, int]], pairs: Iterable[Pair]) -> Iterator[T]:
    """What ``measure`` reads of pairs for each range of pixel rows, in order; several are measured side by side."""
    pairs = list(pairs)
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
            idle.put(stack.enter_context(Readers(pairs)))
        # Products this small gain nothing from threads of their own, which would only wait beside these.
        stack.enter_context(threadpool_limits(1, "blas"))
        yield from in_order(work, blocks, threads=threads, ahead=threads, name="geodino-score")


@dataclass(frozen=True)
class ScoreRows:
    """Consecutive rows of a score.

    Attributes:
        row: first pixel row.
        score: deviations above the stable background, float32 `[n, width]`, NaN where either date is nodata.
    """

    row: int
    score: FloatArray


@dataclass(frozen=True)
class PairScore:
    """The score of one pair.

    Attributes:
        pair: the two dates on one grid.
        spectral: comparison of the bands, None where they are not compared.
        tokens: comparison of the tokens, None where they are not compared.
        objects: pool the score over small image objects.
        spectral_background: stable background of the spectral distance, by texture.
        final: stable background of the combined score.
        histogram: combined scores before their own calibration.
    """

    pair: Pair
    spectral: SpectralModel | None
    tokens: TokenScore | None
    objects: bool = False
    spectral_background: TexturedBackground | None = None
    final: Background = field(default_factory=lambda: Background(0.0, 1.0))
    histogram: LogHistogram = field(default_factory=LogHistogram)

    def calibrated(self) -> "PairScore":
        """The same score with the stable background of its bands and of what is combined measured."""
        score = self
        if self.spectral is not None:
            by_texture = TextureHistogram()
            for logs, textures in self._sampled(self._spectral_logs):
                by_texture.add(logs, textures)
            score = replace(self, spectral_background=fit_textured(by_texture))
        histogram = LogHistogram()
        for logs in self._sampled(score.combined):
            histogram.add(logs)
        return replace(score, histogram=histogram, final=fit_background(histogram))

    def threshold(self) -> Threshold:
        """The automatic threshold of the calibrated score."""
        spread = self.spectral_background.rest.spread if self.spectral_background is not None else 0.0
        return automatic_threshold(self.histogram, self.final, spread=spread)

    def rows(self) -> Iterator[ScoreRows]:
        """The whole score from top to bottom."""

        def score(readers: Readers, start: int, stop: int) -> ScoreRows:
            return ScoreRows(start, self.read(readers, start, stop))

        return each_block(score, self.blocks(), [self.pair])

    def read(self, readers: Readers, start: int, stop: int) -> FloatArray:
        """Deviations above the stable background `[stop - start, width]`; NaN where nodata."""
        return self.final.standardise(self.combined(readers, start, stop))

    def blocks(self) -> list[tuple[int, int]]:
        """Row ranges that the score is made in, top to bottom."""
        height = self.pair.before.height
        step = _BLOCK_ROWS if self.tokens is None else -(-_BLOCK_ROWS // self.tokens.patch) * self.tokens.patch
        return [(start, min(start + step, height)) for start in range(0, height, step)]

    def _sampled(self, measure: Measure[T]) -> Iterator[T]:
        """What ``measure`` gives for blocks spread evenly over the scene."""
        blocks = self.blocks()
        picked = np.unique(np.linspace(0, len(blocks) - 1, min(_CALIBRATION_BLOCKS, len(blocks))).astype(int))
        return each_block(measure, [blocks[number] for number in picked], [self.pair])

    def combined(self, readers: Readers, start: int, stop: int) -> FloatArray:
        """Score before its own calibration, as a log distance `[stop - start, width]`; NaN where nodata."""
        if not self.objects:
            return self._pixelwise(readers, start, stop)
        top, bottom = max(start - object_pooling.HALO, 0), min(stop + object_pooling.HALO, self.pair.before.height)
        objects = object_pooling.image_objects(*readers.read(self.pair, top, bottom), row=top)
        return object_pooling.pool(self._pixelwise(readers, top, bottom), objects)[start - top : stop - top]

    def _pixelwise(self, readers: Readers, start: int, stop: int) -> FloatArray:
        parts = []
        if self.spectral_background is not None:
            parts.append((1.0, self.spectral_background.standardise(*self._spectral_logs(readers, start, stop))))
        if self.tokens is not None:
            score = self._token_score(self.tokens, readers, start, stop)
            parts.append((_TOKEN_WEIGHT, np.minimum(score, _TOKEN_MOST)) if parts else (1.0, score))
        total = np.sqrt(sum(weight**2 for weight, _ in parts))
        return np.asarray(sum(weight * part for weight, part in parts) / total, dtype=np.float32)

    def _spectral_logs(self, readers: Readers, start: int, stop: int) -> tuple[FloatArray, FloatArray]:
        """Log spectral distance and log texture of pixel rows."""
        assert self.spectral is not None
        before, after, valid = readers.read(self.pair, start - HALO, stop + HALO, HALO)
        logs = log_distance(self.spectral.measure(before, after, valid, self.pair.jitter)).astype(np.float32)
        return logs[0, HALO:-HALO, HALO:-HALO], logs[1, HALO:-HALO, HALO:-HALO]

    def _token_score(self, tokens: TokenScore, readers: Readers, start: int, stop: int) -> FloatArray:
        """Token scores brought to pixels, their borders moved to where the two images differ."""
        patch, (rows, columns) = tokens.patch, tokens.before.valid.shape
        first, last = start // patch, -(-stop // patch)
        inner_top, inner_bottom = max(first - 1, 0), min(last + 1, rows)
        top, bottom = max(inner_top - RADIUS, 0), min(inner_bottom + RADIUS, rows)
        scores, valid = tokens.rows(top, bottom)
        before, after, seen = readers.read(self.pair, top * patch, bottom * patch, 0, columns * patch)
        guide = difference_guide(before, after)
        slopes, offsets = guided_lines(scores[None], *token_means(guide, seen, patch), valid=valid)
        lines = np.concatenate([slopes[0], offsets])[:, inner_top - top : inner_bottom - top]
        width = self.pair.before.width
        fine = bring_to_pixels(lines, inner_top, patch, start, stop, self.pair.before.height, width)
        at = start - top * patch
        seen &= np.repeat(np.repeat(valid, patch, axis=0), patch, axis=1)
        local, here = guide[:, at : at + stop - start, :width], seen[at : at + stop - start, :width]
        score = apply_lines(fine[None, :-1], fine[-1:], local)[0]
        return np.where(here, score, np.nan).astype(np.float32)


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
