"""Multi-crop views of a batch of tiles: global, local and Gram crops, with nodata kept apart from data.

A crop is an axis-aligned box with one of the eight symmetries of the square (overhead imagery has no up), so bicubic
resampling with antialiasing goes one axis at a time (`pretrain.data.resample`), for the whole batch at once. The Gram
view of a global crop is the same box and symmetry without blur and radiometry: its geometry equals the student's by
construction.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pretrain.data.radiometry import Radiometry, blur_sigmas
from pretrain.data.resample import bicubic_taps, blur_lines
from pretrain.recipes.views import CropSettings, RadiometrySettings, Range

if TYPE_CHECKING:
    from geodino.backbones.normalize import Normalization


@dataclass(frozen=True)
class View:
    """One crop of every tile of a batch.

    Attributes:
        pixels: float32 [N, C, S, S], standardised; 0 (the normalised mean) where invalid.
        valid: bool [N, S, S], True where the tile held data.
    """

    pixels: Tensor
    valid: Tensor


@dataclass(frozen=True)
class Crops:
    """All views of a batch; ``gram_views[i]`` shows ``global_views[i]`` undistorted, and is empty without Gram."""

    global_views: tuple[View, ...]
    local_views: tuple[View, ...]
    gram_views: tuple[View, ...]


@dataclass(frozen=True)
class Boxes:
    """Where a view looks, for each tile of a batch, in pixels of the tile, on the CPU.

    Attributes:
        top, left, height, width: float64 [N]; the box covers rows ``[top, top + height)``.
        symmetry: int64 [N] in 0..7, the element of the square's symmetry group applied after the crop:
            ``rot90(crop, s % 4)``, then, from 4 on, a left-right flip.
    """

    top: Tensor
    left: Tensor
    height: Tensor
    width: Tensor
    symmetry: Tensor


# Boxes drawn for a tile that has gaps; the first that holds enough data wins, else the one that holds most.
_CANDIDATES = 4
_ENOUGH_DATA = 0.5
# An output pixel is data when at least this share of its kernel's weight fell on data.
_ENOUGH_WEIGHT = 0.5


def make_crops(
    values: Tensor,
    valid: Tensor,
    gsd_m: Tensor,
    settings: CropSettings,
    normalization: "Normalization",
    generator: torch.Generator,
) -> Crops:
    """Cut, resample, distort and standardise all views of a batch.

    Args:
        values: float32 [N, C, H, H] in [0, 1]; tiles are square. What lies under invalid pixels does not matter.
        valid: bool [N, H, H], pixels with data.
        gsd_m: float [N], ground sampling distance of each tile in metres; read only for crops given in metres.
        settings: What to cut.
        normalization: Mean and standard deviation of each band over [0, 1] values.
        generator: CPU generator; the same state gives the same bytes.

    Returns:
        Views on the device of ``values``.

    Raises:
        ValueError: The tiles are not square.
    """
    if values.shape[2] != values.shape[3]:
        raise ValueError(f"tiles must be square to be turned, not {values.shape[2]} x {values.shape[3]} pixels")
    with torch.no_grad(), torch.autocast(values.device.type, enabled=False):
        batch = Resampler(values, valid, normalization)
        global_views, gram_views, local_views = [], [], []
        blur = settings.radiometry.blur_probability_global
        for view in range(settings.global_count):
            boxes = draw_boxes(
                valid, batch.whole, gsd_m, settings.global_scale, settings.global_extent_m, settings, generator
            )
            probability = blur[min(view, len(blur) - 1)]
            global_views.append(batch.view(boxes, settings.global_size, settings.radiometry, probability, generator))
            if settings.gram_size is not None:
                gram_views.append(batch.undistorted(boxes, settings.gram_size))
        for _ in range(settings.local_count):
            boxes = draw_boxes(
                valid, batch.whole, gsd_m, settings.local_scale, settings.local_extent_m, settings, generator
            )
            probability = settings.radiometry.blur_probability_local
            local_views.append(batch.view(boxes, settings.local_size, settings.radiometry, probability, generator))
        return Crops(tuple(global_views), tuple(local_views), tuple(gram_views))


def draw_boxes(
    valid: Tensor,
    whole: bool,
    gsd_m: Tensor,
    scale: Range,
    extent_m: Range | None,
    settings: CropSettings,
    generator: torch.Generator,
) -> Boxes:
    """Draw one box and one symmetry for each tile.

    By area, a box takes a uniform share of the tile; in metres, its side is uniform in logarithm. Its aspect ratio is
    uniform in logarithm, its place uniform; it never leaves the tile.

    Args:
        valid: bool [N, H, W], pixels with data.
        whole: True when every pixel is valid.
        gsd_m: float [N], metres.
        scale: Smallest and largest share of the tile's area.
        extent_m: Shortest and longest side in metres, or None to go by ``scale``.
        settings: For the aspect ratio and whether to draw symmetries.
        generator: CPU generator.
    """
    tiles, height, width = valid.shape
    draw = torch.rand(_CANDIDATES, 4, tiles, generator=generator, dtype=torch.float64)
    if extent_m is None:
        side = ((scale[0] + (scale[1] - scale[0]) * draw[:, 0]) * height * width).sqrt()
    else:
        ratio = math.log(extent_m[1] / extent_m[0])
        side = extent_m[0] * torch.exp(ratio * draw[:, 0]) / gsd_m.detach().cpu().double()
    stretch = torch.exp(0.5 * math.log(1 / settings.aspect) * (2 * draw[:, 1] - 1))
    tall = (side / stretch).clamp(1, height)
    wide = (side * stretch).clamp(1, width)
    top = draw[:, 2] * (height - tall)
    left = draw[:, 3] * (width - wide)
    symmetry = (
        torch.randint(8, (tiles,), generator=generator) if settings.symmetries else torch.zeros(tiles, dtype=torch.long)
    )
    chosen = torch.zeros(tiles, dtype=torch.long)
    if not whole:
        share = _valid_share(valid.cpu(), top, left, tall, wide)
        enough = share >= _ENOUGH_DATA
        chosen = torch.where(enough.any(0), enough.int().argmax(0), share.argmax(0))
    every = torch.arange(tiles)
    return Boxes(top[chosen, every], left[chosen, every], tall[chosen, every], wide[chosen, every], symmetry)


# The eight symmetries as "exchange the axes, then mirror": which mirror rows, which columns, which exchange.
_UP_DOWN = torch.tensor([False, True, True, False, False, True, True, False])
_LEFT_RIGHT = torch.tensor([False, False, True, True, True, True, False, False])
_CROSSED = torch.tensor([False, True, False, True, False, True, False, True])


class Resampler:
    """A batch of tiles laid out for cutting many views; validity joins the bands only where something is missing."""

    def __init__(self, values: Tensor, valid: Tensor, normalization: "Normalization") -> None:
        self.whole = bool(valid.all())
        self.tiles, self.bands, self.size = values.shape[:3]
        if not self.whole:
            # Weighted value and weight side by side: their quotient after resampling ignores what is missing.
            seen = valid.unsqueeze(1)
            values = torch.cat([torch.where(seen, values, 0.0), seen.to(values.dtype)], dim=1)
        self.channels = values.shape[1]
        # Columns first, as lines of (row, channel); behind them the same tiles with their axes exchanged.
        self.source = torch.cat([values.permute(0, 3, 2, 1), values.permute(0, 2, 3, 1)]).flatten(2)
        self.mean = torch.tensor(normalization.mean, dtype=torch.float32, device=values.device).view(-1, 1, 1)
        self.std = torch.tensor(normalization.std, dtype=torch.float32, device=values.device).view(-1, 1, 1)

    def view(
        self, boxes: Boxes, size: int, radiometry: RadiometrySettings, blur: float, generator: torch.Generator
    ) -> View:
        """A distorted view: blurred with probability ``blur``, then seen under another light."""
        change = Radiometry(self.tiles, self.bands, radiometry, generator)
        sigmas = blur_sigmas(self.tiles, blur, radiometry.blur_sigma, generator)
        values, valid = self._resample(boxes, size, sigmas)
        return self._standardize(change(values), valid)

    def undistorted(self, boxes: Boxes, size: int) -> View:
        """The same boxes, resampled and standardised only."""
        values, valid = self._resample(boxes, size, torch.zeros(self.tiles))
        return self._standardize(values.clamp_(0, 1), valid)

    def _resample(self, boxes: Boxes, size: int, sigmas: Tensor) -> tuple[Tensor, Tensor | None]:
        """Values float32 [N, C, size, size] and bool [N, size, size], or None where all is data."""
        crossed = _CROSSED[boxes.symmetry]
        columns = bicubic_taps(
            torch.where(crossed, boxes.top, boxes.left),
            torch.where(crossed, boxes.height, boxes.width),
            self.size,
            size,
        ).reversed_where(_LEFT_RIGHT[boxes.symmetry])
        rows = bicubic_taps(
            torch.where(crossed, boxes.left, boxes.top),
            torch.where(crossed, boxes.width, boxes.height),
            self.size,
            size,
        ).reversed_where(_UP_DOWN[boxes.symmetry])
        lines = columns.apply(self.source, torch.arange(self.tiles) + self.tiles * crossed)  # [N, x, (H, C)]
        lines = blur_lines(lines, sigmas).view(self.tiles, size, self.size, self.channels)
        resampled = rows.apply_channels(lines.permute(0, 2, 3, 1))  # [N, C, y, x]
        resampled = blur_lines(resampled.flatten(0, 1), sigmas.repeat_interleave(self.channels)).view_as(resampled)
        if self.whole:
            return resampled, None
        weight = resampled[:, self.bands :]
        valid = weight >= _ENOUGH_WEIGHT
        values = torch.where(valid, resampled[:, : self.bands] / weight.clamp(min=_ENOUGH_WEIGHT), 0.0)
        return values, valid.squeeze(1)

    def _standardize(self, values: Tensor, valid: Tensor | None) -> View:
        pixels = values.sub_(self.mean).div_(self.std)
        if valid is None:
            return View(pixels, torch.ones(pixels.shape[0], *pixels.shape[2:], dtype=torch.bool, device=pixels.device))
        return View(pixels.masked_fill_(~valid.unsqueeze(1), 0.0), valid)


def _valid_share(valid: Tensor, top: Tensor, left: Tensor, tall: Tensor, wide: Tensor) -> Tensor:
    """Share of valid pixels, float64 [K, N], in K boxes (to whole pixels) for each tile of bool [N, H, W]."""
    tiles, height, width = valid.shape
    table = torch.zeros(tiles, height + 1, width + 1, dtype=torch.float64)
    table[:, 1:, 1:] = valid.double().cumsum(1).cumsum(2)
    first_row, first_column = top.floor().long(), left.floor().long()
    last_row, last_column = (top + tall).ceil().long().clamp(max=height), (left + wide).ceil().long().clamp(max=width)
    every = torch.arange(tiles)
    inside = (
        table[every, last_row, last_column]
        - table[every, first_row, last_column]
        - table[every, last_row, first_column]
        + table[every, first_row, first_column]
    )
    return inside / ((last_row - first_row) * (last_column - first_column))
