"""Dense features of a scene of any size: overlapping windows through a backbone, blended as a stream of token rows.

Three stages run at once: reader threads decode and standardise windows ahead of the model; other threads run batches
through the model; the caller's thread blends and consumes. What is held is a band of token rows as high as one window,
so memory depends on the scene's width and not on its height.

Windows are numbered row by row over the whole scene and grouped into batches by that number alone. A range of rows
runs the same batches as the whole scene does, hence gives the same bytes: that is what makes exact resumption and
spreading over machines possible.
"""

import threading
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, nullcontext
from dataclasses import dataclass
from queue import SimpleQueue

import numpy as np
import rasterio
import torch
from rasterio.windows import Window
from torch import Tensor
from torch.nn import functional

from geodino.backbones.backbone import Backbone
from geodino.backbones.normalize import Normalization, standardize
from geodino.dense.settings import WINDOW, DenseSettings
from geodino.dense.token_grid import TokenGrid
from tiles.errors import InputError
from tiles.scenes.reader import SceneReader
from tiles.scenes.scene import Scene
from tiles.workers import in_order
from tiles.writing.stitch import Axis, BoolArray, FloatArray, MaskBand, RowBand

# Windows of the largest size read in one go: neighbours share their halo's pixels and blocks, and large reads decode
# faster.
_STRIP = 4
# Batches at once on a processor, which share its threads; each holds its activations.
_CPU_THREADS = 4


@dataclass(frozen=True)
class TokenRows:
    """Consecutive token rows of a scene.

    Attributes:
        row: First token row.
        features: float32 ``[D, h, Wt]``, unit length along ``D``; zeros where not valid.
        valid: bool ``[h, Wt]``.
        pixels: Validity of the pixels under these tokens, bool ``[n, width]``, from pixel row ``row * grid.pixels`` on
            and cut at the scene's last row.
    """

    row: int
    features: FloatArray
    valid: BoolArray
    pixels: BoolArray


@dataclass(frozen=True)
class _Read:
    """One window as the model takes it, at the scene's own pixel size."""

    number: tuple[int, int]
    values: FloatArray  # [C, h, w] standardised
    tokens: BoolArray
    pixels: BoolArray


def token_grid(scene: Scene, backbone: Backbone, settings: DenseSettings) -> TokenGrid:
    """Grid of the tokens that ``stream_tokens`` yields.

    Raises:
        InputError: When the patch cannot be divided by ``settings.upscale``.
    """
    if backbone.patch_size % settings.upscale:
        raise InputError(
            f"patches of {backbone.patch_size} pixels ({backbone.name}) cannot be divided by {settings.upscale}"
        )
    return TokenGrid(scene.height, scene.width, backbone.patch_size // settings.upscale)


def feature_dim(backbone: Backbone, settings: DenseSettings) -> int:
    """Channels ``D`` of the features: the backbone's width times the number of layers."""
    return backbone.embed_dim * max(1, len(settings.layers))


def encode_unit(backbone: Backbone, x: Tensor, settings: DenseSettings) -> Tensor:
    """Encode a batch into features of unit length.

    Args:
        backbone: The model.
        x: Standardised values ``[B, C, H, W]`` at the scene's pixel size.
        settings: Enlargement and layers. Several layers are each brought to unit length and concatenated, so that none
            outweighs another.

    Returns:
        float32 ``[B, D, h, w]`` on the backbone's device, unit length along ``D``.
    """
    x = x.to(backbone.device, non_blocking=True)
    if settings.upscale > 1:
        x = functional.interpolate(x, scale_factor=settings.upscale, mode="bilinear", align_corners=False)
    if not settings.layers:
        return functional.normalize(backbone.encode(x).patches, dim=1)
    layers = backbone.encode_layers(x, settings.layers)
    parts = [functional.normalize(layer.patches, dim=1) for layer in layers]
    return torch.cat(parts, dim=1) / len(parts) ** 0.5


class _Plan:
    """Where the windows of a scene lie, and which of them a range of token rows needs."""

    def __init__(self, grid: TokenGrid, settings: DenseSettings, rows: range) -> None:
        self.grid = grid
        self.rows = rows
        assert settings.window is not None and settings.halo is not None, "settings are resolved"
        self.down = Axis(grid.rows, settings.window, 2 * settings.halo)
        self.across = Axis(grid.columns, settings.window, 2 * settings.halo)
        self.needed = self.down.touching(rows.start, rows.stop)
        columns, batch = len(self.across.starts), settings.batch_size or 1
        first = self.needed.start * columns // batch * batch
        last = -(-self.needed.stop * columns // batch) * batch
        numbers = range(first, min(last, len(self.down.starts) * columns))
        self.windows = [divmod(number, columns) for number in numbers]
        self.batches = [self.windows[i : i + batch] for i in range(0, len(self.windows), batch)]
        self.strip = max(_STRIP, _STRIP * WINDOW // settings.window)

    def strips(self) -> Iterator[list[tuple[int, int]]]:
        """Windows that are read together: neighbours of one window row."""
        strip: list[tuple[int, int]] = []
        for row, column in self.windows:
            if strip and (strip[0][0] != row or column % self.strip == 0):
                yield strip
                strip = []
            strip.append((row, column))
        yield strip

    def cells(self, number: tuple[int, int]) -> tuple[int, int]:
        """First token row and column of a window."""
        return self.down.starts[number[0]], self.across.starts[number[1]]


class _Readers:
    """Reader threads, each with its own file handles; strips of one column go to one thread, whose cache has them."""

    def __init__(self, scene: Scene, plan: _Plan, normalization: Normalization, settings: DenseSettings) -> None:
        self.scene, self.plan, self.normalization, self.min_valid = scene, plan, normalization, settings.min_valid
        self.stack = ExitStack()
        self.local = threading.local()
        self.pools = [
            self.stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix="geodino-read"))
            for _ in range(max(1, settings.readers))
        ]
        self.ahead = len(self.pools) + -(-2 * (settings.batch_size or 1) // plan.strip)

    def _reader(self) -> SceneReader:
        if not hasattr(self.local, "reader"):
            # GDAL's block cache is one for the process and would grow to a share of the machine's memory: two window
            # rows of source blocks are all that is ever read twice.
            rows = 2 * self.plan.down.size * self.plan.grid.pixels + self.scene.block_shape[0]
            row_bytes = self.scene.width * sum(np.dtype(band.dtype).itemsize for band in self.scene.bands)
            stack = ExitStack()
            stack.enter_context(rasterio.Env(GDAL_CACHEMAX=max(16 << 20, rows * row_bytes)))
            self.local.stack, self.local.reader = stack, stack.enter_context(SceneReader(self.scene))
        return self.local.reader

    def _close(self) -> None:
        if hasattr(self.local, "stack"):
            self.local.stack.close()

    def _read(self, strip: Sequence[tuple[int, int]]) -> list[_Read]:
        grid, n = self.plan.grid, self.plan.grid.pixels
        row, left = self.plan.cells(strip[0])
        down, across = self.plan.down.size, self.plan.across.size
        right = self.plan.cells(strip[-1])[1] + across
        top, bottom = grid.pixel_rows(row, row + down)
        inside = Window(left * n, top, min(right * n, grid.width) - left * n, bottom - top)
        pixels = self._reader().read(inside)
        tokens = grid.valid_tokens(pixels.valid, row, left, self.min_valid)
        values = standardize(pixels.values, None if pixels.valid.all() else pixels.valid, self.normalization)
        # The last tokens reach beyond the scene by less than a patch: its last pixels are repeated there.
        beyond = (down * n - values.shape[1], (right - left) * n - values.shape[2])
        if any(beyond):
            values = np.pad(values, ((0, 0), (0, beyond[0]), (0, beyond[1])), mode="edge")
        found = []
        for number in strip:
            at = self.plan.cells(number)[1] - left
            columns = slice(at * n, (at + across) * n)
            found.append(_Read(number, values[:, :, columns], tokens[:, at : at + across], pixels.valid[:, columns]))
        return found

    def __iter__(self) -> Iterator[_Read]:
        waiting: deque[Future[list[_Read]]] = deque()
        for strip in self.plan.strips():
            row, column = strip[0]
            # A narrow scene has one strip a row: its rows take turns, or one thread would read them all.
            turn = row if len(self.plan.across.starts) <= self.plan.strip else column // self.plan.strip
            waiting.append(self.pools[turn % len(self.pools)].submit(self._read, strip))
            if len(waiting) > self.ahead:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()

    def close(self) -> None:
        for pool in self.pools:
            pool.submit(self._close)
        self.stack.close()


def _encoded(
    readers: _Readers, plan: _Plan, backbone: Backbone, settings: DenseSettings
) -> Generator[tuple[list[_Read], FloatArray | None], None, None]:
    """Batches in order with their features, None where no token of a batch is valid."""
    processor = backbone.device.type == "cpu"
    # On a processor each batch has a share of the threads: work of this size is done sooner side by side than each
    # part of it spread over all cores. On a GPU one batch is computed while the one before is copied back.
    allowed = torch.get_num_threads()
    threads = min(allowed, _CPU_THREADS) if processor else 2
    shares: SimpleQueue[int] = SimpleQueue()
    for number in range(threads):
        shares.put(allowed // threads + (number < allowed % threads))
    one_at_a_time = nullcontext() if processor else threading.Lock()

    def begin() -> None:
        if processor:
            _use_threads(shares.get(), allowed)

    def encode(reads: list[_Read]) -> tuple[list[_Read], FloatArray | None]:
        if not any(read.tokens.any() for read in reads):
            return reads, None
        x = torch.from_numpy(np.stack([read.values for read in reads]))
        try:
            with one_at_a_time:
                features = encode_unit(backbone, x, settings)
            return reads, features.cpu().numpy()
        except torch.OutOfMemoryError:
            raise InputError(
                f"{backbone.device} has no memory left for {len(reads)} windows of {readers.scene.source} at once; end "
                "what else runs there, or take a smaller --batch-size"
            ) from None

    source = iter(readers)
    batches = ([next(source) for _ in batch] for batch in plan.batches)
    yield from in_order(encode, batches, threads=threads, ahead=threads, name="geodino-model", begin=begin)


def _use_threads(share: int, otherwise: int) -> None:
    """Let PyTorch's operations in this thread use ``share`` threads, and ``otherwise`` in threads yet to come.

    PyTorch has one call for both, which sets the calling thread and the default.
    """
    torch.get_num_threads()  # a new thread takes the default when first asked: now, and not after what follows
    torch.set_num_threads(share)
    other = threading.Thread(target=torch.set_num_threads, args=(otherwise,))
    other.start()
    other.join()


def stream_tokens(
    scene: Scene, backbone: Backbone, settings: DenseSettings | None = None, *, rows: range | None = None
) -> Generator[TokenRows, None, None]:
    """Stream the dense features of a scene from top to bottom.

    Args:
        scene: Any scene that has the backbone's bands.
        backbone: The model.
        settings: How windows are laid.
        rows: Token rows wanted; None for all. A range gives exactly the values that the whole scene has there.

    Yields:
        Every wanted token row once, in order, several at a time.

    Raises:
        InputError: The scene lacks a band of the backbone, a file turns out damaged, or the GPU has no memory for a
            batch; the sentence names it.
        ValueError: ``rows`` is not a range of the grid's rows.
    """
    settings = (settings or DenseSettings()).resolved(backbone)
    scene = scene.select(backbone.bands)
    grid = token_grid(scene, backbone, settings)
    rows = range(grid.rows) if rows is None else rows
    if rows.step != 1 or not 0 <= rows.start < rows.stop <= grid.rows:
        raise ValueError(f"{rows} are not rows of a grid of {grid.rows}")
    plan = _Plan(grid, settings, rows)
    with (
        closing(_Readers(scene, plan, backbone.normalization, settings)) as readers,
        closing(_encoded(readers, plan, backbone, settings)) as batches,
    ):
        yield from _blend(plan, feature_dim(backbone, settings), batches)


def _blend(plan: _Plan, channels: int, batches: Iterator[tuple[list[_Read], FloatArray | None]]) -> Iterator[TokenRows]:
    grid, down, across = plan.grid, plan.down, plan.across
    first = down.starts[plan.needed.start]
    sums = RowBand(channels, grid.columns, down.size, first)
    tokens = MaskBand(grid.columns, down.size, first)
    pixels = MaskBand(grid.width, down.size * grid.pixels, first * grid.pixels)
    for reads, encoded in batches:
        for i, read in enumerate(reads):
            row, column = read.number
            if row not in plan.needed:  # here only to complete its batch
                continue
            top, left = plan.cells(read.number)
            if encoded is not None:
                sums.add(top, left, encoded[i], (down.weights[row], across.weights[column]))
            tokens.add(top, left, read.tokens)
            pixels.add(top * grid.pixels, left * grid.pixels, read.pixels)
            if column == len(across.starts) - 1:
                ready = down.settled(row)
                done = _rows(sums, tokens, pixels, ready, plan)
                if done is not None:
                    yield done


def _rows(sums: RowBand, tokens: MaskBand, pixels: MaskBand, ready: int, plan: _Plan) -> TokenRows | None:
    """Take the rows that no later window touches; None when none of them is wanted."""
    start = sums.start
    features, valid = sums.take(ready), tokens.take(ready)
    mask = pixels.take(plan.grid.pixel_rows(ready - 1, ready)[1])
    low, high = max(plan.rows.start, start), min(plan.rows.stop, ready)
    if low >= high:
        return None
    wanted = slice(low - start, high - start)
    above, below = plan.grid.pixel_rows(low, high)
    features, valid = features[:, wanted], valid[wanted]
    length = np.sqrt(np.einsum("dhw,dhw->hw", features, features))
    features *= (valid / np.maximum(length, 1e-12)).astype(np.float32)
    skip = start * plan.grid.pixels
    return TokenRows(low, features, valid, mask[above - skip : below - skip])
