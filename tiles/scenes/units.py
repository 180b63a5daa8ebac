"""Units: the map of each band's digital numbers to [0, 1].

In this order: what the file or its product's metadata state, band by band; floats, which are no digital numbers as long
as their values can be reflectance; the sensor table, with Sentinel-2's offset by baseline or date. What was decided is
a note.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from math import isfinite
from pathlib import Path

import numpy as np

from tiles.scenes import stretch
from tiles.scenes.band import Band
from tiles.scenes.dates import interval
from tiles.scenes.raster import Raster
from tiles.scenes.safe import SafeMetadata
from tiles.scenes.sensor import SENSORS, Linear, Sensor, is_reflectance, to_display

_BASELINE = re.compile(r"_N(\d{4})_")
_HARMONIZED = re.compile(r"(?<![A-Z])HARMONI[SZ]ED", re.IGNORECASE)
# First acquisition day of Sentinel-2 processing baseline 04.00, which shifts digital numbers by -1000.
_BASELINE_0400_FROM = datetime(2022, 1, 25, tzinfo=UTC)
_SHIFT = -1000.0
_LAST_BASELINE = 99.0  # 99.99 is what a user's own processor writes: it says nothing of the offset
# The 98th percentile of reflectance as floats, snow and glint included, and of reflectance in percent.
REFLECTANCE_TOP, _PERCENT_TOP = 2.0, 120.0


@dataclass(frozen=True)
class Evidence:
    """What is known of a scene beside its pixels.

    Attributes:
        place: Name of the file and its folder, or of the item.
        tags: Metadata of the file.
        date: ISO 8601 date of acquisition, or None.
        product: What the Sentinel-2 product that it belongs to states, or None.
    """

    place: str
    tags: Mapping[str, str]
    date: str | None
    product: SafeMetadata | None = None


@dataclass(frozen=True)
class Decision:
    """What was decided about a scene's bands.

    Attributes:
        sensor: Row of the sensor table.
        names: One name for each band.
        units: Scale and offset to [0, 1] of each band; None stands for the band's own percentiles.
        datetime: ISO 8601 date or time of acquisition, or None.
        notes: The decisions, as sentences.
    """

    sensor: Sensor
    names: tuple[str, ...]
    units: tuple[Linear | None, ...]
    datetime: str | None
    notes: tuple[str, ...]


def settle_units(
    row: Sensor, sources: Sequence[tuple[Raster, int]], names: Sequence[str], evidence: Evidence, notes: list[str]
) -> tuple[Sensor, tuple[Linear | None, ...]]:
    """Settle the units of each band; see the head of this module.

    Args:
        row: Row of the sensor table.
        sources: File and number of each band.
        names: Common name of each band.
        evidence: What else is known.
        notes: Takes the decisions.

    Returns:
        The row to use, which is another one where the types rule the first out, and scale and offset of each band.
    """
    dtypes = [np.dtype(raster.dtypes[index - 1]) for raster, index in sources]
    stated = [_stated(raster, index) for raster, index in sources]
    row = _row_for_types(row, dtypes, stated, notes)
    high = None
    if row.name not in ("stretch", "reflectance"):
        silent = [
            _band(raster, index, name, row)
            for (raster, index), name, dtype, known in zip(sources, names, dtypes, stated, strict=True)
            if dtype.kind == "f" and (known is None or row.scale is None)
        ]
        high = max((stretch.percentiles(band)[1] for band in silent), default=None)
    as_float = None if high is None else _float_map(row, high, notes)
    if as_float is None and high is not None and row.scale is None and high > row.full_scale * 1.1:
        row = SENSORS["stretch"]
    if row.name == "stretch":
        return row, (None,) * len(sources)
    units: list[Linear | None] = []
    reasons: dict[str, list[str]] = {}
    for name, dtype, known in zip(names, dtypes, stated, strict=True):
        unit, reason = _unit(row, name, dtype, known, as_float, evidence)
        units.append(unit)
        reasons.setdefault(reason, []).append(name)
    for reason, those in reasons.items():
        if reason:
            notes.append(reason if len(reasons) == 1 else f"{reason} ({', '.join(those)})")
    return row, tuple(units)


def _stated(raster: Raster, index: int) -> Linear | None:
    """Scale and offset that a file states of a band; None where it states none, as GDAL tells by 1 and 0."""
    found = raster.scales[index - 1], raster.offsets[index - 1]
    return None if found == (1.0, 0.0) else found


def _row_for_types(
    row: Sensor, dtypes: Sequence[np.dtype], stated: Sequence[Linear | None], notes: list[str]
) -> Sensor:
    names = {dtype.name for dtype in dtypes}
    if row.scale is not None and row.name != "reflectance" and names == {"uint8"}:
        notes.append(f"8-bit values cannot be {row.name} digital numbers: taken as display values, divided by 255")
        family = next((name for name in ("sentinel-2", "landsat") if row.name.startswith(name)), None)
        shown = SENSORS[f"{family}-8bit" if family else "8bit"]
        return replace(shown, bands=row.bands)
    if row.scale is None and row.name != "stretch" and names != {"uint8"}:
        if any(known is not None and is_reflectance(*known) for known in stated):
            notes.append(f"a scale is stated, so that the values are reflectance and no {row.name} display values")
            return SENSORS["reflectance"]
        if row.full_scale == 255 and any(dtype.kind in "iu" and dtype.name != "uint8" for dtype in dtypes):
            notes.append(f"integers of more than 8 bits cannot be {row.name} display values: stretched in their place")
            return SENSORS["stretch"]
    return row


def _float_map(row: Sensor, high: float, notes: list[str]) -> Linear | None:
    """Map to reflectance or display values of floats with the 98th percentile ``high``; None: the table's holds."""
    values = f"float values up to {high:g} (percentile 98)"
    if high <= REFLECTANCE_TOP:
        notes.append(f"{values}: taken as {'display values' if row.scale is None else 'reflectance'} as they are")
        return 1.0, 0.0
    if row.scale is None:
        kept = high <= row.full_scale * 1.1
        notes.append(f"{values}: {f'divided by {row.full_scale:g}' if kept else 'stretched'}")
        return None
    if high <= _PERCENT_TOP:
        notes.append(f"{values}: taken as reflectance in percent")
        return 0.01, 0.0
    if high * row.scale + row.offset <= 0:
        notes.append(f"{values}: too small for {row.name} digital numbers, taken as ten-thousandths of reflectance")
        return 1e-4, 0.0
    notes.append(f"{values}: too large for reflectance, taken as {row.name} digital numbers")
    return None


def _unit(
    row: Sensor, name: str, dtype: np.dtype, stated: Linear | None, as_float: Linear | None, evidence: Evidence
) -> tuple[Linear, str]:
    """Scale and offset of one band to [0, 1], and why."""
    if row.scale is None:
        if dtype.kind == "f" and as_float is not None:
            return as_float, ""
        unused = "" if stated is None else "the scale and offset that the file states are not used for display values"
        return row.to_unit(name), unused
    if stated is not None and (is_reflectance(*stated) or (row.name == "reflectance" and _sane(*stated))):
        scale, offset = stated
        values = f"stated with the bands, scale {scale:g} and offset {offset:g}"
        sentinel = row.name.startswith("sentinel-2-l")
        reason = f"Sentinel-2 offset {_said(offset / scale)}: {values}" if sentinel else f"units: {values}"
        return to_display(name, scale, offset), reason
    odd = "" if stated is None else f"scale {stated[0]:g} and offset {stated[1]:g} give no reflectance: not used; "
    if dtype.name == "uint8" and row.name != "reflectance":
        return (1 / 255, 0.0), f"{odd}8-bit values taken as display values, divided by 255"
    if dtype.kind == "f" and row.name == "reflectance":
        return to_display(name, 1.0, 0.0), f"{odd}float values taken as reflectance as they are"
    if dtype.kind == "f" and as_float is not None:
        return to_display(name, *as_float), odd.removesuffix("; ")
    if row.name == "reflectance":
        return to_display(name, 1e-4, 0.0), f"{odd}integers taken as ten-thousandths of reflectance"
    if row.name.startswith("sentinel-2-l"):
        scale, shift, reason = _sentinel2(row, name, evidence)
        return to_display(name, scale, shift * scale), f"{odd}Sentinel-2 offset {_said(shift)}: {reason}"
    return row.to_unit(name), odd.removesuffix("; ")


def _sane(scale: float, offset: float) -> bool:
    return 0 < scale <= 10 and abs(offset) <= 1000


def _said(shift: float) -> str:
    return f"{shift:.0f}" if round(shift) else "none"


def _sentinel2(row: Sensor, name: str, evidence: Evidence) -> tuple[float, float, str]:
    """Reflectance of a digital number, the digital number to add before, and why."""
    product, tags = evidence.product, evidence.tags
    identifier = next((key for key, common in row.bands.items() if common == name), None)
    quantification = _number(tags.get("BOA_QUANTIFICATION_VALUE") or tags.get("QUANTIFICATION_VALUE"))
    scale = 1 / product.quantification if product else 1 / quantification if quantification else 1e-4
    if product and identifier in product.offsets:
        return scale, product.offsets[identifier], f"stated in {product.path.name}"
    shift = _number(tags.get("BOA_ADD_OFFSET") or tags.get("RADIO_ADD_OFFSET"))
    if shift is not None:
        return scale, shift, "stated in the metadata"
    if _HARMONIZED.search("/".join(Path(evidence.place).parts[-2:])):
        return scale, 0.0, "the name says that it is harmonized"
    named = _BASELINE.search(evidence.place)
    for text, where in (
        (product.baseline if product else None, f" in {product.path.name}" if product else ""),
        (tags.get("PROCESSING_BASELINE"), ""),
        (f"{named.group(1)[:2]}.{named.group(1)[2:]}" if named else None, ""),
    ):
        baseline = _number(text)
        if baseline is not None and baseline < _LAST_BASELINE:
            return scale, _SHIFT if baseline >= 4 else 0.0, f"processing baseline {text}{where}"
    taken = interval(evidence.date)
    if taken is None:
        return scale, 0.0, "neither baseline nor date known"
    # A year or month that has the first day in it is taken as its larger part.
    middle = taken[0] + (taken[1] - taken[0]) / 2
    sure = taken[1] < _BASELINE_0400_FROM or taken[0] >= _BASELINE_0400_FROM
    reason = f"acquired {(evidence.date or '')[:10]}"
    reason += "" if sure else ", most of which is on that side of 2022-01-25"
    return scale, _SHIFT if middle >= _BASELINE_0400_FROM else 0.0, reason


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if isfinite(value) else None


def _band(raster: Raster, index: int, name: str, row: Sensor, unit: Linear | None = None) -> Band:
    stated = raster.nodata[index - 1]
    nodata = row.nodata if stated is None else stated
    return Band(name, raster.path, index, raster.dtypes[index - 1], nodata, *(unit or (1.0, 0.0)))


def make_bands(sources: Sequence[tuple[Raster, int]], decision: Decision, notes: list[str]) -> tuple[Band, ...]:
    """The bands of a scene, each with its map to [0, 1]."""
    row = decision.sensor
    bands = tuple(
        _band(raster, index, name, row, unit)
        for (raster, index), name, unit in zip(sources, decision.names, decision.units, strict=True)
    )
    if row.nodata is not None and any(raster.nodata[index - 1] is None for raster, index in sources):
        notes.append(f"digital number {row.nodata:g} means no data for {row.name}")
    return stretch.stretched(bands, notes) if None in decision.units else bands
