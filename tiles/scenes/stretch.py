"""One percentile stretch over a whole scene, for data whose units nobody states."""

from dataclasses import replace

import numpy as np
from rasterio.enums import Resampling
from rasterio.windows import Window

from tiles.scenes.band import Band
from tiles.scenes.raster import open_raster, read_shown, reading
from tiles.scenes.validity import measured

LOW, HIGH = 2.0, 98.0
# A sample of this many pixels fixes a percentile to about 0.1 of a percentile point.
_SAMPLE = 1024 * 1024
_WHOLE = 16 * 1024 * 1024
_BLOCKS = 256
_LEAST_SPAN = 1e-30  # the inverse of less is no 32-bit float


def stretched(bands: tuple[Band, ...], notes: list[str]) -> tuple[Band, ...]:
    """The bands with ``scale`` and ``offset`` that map their 2nd percentile to 0 and their 98th to 1."""
    done = []
    for band in bands:
        low, high = percentiles(band)
        if not _LEAST_SPAN < high - low < np.inf:  # one value, or numbers that no measurement has
            high = low + max(1.0, abs(low))
        notes.append(
            f"{band.name}: {low:g} … {high:g} stretched to 0 … 1 (percentiles {LOW:g} and {HIGH:g} of the scene)"
        )
        done.append(replace(band, scale=1.0 / (high - low), offset=-low / (high - low)))
    return tuple(done)


def percentiles(band: Band) -> tuple[float, float]:
    """Percentiles 2 and 98 of a band's digital numbers over the whole raster; 0 and 1 where none is valid."""
    sample = _sample(band)
    good = measured(sample[None, None], [band.nodata])[0]
    if not good.any():
        return 0.0, 1.0
    low, high = np.percentile(sample[good].astype(np.float64), (LOW, HIGH))
    return float(low), float(high)


def _sample(band: Band) -> np.ndarray:
    """Digital numbers of the band, masked pixels left out, spread evenly over the whole raster; ``[N]``."""
    with open_raster(band.path) as source, reading(band.path):
        height, width = source.shape
        if source.overviews(band.index) or height * width <= _WHOLE:
            shrink = max(1.0, (height * width / _SAMPLE) ** 0.5)
            shape = (max(1, round(height / shrink)), max(1, round(width / shrink)))
            values, covered = read_shown(band.path, source, band.index, out_shape=shape, resampling=Resampling.nearest)
            return values[covered]
        rows, columns = source.block_shapes[band.index - 1]
        rows, columns = min(rows, height, 1024), min(columns, width, 1024)
        across, down = -(-width // columns), -(-height // rows)
        picked = np.unique(np.linspace(0, across * down - 1, _BLOCKS).astype(np.int64))
        found = []
        for number in picked:
            window = Window((number % across) * columns, (number // across) * rows, columns, rows)
            window = window.intersection(Window(0, 0, width, height))
            values, covered = read_shown(band.path, source, band.index, window=window)
            found.append(values[covered][:: max(1, values.size * len(picked) // (4 * _SAMPLE))])
        return np.concatenate(found)
