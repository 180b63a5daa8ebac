"""How a layer is painted: bands and stretch, colour ramp, classes; and the statistics that a stretch comes from.

Statistics are computed once over the whole raster, kept beside the app's other state, and used for every tile:
two tiles are never stretched differently.
"""

import json
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np
from rasterio.enums import Resampling
from rasterio.windows import Window
from rio_tiler.colormap import cmap

from app.map.source import ClassColor, Meaning, Source
from tiles.scenes.band import Band
from tiles.scenes.raster import open_raster, read_shown, reading

LOW_PERCENT, HIGH_PERCENT = 2.0, 98.0
SAMPLE_SIDE = 1024  # a sample of a million pixels fixes a percentile to about 0.1 of a point
SAMPLE_BLOCKS = 64  # blocks read of a large raster without overviews
BINS = 64
TOKEN_LEVELS = 4  # from tokens of 16 pixels to the scene's own pixels
RAMPS = ("viridis", "magma", "cividis", "gray", "rdylgn", "spectral", "blues", "ylorrd")
NATURAL = ("red", "green", "blue")
CHANGE_COLOR = "#e11d48"


class Paint(StrEnum):
    """How numbers become colours."""

    rgb = "rgb"
    ramp = "ramp"
    classes = "classes"
    argmax = "argmax"  # one band of score a class: the largest wins
    score = "score"  # encoded; the browser applies the threshold


@dataclass(frozen=True)
class Statistics:
    """What one channel's numbers are like.

    Attributes:
        low: 2nd percentile of the valid pixels.
        high: 98th percentile.
        minimum: Smallest number in the sample.
        maximum: Largest number in the sample.
        mean: Mean.
        std: Standard deviation.
        valid: Share of pixels with data.
        histogram: Counts in ``BINS`` equal bins from minimum to maximum.
    """

    low: float
    high: float
    minimum: float
    maximum: float
    mean: float
    std: float
    valid: float
    histogram: tuple[int, ...]


@dataclass(frozen=True)
class Style:
    """How a source is painted.

    Attributes:
        paint: Kind.
        channels: Which channels, from 0: three for ``rgb``, all for ``argmax``, else one.
        stretch: Lowest and highest number shown, one pair a channel; empty for classes.
        ramp: Name of the colour ramp.
        classes: Classes to paint.
        threshold: Where a score is cut at first.
        finer: Zoom levels beyond the raster's own at which the server still makes tiles, for rasters on the token grid,
            whose interpolated numbers are sharper than interpolated colours.
    """

    paint: Paint
    channels: tuple[int, ...]
    stretch: tuple[tuple[float, float], ...] = ()
    ramp: str = "viridis"
    classes: tuple[ClassColor, ...] = ()
    threshold: float | None = None
    finer: int = 0


def channel_statistics(source: Source, channel: int, cache: Path | None = None) -> Statistics:
    """Statistics of one channel over the whole raster, kept in ``cache`` under the raster's fingerprint."""
    file = cache / f"{source.fingerprint}-{channel}.json" if cache else None
    if file and file.exists():
        record = json.loads(file.read_text())
        return Statistics(**{**record, "histogram": tuple(record["histogram"])})
    statistics = describe(_sample(source.parts[0].bands[channel]))
    if file:
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(".part")
        part.write_text(json.dumps(statistics.__dict__))
        part.replace(file)
    return statistics


def describe(sample: np.ma.MaskedArray) -> Statistics:
    """Statistics of a masked sample of numbers, any shape."""
    numbers = sample.compressed().astype(np.float64)
    numbers = numbers[np.isfinite(numbers)]
    if numbers.size == 0:
        return Statistics(0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0, (0,) * BINS)
    low, high = np.percentile(numbers, (LOW_PERCENT, HIGH_PERCENT))
    minimum, maximum = float(numbers.min()), float(numbers.max())
    counts, _ = np.histogram(numbers, bins=BINS, range=(minimum, maximum if maximum > minimum else minimum + 1))
    return Statistics(
        low=float(low),
        high=float(high if high > low else low + 1),
        minimum=minimum,
        maximum=maximum,
        mean=float(numbers.mean()),
        std=float(numbers.std()),
        valid=numbers.size / sample.size,
        histogram=tuple(int(count) for count in counts),
    )


def _sample(band: Band) -> np.ma.MaskedArray:
    """Numbers of a band spread over the whole raster, nodata masked."""
    with open_raster(band.path) as opened, reading(band.path):
        height, width = opened.shape
        if opened.overviews(band.index) or height * width <= 16 * SAMPLE_SIDE**2:
            shrink = max(1.0, max(height, width) / SAMPLE_SIDE)
            shape = (max(1, round(height / shrink)), max(1, round(width / shrink)))
            read = [read_shown(band.path, opened, band.index, out_shape=shape, resampling=Resampling.nearest)]
        else:
            rng = np.random.default_rng(0)
            side = 256
            tops = rng.integers(0, max(1, height - side), SAMPLE_BLOCKS)
            lefts = rng.integers(0, max(1, width - side), SAMPLE_BLOCKS)
            windows = (
                Window(int(left), int(top), min(side, width), min(side, height))
                for top, left in zip(tops, lefts, strict=True)
            )
            read = [read_shown(band.path, opened, band.index, window=window) for window in windows]
        stated = opened.nodatavals[band.index - 1]
    values, covered = (np.stack(planes) for planes in zip(*read, strict=True))
    sample = np.ma.masked_array(values, ~covered)
    for nodata in (band.nodata, stated):
        if nodata is not None and not np.isnan(nodata):
            sample = np.ma.masked_where(values == nodata, sample)
    return np.ma.masked_invalid(sample) if sample.dtype.kind == "f" else sample


def default_style(source: Source, cache: Path | None = None, threshold: float | None = None) -> Style:
    """The style that a layer has when it is added: natural colours where it has them, its own legend for a map.

    Args:
        source: What is shown.
        cache: Where statistics are kept.
        threshold: Where a score is cut that does not say so itself.
    """
    if source.meaning is Meaning.classes:
        # What did not change is nothing to look at: the scene below shows through.
        shown = tuple(one for one in source.classes if one.name.lower() != "no change")
        return Style(Paint.classes, (0,), classes=shown)
    if source.meaning is Meaning.imagery or len(source.channel_names) >= 3:
        return rgb_style(source, natural_bands(source.channel_names), cache)
    statistics = channel_statistics(source, 0, cache)
    if source.meaning is Meaning.score:
        return score_style(statistics, threshold if source.threshold is None else source.threshold)
    return Style(Paint.ramp, (0,), ((statistics.low, statistics.high),))


def score_style(statistics: Statistics, threshold: float | None) -> Style:
    """A score cut at a threshold (the 98th percentile where none is known), on a slider that reaches twice as far.

    A few extreme pixels would otherwise take most of the slider's way.
    """
    cut = statistics.high if threshold is None else threshold
    low = min(statistics.minimum, cut)
    high = max(min(statistics.maximum, max(2 * statistics.high - low, 2 * cut - low)), cut + 1e-6, low + 1e-6)
    return Style(Paint.score, (0,), ((low, high),), threshold=cut)


def rgb_style(source: Source, names: tuple[str, ...], cache: Path | None = None) -> Style:
    """Three channels by name as red, green and blue, each stretched between its own percentiles."""
    channels = tuple(source.channel_names.index(name) for name in names)
    found = [channel_statistics(source, channel, cache) for channel in channels]
    return Style(Paint.rgb, channels, tuple((one.low, one.high) for one in found))


def natural_bands(names: tuple[str, ...]) -> tuple[str, str, str]:
    """Names of the bands shown as red, green and blue at first."""
    if all(name in names for name in NATURAL):
        return NATURAL
    first = (*names, *(names[-1],) * 3)[:3]
    return first[0], first[1], first[2]


def combinations(names: tuple[str, ...]) -> dict[str, tuple[str, str, str]]:
    """Band combinations that interpreters use, as far as the bands exist."""
    wanted = {
        "Natural colour": NATURAL,
        "Colour infrared (vegetation red)": ("nir", "red", "green"),
        "Short-wave infrared": ("swir22", "nir", "red"),
        "Agriculture": ("swir16", "nir", "blue"),
        "Land and water": ("nir", "swir16", "red"),
    }
    found = {title: bands for title, bands in wanted.items() if all(band in names for band in bands)}
    return found or {"As stored": natural_bands(names)}


def ramp_colors(name: str, count: int = 9) -> list[str]:
    """``count`` colours of a ramp from low to high, ``#rrggbb``."""
    table = cmap.get(name)
    return ["#{:02x}{:02x}{:02x}".format(*table[round(at)][:3]) for at in np.linspace(0, 255, count)]
