"""What is seen of a tile: sizes and scales of the crops, their light, and how much of them is hidden."""

import math
from typing import Self

from pydantic import Field, model_validator

from pretrain.recipes.settings import Settings

Range = tuple[float, float]


class RadiometrySettings(Settings):
    """Strengths (half widths of uniform ranges around "no change") and probabilities, all per view of an image."""

    probability: float = Field(
        default=0.8, ge=0, le=1, description="of any change of gain, offset, band balance, haze, gamma"
    )
    gain: float = Field(default=0.3, ge=0, lt=1, description="brightness factor, one for all bands")
    offset: float = Field(
        default=0.05, ge=0, le=1, description="addition, one for all bands, in display units of [0, 1]"
    )
    band_gain: float = Field(default=0.1, ge=0, lt=1, description="brightness factor, another for each band")
    saturation: float = Field(default=0.2, ge=0, le=1, description="factor on the bands' distance from their mean")
    haze: float = Field(default=0.2, ge=0, lt=1, description="largest share of an even bright veil")
    gamma: float = Field(
        default=0.3, ge=0, lt=1, description="exponent, uniform in logarithm between 1 - gamma and its inverse"
    )
    gray_probability: float = Field(
        default=0.0, ge=0, le=1, description="of replacing every band by their mean; for RGB"
    )
    solarize_probability: float = Field(
        default=0.0, ge=0, le=1, description="of inverting values over a half; for display RGB"
    )
    blur_probability_global: tuple[float, ...] = Field(
        default=(1.0, 0.1), description="of a Gaussian blur, one entry for each global view; the last one repeats"
    )
    blur_probability_local: float = Field(default=0.5, ge=0, le=1, description="of a Gaussian blur, each local view")
    blur_sigma: tuple[float, float] = Field(default=(0.1, 2.0), description="standard deviation in pixels of the view")


class CropSettings(Settings):
    """Sizes, scales and counts of the views; part of a recipe."""

    global_size: int = Field(default=224, ge=1, description="pixels along a global view's side")
    global_count: int = Field(default=2, ge=2, description="global views of a tile")
    global_scale: Range = Field(default=(0.32, 1.0), description="a global crop's share of the tile's area")
    global_extent_m: Range | None = Field(
        default=None, description="a global crop's side on the ground in metres; replaces scale"
    )
    local_size: int = Field(default=96, ge=1, description="pixels along a local view's side")
    local_count: int = Field(default=8, ge=0, description="local views of a tile")
    local_scale: Range = Field(default=(0.05, 0.32), description="a local crop's share of the tile's area")
    local_extent_m: Range | None = Field(
        default=None, description="a local crop's side on the ground in metres; replaces scale"
    )
    aspect: float = Field(
        default=0.75, gt=0, le=1, description="narrowest crop, as width over height; the widest is 1/aspect"
    )
    symmetries: bool = Field(default=True, description="all eight rotations and flips instead of none")
    gram_scale: float | None = Field(
        default=None, ge=1, description="Gram views' size over the global size (1, 1.5 or 2); none without"
    )
    radiometry: RadiometrySettings = RadiometrySettings()

    @model_validator(mode="after")
    def _ranges_ascend(self) -> Self:
        for name in ("global_scale", "local_scale", "global_extent_m", "local_extent_m"):
            value = getattr(self, name)
            if value is not None and not 0 < value[0] <= value[1]:
                raise ValueError(f"{name} must be two positive numbers, the smaller first, not {value}")
            if value is not None and name.endswith("scale") and value[1] > 1:
                raise ValueError(f"{name} is a share of the tile's area and cannot exceed 1, as {value} does")
        return self

    @property
    def gram_size(self) -> int | None:
        """Pixels along a Gram view's side, or None without Gram views."""
        return None if self.gram_scale is None else round(self.global_size * self.gram_scale)

    def gsd_range_m(self, tile_size: int, tile_gsd_m: Range) -> Range:
        """The finest and coarsest ground sampling distance of a view, for the backbone's card.

        Args:
            tile_size: Pixels along a tile's side.
            tile_gsd_m: Finest and coarsest ground sampling distance among the tiles, metres.
        """
        finest, coarsest = math.inf, 0.0
        kinds = [(self.global_size, self.global_scale, self.global_extent_m)]
        if self.local_count:
            kinds.append((self.local_size, self.local_scale, self.local_extent_m))
        for size, scale, extent_m in kinds:
            for gsd in tile_gsd_m:
                whole = tile_size * gsd
                sides = extent_m or (whole * math.sqrt(scale[0]), whole * math.sqrt(scale[1]))
                finest = min(finest, min(sides[0], whole) / size)
                coarsest = max(coarsest, min(sides[1], whole) / size)
        return finest, coarsest


class MaskSettings(Settings):
    """How much of a crop is hidden, and in which shapes."""

    probability: float = Field(default=0.5, ge=0, le=1, description="share of the crops that are masked at all")
    ratio: tuple[float, float] = Field(
        default=(0.1, 0.5), description="smallest and largest share of a crop's tokens hidden"
    )
    min_block: int = Field(default=4, ge=1, description="tokens in the smallest block")
    max_block: float = Field(default=0.5, gt=0, le=1, description="largest block, as a share of the crop's tokens")
    aspect: float = Field(
        default=0.3, gt=0, le=1, description="narrowest block, as height over width; the widest is 1/aspect"
    )
