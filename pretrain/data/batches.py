"""Batches of crops and masks, prepared by threads while the last step computes.

A batch is cut into chunks of consecutive samples, and each chunk draws from a generator of its own that depends on
seed, step and the chunk's place in the whole batch. So the same crops come out whatever the number of threads, and
whichever rank or micro-batch a chunk falls to, as long as each of these takes whole chunks of 16 samples.
"""

import math
import time
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import count
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from geodino.backbones.normalize import Normalization
from pretrain.data.crops import Crops, make_crops
from pretrain.data.masking import block_masks, valid_tokens
from pretrain.data.sampling import share, step_indices, stream_seed
from pretrain.recipes.recipe import Recipe
from tiles.workers import in_order

# A crop that shows less valid ground than this says nothing about the image.
MIN_VALID_SHARE = 0.25
# Large enough to make the overhead of small tensor operations vanish, small enough to spread a batch over threads.
CHUNK = 16


class Tiles(Protocol):
    """What training needs of a tile set."""

    @property
    def bands(self) -> tuple[str, ...]:
        """Names of the bands, in order."""

    def __len__(self) -> int: ...

    def read_batch(self, indices: np.ndarray) -> "UnitBatch":
        """Read tiles in [0, 1]."""


class UnitBatch(Protocol):
    """Tiles in [0, 1]: values float32 ``[N, C, H, W]``, valid bool ``[N, H, W]``, gsd_m float32 ``[N]``."""

    @property
    def values(self) -> np.ndarray:
        """Values in [0, 1], 0 where invalid."""

    @property
    def valid(self) -> np.ndarray:
        """Pixels with data."""

    @property
    def gsd_m(self) -> np.ndarray:
        """Metres a pixel."""


@dataclass(frozen=True)
class Batch:
    """One micro-batch of B images on one rank.

    Attributes:
        globals_: G tensors ``[B, C, S, S]`` standardised.
        locals_: L tensors ``[B, C, s, s]``.
        grams: G undistorted tensors ``[B, C, S', S']``; empty without Gram anchoring.
        masks: ``[G*B, P]`` bool, True where the student sees the mask token; None without masks.
        masked: ``[M]`` int64, flat indices of the masked tokens.
        mask_weights: ``[M]`` float32, 1 / (masked tokens of the image).
        valid: ``[G*B, P]`` bool, tokens that show valid ground.
        global_weights: ``[G, B]`` float32, 0 where the crop shows too little valid ground.
        local_weights: ``[L, B]`` likewise.
        all_valid: Whether no weight is 0 and no token invalid.
    """

    globals_: tuple[Tensor, ...]
    locals_: tuple[Tensor, ...]
    grams: tuple[Tensor, ...]
    masks: Tensor | None
    masked: Tensor | None
    mask_weights: Tensor | None
    valid: Tensor
    global_weights: Tensor
    local_weights: Tensor
    all_valid: bool

    @property
    def size(self) -> int:
        """Images."""
        return len(self.globals_[0])

    def to(self, device: torch.device, dtype: torch.dtype) -> "Batch":
        """Move everything to a device, pixels in ``dtype``."""
        moved: dict[str, Any] = {}
        for name, value in vars(self).items():
            if isinstance(value, tuple):
                moved[name] = tuple(view.to(device, dtype, non_blocking=True) for view in value)
            elif isinstance(value, Tensor):
                moved[name] = value.to(device, non_blocking=True)
        return replace(self, **moved)


@dataclass(frozen=True)
class _Chunk:
    crops: Crops
    masks: Tensor | None  # [G, n, P]


class Batches:
    """Batches of a run from any step on.

    Args:
        tiles: The tile set.
        recipe: Of the run.
        normalization: Of the bands.
        patch: Pixels a side of a token.
        rank: Of this process.
        world: Number of processes.
        dtype: Of the pixels.
        masks: Whether the student gets masks (a ConvNeXt and the method ``dino`` do without).
    """

    def __init__(
        self,
        tiles: Tiles,
        recipe: Recipe,
        normalization: Normalization,
        patch: int,
        *,
        rank: int = 0,
        world: int = 1,
        dtype: torch.dtype = torch.float32,
        masks: bool = True,
    ) -> None:
        self.tiles, self.recipe, self.normalization, self.patch = tiles, recipe, normalization, patch
        self.rank, self.world, self.dtype, self.masks = rank, world, dtype, masks
        self.channels = [tiles.bands.index(band) for band in recipe.bands] if recipe.bands else None
        self.per_rank = recipe.batch_size // recipe.accumulate // world
        self.chunk = math.gcd(self.per_rank, CHUNK)
        self.waited = 0.0

    def starting(self, step: int) -> Generator[Batch, None, None]:
        """Micro-batches from ``step`` on, ``recipe.accumulate`` a step, endlessly; closing it stops the threads."""
        tasks = (
            (at, micro, chunk)
            for at in count(step)
            for micro in range(self.recipe.accumulate)
            for chunk in range(self.per_rank // self.chunk)
        )
        chunks, workers = self.per_rank // self.chunk, self.recipe.workers
        prepared = (self._prepare(task) for task in tasks)
        if workers:
            # two batches ahead, and enough for every thread to have work
            ahead = max(2 * chunks, workers + chunks) - 1
            prepared = in_order(self._prepare, tasks, threads=workers, ahead=ahead, name="batch", begin=_one_thread)
        with closing(prepared):
            while True:
                started = time.perf_counter()
                batch = self._assemble([next(prepared) for _ in range(chunks)])
                self.waited += time.perf_counter() - started
                yield batch

    def _prepare(self, task: tuple[int, int, int]) -> _Chunk:
        recipe, (step, micro, chunk) = self.recipe, task
        indices = step_indices(len(self.tiles), recipe.batch_size, step, recipe.seed)
        mine = share(share(indices, micro, recipe.accumulate), self.rank, self.world)
        part = mine[chunk * self.chunk : (chunk + 1) * self.chunk]
        place = ((micro * self.world + self.rank) * self.per_rank) // self.chunk + chunk
        generator = torch.Generator().manual_seed(stream_seed(recipe.seed, step, place))
        read = self.tiles.read_batch(part)
        values, valid, gsd = torch.from_numpy(read.values), torch.from_numpy(read.valid), torch.from_numpy(read.gsd_m)
        if self.channels is not None:
            values = values[:, self.channels]
        crops = make_crops(values, valid, gsd, recipe.crops, self.normalization, generator)
        masks = None
        if self.masks:
            usable = torch.cat([valid_tokens(view.valid, self.patch) for view in crops.global_views])
            masks = block_masks(usable, recipe.masks, generator).view(len(crops.global_views), len(part), -1)
        return _Chunk(crops, masks)

    def _assemble(self, chunks: list[_Chunk]) -> Batch:
        def pixels(kind: str) -> tuple[Tensor, ...]:
            views = zip(*(getattr(chunk.crops, kind) for chunk in chunks), strict=True)
            return tuple(torch.cat([view.pixels.to(self.dtype) for view in parts]) for parts in views)

        def shares(kind: str) -> Tensor:
            views = zip(*(getattr(chunk.crops, kind) for chunk in chunks), strict=True)
            rows = [torch.cat([view.valid.float().mean((1, 2)) for view in parts]) for parts in views]
            return torch.stack(rows) if rows else torch.ones(0, self.per_rank)

        valid = torch.cat(
            [
                torch.cat([valid_tokens(chunk.crops.global_views[view].valid, self.patch) for chunk in chunks])
                for view in range(len(chunks[0].crops.global_views))
            ]
        ).flatten(1)
        global_weights = (shares("global_views") >= MIN_VALID_SHARE).float()
        local_weights = (shares("local_views") >= MIN_VALID_SHARE).float()
        masks = masked = mask_weights = None
        if chunks[0].masks is not None:
            stacked = torch.cat([chunk.masks for chunk in chunks if chunk.masks is not None], 1).flatten(0, 1)
            masks = stacked & (global_weights.flatten() > 0)[:, None]
            masked = masks.flatten().nonzero().squeeze(1)
            per_image = masks.sum(1).clamp(min=1)
            mask_weights = (1 / per_image.float())[:, None].expand_as(masks)[masks]
        everything = bool(valid.all()) and bool((global_weights > 0).all()) and bool((local_weights > 0).all())
        return Batch(
            pixels("global_views"),
            pixels("local_views"),
            pixels("gram_views"),
            masks,
            masked,
            mask_weights,
            valid,
            global_weights,
            local_weights,
            everything,
        )


def batch_problem(recipe: Recipe, world: int) -> str | None:
    """Why a batch cannot be cut over ranks and micro-batches, or None."""
    parts = recipe.accumulate * world
    if recipe.batch_size % parts:
        near = math.ceil(recipe.batch_size / parts) * parts
        return f"batch_size {recipe.batch_size} does not split over {world} processes; set it to {near}"
    return None


def _one_thread() -> None:
    # The threads that compute the step own the cores; a preparing thread asks for one.
    torch.set_num_threads(1)
