"""Undeclared fill: the white or black round a rotated or clipped scene that its file does not call nodata.

A value that every band has at a corner of the raster and over at least a hundredth of it is no measurement. Single
bands do reach it (surf and roofs saturate), so all bands decide together.
"""

from collections.abc import Sequence

import numpy as np
from rasterio.enums import MaskFlags, Resampling
from rasterio.windows import Window

from tiles.scenes.band import Band
from tiles.scenes.raster import open_raster, reading
from tiles.scenes.validity import Blank

_LEAST_SHARE = 0.01
_LEAST_BANDS = 3  # a lone band of zeros may well be a class
_SAMPLE_SIDE = 1024
_LARGE = 64 * 1024 * 1024


def find_fill(bands: Sequence[Band], notes: list[str]) -> Blank | None:
    """Look for undeclared fill in bands of one grid; what is found is said in a note."""
    if len(bands) < _LEAST_BANDS or any(b.nodata is not None or np.dtype(b.dtype).kind not in "iu" for b in bands):
        return None
    at = _corners(bands)
    if at is None:
        return None
    top = np.iinfo(bands[0].dtype).max
    for value in (0, top):
        if (at == value).all(axis=0).any():
            share = _share(bands, value)
            if share >= _LEAST_SHARE:
                notes.append(
                    f"{share:.0%} of the scene is {value} in every band, a corner included: taken as undeclared nodata"
                )
                return Blank(tuple(bands), (float(value),) * len(bands))
    return None


def _corners(bands: Sequence[Band]) -> np.ndarray | None:
    """Bands at the raster's four corners, ``[C, 4]``, or None where a file has a mask of its own."""
    found: dict[Band, list[int]] = {}
    for path in dict.fromkeys(band.path for band in bands):
        own = [band for band in bands if band.path == path]
        with open_raster(path) as source, reading(path):
            if any(MaskFlags.all_valid not in source.mask_flag_enums[band.index - 1] for band in own):
                return None
            height, width = source.shape
            places = ((0, 0), (0, width - 1), (height - 1, 0), (height - 1, width - 1))
            windows = [Window(x, y, 1, 1) for y, x in places]
            corners = [source.read([band.index for band in own], window=window)[:, 0, 0] for window in windows]
            found |= {band: [int(corner[i]) for corner in corners] for i, band in enumerate(own)}
    return np.array([found[band] for band in bands])


def _share(bands: Sequence[Band], value: int) -> float:
    """Share of pixels that have the value in all bands."""
    together: np.ndarray | None = None
    for band in bands:
        with open_raster(band.path) as source, reading(band.path):
            height, width = source.shape
            if height * width > _LARGE and not source.overviews(band.index):
                # Decoding a large raster whole only to look for a border is not worth it: a band of its middle is.
                rows = min(height, max(1, _LARGE // 16 // width))
                hit = source.read(band.index, window=Window(0, (height - rows) // 2, width, rows)) == value
            else:
                shape = (min(height, _SAMPLE_SIDE), min(width, _SAMPLE_SIDE))
                hit = source.read(band.index, out_shape=shape, resampling=Resampling.nearest) == value
        together = hit if together is None else together & hit
    assert together is not None
    return float(together.mean())
