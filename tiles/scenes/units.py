"""Units: the map of each band's digital numbers to [0, 1], settled from sensor, types, tags and dates."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from tiles.scenes import stretch
from tiles.scenes.band import Band
from tiles.scenes.raster import Raster
from tiles.scenes.sensor import Sensor

# First acquisition day of Sentinel-2 processing baseline 04.00, which shifts digital numbers by -1000.
_BASELINE_0400_FROM = "2022-01-25"
_S2_OFFSET = -0.1
_BASELINE = re.compile(r"_N(\d{4})_")


@dataclass(frozen=True)
class Decision:
    """What was decided about a scene's bands.

    Attributes:
        sensor: Row of the sensor table.
        names: One name for each band.
        offset: Reflectance offset in the place of the sensor's own, or None.
        datetime: ISO 8601 date or time of acquisition, or None.
        notes: The decisions, as sentences.
    """

    sensor: Sensor
    names: tuple[str, ...]
    offset: float | None
    datetime: str | None
    notes: tuple[str, ...]


def settle_units(
    row: Sensor,
    dtypes: set[str],
    path: str,
    tags: dict[str, str],
    date: str | None,
    notes: list[str],
    *,
    explicit: bool,
) -> tuple[Sensor, float | None]:
    """Settle what depends on more than the sensor: 8-bit renditions and the Sentinel-2 baseline offset.

    Returns:
        The row to use, and the reflectance offset in the place of its own (None: the row's own).
    """
    if dtypes == {"uint8"} and row.scale is not None and row.name != "reflectance":
        notes.append(f"8-bit values cannot be {row.name} digital numbers: taken as display values, divided by 255")
        return Sensor(f"{row.name}-8bit", f"{row.title}, 8-bit rendition", row.bands), None
    if not row.name.startswith("sentinel-2-l"):
        if explicit:
            notes.append(f"sensor {row.name}: as given")
        return row, None
    found = _BASELINE.search(path)
    stated = tags.get("PROCESSING_BASELINE") or (f"{found.group(1)[:2]}.{found.group(1)[2:]}" if found else None)
    if stated:
        shifted, reason = stated >= "04.00", f"processing baseline {stated}"
    elif date:
        shifted, reason = date[:10] >= _BASELINE_0400_FROM, f"acquired {date[:10]}"
    else:
        shifted, reason = False, "neither baseline nor date known"
    notes.append(f"Sentinel-2 offset {'-1000' if shifted else 'none'}: {reason}")
    return row, _S2_OFFSET if shifted else 0.0


def make_bands(sources: Sequence[tuple[Raster, int]], decision: Decision, notes: list[str]) -> tuple[Band, ...]:
    """The bands of a scene, each with its map to [0, 1]."""
    bands = []
    for (raster, index), name in zip(sources, decision.names, strict=True):
        stated = raster.nodata[index - 1]
        nodata = decision.sensor.nodata if stated is None else stated
        if stated is None and nodata is not None and f"digital number {nodata:g} means no data" not in " ".join(notes):
            notes.append(f"digital number {nodata:g} means no data for {decision.sensor.name}")
        bands.append(
            Band(name, raster.path, index, raster.dtypes[index - 1], nodata, *_unit_map(raster, index, name, decision))
        )
    if decision.sensor.name == "stretch" or (decision.sensor.name == "8bit" and {b.dtype for b in bands} != {"uint8"}):
        return stretch.stretched(tuple(bands), notes)
    return tuple(bands)


def _unit_map(raster: Raster, index: int, name: str, decision: Decision) -> tuple[float, float]:
    row = decision.sensor
    if row.name != "reflectance":
        return row.to_unit(name, decision.offset)
    scale, offset = raster.scales[index - 1], raster.offsets[index - 1]
    if (scale, offset) == (1.0, 0.0) and raster.dtypes[index - 1].startswith(("int", "uint")):
        scale = 1e-4
    unit, _ = row.to_unit(name)
    return scale * unit, offset * unit
