"""Whether a band that a file tags as alpha is opacity, or a measurement: GDAL tags the fourth of four plain bands so.

Aerial imagery of red, green, blue and near infrared (NAIP) comes in such files: taken as opacity, dark water is lost.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from rasterio.enums import ColorInterp
from rasterio.windows import Window

from tiles.scenes.raster import Raster, open_raster, reading

_SAMPLE_SIDE = 128  # pixels a side, at five places
# Feathered edges and resampling leave a few half-transparent pixels; a measurement is hardly ever at either end.
_OPACITY_SHARE = 0.1


def settle_alpha(raster: Raster, naip: bool, band_names: Sequence[str] | None, notes: list[str]) -> Raster:
    """The header, its alpha band a plain band where it holds a measurement; which it is, is said in a note.

    Args:
        raster: The header.
        naip: Whether the scene is known to be NAIP imagery.
        band_names: Names of the bands as the user gives them: one for each band of the file makes alpha one of them.
        notes: What was decided is said here.
    """
    if ColorInterp.alpha not in raster.colours or raster.count < 2:
        return raster
    number = raster.colours.index(ColorInterp.alpha) + 1
    reason = ""
    if band_names:
        reason = "since it has a name" if len(band_names) == raster.count else ""
    elif naip and raster.count == 4:
        reason = "as in all NAIP imagery"
    elif raster.count == 4 and raster.dtypes[number - 1] == "uint8":
        share = _between(raster, number)
        reason = f"since {share:.0%} of a sample of it is neither 0 nor 255" if share > _OPACITY_SHARE else ""
    if not reason:
        notes.append(f"band {number}, tagged alpha, is opacity (if it is a measurement, name it too with --band-names)")
        return raster
    notes.append(f"band {number}, tagged alpha, is taken as a measurement, {reason}")
    colours = tuple(ColorInterp.undefined if colour is ColorInterp.alpha else colour for colour in raster.colours)
    return replace(raster, colours=colours, own_masks=tuple(mask for mask in raster.own_masks if not mask.index))


def _between(raster: Raster, number: int) -> float:
    """Share of a sample of an 8-bit band that is neither 0 nor 255, or nor 1 where that is the most."""
    height, width = raster.geobox.shape
    side = _SAMPLE_SIDE
    found = []
    with open_raster(raster.path) as source, reading(raster.path):
        for down, across in ((0.5, 0.5), (0.25, 0.25), (0.25, 0.75), (0.75, 0.25), (0.75, 0.75)):
            top, left = max(0, int(height * down) - side // 2), max(0, int(width * across) - side // 2)
            window = Window(left, top, min(side, width - left), min(side, height - top))
            found.append(source.read(number, window=window).ravel())
    values = np.concatenate(found)
    most = 255 if values.max() > 1 else 1
    return float(((values > 0) & (values < most)).mean())
