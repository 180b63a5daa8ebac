"""Deciding, from names, tags and types, which sensor a raster is from and what its bands are called.

Every decision is a sentence in ``Decision.notes``, which is printed and stored: nothing is guessed silently.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from rasterio.enums import ColorInterp

from tiles.errors import InputError
from tiles.scenes.raster import Raster
from tiles.scenes.sensor import SENSORS, Sensor, band_id, common_name, named
from tiles.scenes.units import Decision, settle_units

_S2_NAME = re.compile(r"S2[ABC]_|MSIL[12][AC]|SENTINEL-?_?2|(?:^|[_/])T\d{2}[A-Z]{3}_|EuroSAT_?MS", re.IGNORECASE)
_LANDSAT_NAME = re.compile(r"L([COTEM])0([4-9])_L(1|2)[A-Z0-9]{2}_")
_NAIP_NAME = re.compile(r"(?:^|/)m_\d{7}_(?:ne|nw|se|sw)_\d{2}_", re.IGNORECASE)
_PLANET_NAME = re.compile(r"_AnalyticMS_(8b_)?SR|AnalyticMS_SR_(8b)?", re.IGNORECASE)
_MAXAR_NAME = re.compile(r"(?:^|[/_])(?:WV0[1-4]|GE01|QB02|103001|104001|105001)", re.IGNORECASE)
_DATE = re.compile(
    r"(?<!\d)((?:19|20)\d{2})[-_]?(0[1-9]|1[0-2])[-_]?(0[1-9]|[12]\d|3[01])(?:T(\d{2})(\d{2})(\d{2}))?(?!\d)"
)
_YEAR = re.compile(r"^(?:19|20)\d{2}$")
_TAG_DATES = ("ACQUISITION_DATE", "DATE_ACQUIRED", "DATE", "TIFFTAG_DATETIME", "EXIF_DateTimeOriginal")

_S2_GEE_ORDER = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B09", "B10", "B11", "B12", "B8A")
_S2_L2A_ORDER = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")
# What rasters of so many unnamed bands most often hold; said in a note whenever it is used.
_UNNAMED = {
    1: ("gray",),
    3: ("red", "green", "blue"),
    4: ("red", "green", "blue", "nir"),
    6: ("blue", "green", "red", "nir", "swir16", "swir22"),
}


def sensor_row(name: str) -> Sensor:
    """The row of the sensor table called ``name``.

    Raises:
        InputError: Where there is none; the sentence lists the names.
    """
    if name not in SENSORS:
        raise InputError(f"No sensor is called {name}; there are {', '.join(SENSORS)}.")
    return SENSORS[name]


def decide(raster: Raster, sensor: str | None, band_names: Sequence[str] | None) -> Decision:
    """Decide for one file with one or more bands."""
    notes: list[str] = []
    row = sensor_row(sensor) if sensor else _sensor_of(raster, notes)
    names = _names_of(raster, row, band_names, notes)
    date = acquired(raster.path, raster.tags)
    dtypes = {raster.dtypes[i - 1] for i in raster.data_bands}
    row, offset = settle_units(row, dtypes, raster.path, raster.tags, date, notes, explicit=sensor is not None)
    return Decision(row, names, offset, date, tuple(notes))


def decide_stack(
    rasters: Sequence[Raster], folder: str, sensor: str | None, band_names: Sequence[str] | None, has_scl: bool
) -> Decision:
    """Decide for a folder of single-band files."""
    notes: list[str] = []
    identifiers = [band_id(raster.stem) for raster in rasters]
    dtypes = {raster.dtypes[0] for raster in rasters}
    row = sensor_row(sensor) if sensor else _sensor_of_stack(folder, rasters, identifiers, dtypes, has_scl, notes)
    if band_names:
        if len(band_names) != len(rasters):
            raise InputError(f"{folder} holds {len(rasters)} bands, but --band-names gives {len(band_names)}.")
        names = tuple(band_names)
        notes.append(f"bands {', '.join(names)}: as given")
    else:
        names = tuple(_stack_name(raster.stem, row) for raster in rasters)
        notes.append(f"bands {', '.join(names)}: from the file names")
    tags = rasters[0].tags
    date = acquired(rasters[0].path, tags) or acquired(folder, {})
    row, offset = settle_units(
        row, dtypes, f"{folder}/{rasters[0].stem}", tags, date, notes, explicit=sensor is not None
    )
    return Decision(row, names, offset, date, tuple(notes))


def _stack_name(stem: str, row: Sensor) -> str:
    identifier = band_id(stem)
    return named(identifier, row) if identifier else common_name(stem) or stem.lower()


def _sensor_of(raster: Raster, notes: list[str]) -> Sensor:
    path = raster.path
    count = len(raster.data_bands)
    integer8 = raster.dtypes[raster.data_bands[0] - 1] == "uint8" if raster.data_bands else True
    landsat = _LANDSAT_NAME.search(path)
    if landsat:
        return _said(_landsat_row(landsat, integer8), "by its file name", notes)
    if _NAIP_NAME.search(path):
        return _said("naip", "by its file name", notes)
    planet = _PLANET_NAME.search(path)
    if planet:
        return _said("planetscope-8b-sr" if count == 8 else "planetscope-sr", "by its file name", notes)
    if _MAXAR_NAME.search(path) or "satId" in raster.tags or "IMD_SATID" in raster.tags:
        return _said("maxar-8bit" if integer8 else "maxar-11bit", "by its name or tags", notes)
    described = [band_id(text or "") for text in raster.descriptions]
    if _S2_NAME.search(path) or any(text in ("B8A", "B02", "B03") for text in described):
        if integer8:
            return _said("sentinel-2-8bit", "by its name", notes)
        level1 = "MSIL1C" in path.upper() or "B10" in described or count == 13
        return _said("sentinel-2-l1c" if level1 else "sentinel-2-l2a", "by its name and bands", notes)
    if integer8:
        return _said("8bit", "since its values have 8 bits", notes)
    stated = {(raster.scales[i - 1], raster.offsets[i - 1]) for i in raster.data_bands}
    scale, offset = next(iter(stated), (1.0, 0.0))
    if len(stated) == 1 and 0 < scale <= 0.01 and abs(offset) <= 1:
        return _said("reflectance", f"since the file states a scale of {scale:g} and an offset of {offset:g}", notes)
    if count == 13 and raster.dtypes[0] == "uint16":
        return _said("sentinel-2-l1c", "since it has 13 bands of 16 bits", notes)
    if count == 12 and raster.dtypes[0] == "uint16":
        return _said("sentinel-2-l2a", "since it has 12 bands of 16 bits", notes)
    return _said("stretch", "since neither name, tags nor band count tell the sensor (say it with --sensor)", notes)


def _said(name: str, reason: str, notes: list[str]) -> Sensor:
    notes.append(f"sensor {name}: {reason}")
    return SENSORS[name]


def _landsat_row(found: re.Match, integer8: bool) -> str:
    instrument, number, level = found.groups()
    modern = instrument in "CO" and number in "89"
    if integer8 and level == "2":
        return "landsat-8bit"
    return f"landsat-{'89' if modern else '47'}-c2-l{level}"


def _sensor_of_stack(
    folder: str,
    rasters: Sequence[Raster],
    identifiers: Sequence[str | None],
    dtypes: set[str],
    has_scl: bool,
    notes: list[str],
) -> Sensor:
    integer8 = dtypes == {"uint8"}
    place = f"{folder}/{rasters[0].stem}"
    landsat = _LANDSAT_NAME.search(place)
    if landsat:
        return _said(_landsat_row(landsat, integer8), "by its file names", notes)
    # Sentinel-2 writes B02 and B8A; Landsat writes B2.
    padded = [text for text in identifiers if text and (len(text) == 3 or text == "B8A")]
    if padded and (_S2_NAME.search(place) or any(text.startswith("B0") or text == "B8A" for text in padded)):
        if integer8:
            return _said("sentinel-2-8bit", "by its band files, which hold 8-bit display values", notes)
        text = place.upper()
        if has_scl or "L2A" in text:
            return _said("sentinel-2-l2a", "by its band files and name", notes)
        if "L1C" in text or "B10" in identifiers:
            return _said("sentinel-2-l1c", "by its band files", notes)
        return _said("sentinel-2-l2a", "by its band files; level 2A is taken, since nothing tells the level", notes)
    if integer8:
        return _said("8bit", "since its values have 8 bits", notes)
    stated = {(raster.scales[0], raster.offsets[0]) for raster in rasters}
    scale, offset = next(iter(stated))
    if len(stated) == 1 and 0 < scale <= 0.01 and abs(offset) <= 1:
        return _said("reflectance", f"since the files state a scale of {scale:g}", notes)
    return _said("stretch", "since neither names nor tags tell the sensor (say it with --sensor)", notes)


def _names_of(raster: Raster, row: Sensor, given: Sequence[str] | None, notes: list[str]) -> tuple[str, ...]:
    bands = raster.data_bands
    count = len(bands)
    if given:
        if len(given) != count:
            raise InputError(
                f"{raster.path} holds {count} bands, but --band-names gives {len(given)}: {', '.join(given)}."
            )
        notes.append(f"bands {', '.join(given)}: as given")
        return tuple(given)
    names: tuple[str, ...] = ()
    reason = ""
    described = [raster.descriptions[i - 1] for i in bands]
    colours = [raster.colours[i - 1] for i in bands]
    if all(described):
        names, reason = tuple(named(text or "", row) for text in described), "from the band descriptions"
    elif {ColorInterp.red, ColorInterp.green, ColorInterp.blue} <= set(colours):
        spare = iter(["nir"] if count == 4 else [f"b{i}" for i in bands])
        known = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)
        names = tuple(c.name if c in known else next(spare) for c in colours)
        reason = "from the colour interpretation"
    elif row.name.startswith("sentinel-2") and count in (12, 13):
        order = _S2_GEE_ORDER if count == 13 else _S2_L2A_ORDER
        names, reason = tuple(named(text, row) for text in order), f"the usual order of {count} Sentinel-2 bands"
    elif len(row.bands) == count:
        names, reason = tuple(row.bands.values()), f"the order of {row.name}"
    elif count in _UNNAMED:
        names = _UNNAMED[count]
        reason = f"assumed for {count} unnamed bands (say them with --band-names)" if count > 1 else "its only band"
    else:
        names, reason = tuple(f"b{i}" for i in bands), "the file names none (say them with --band-names)"
    if len(set(names)) < len(names):
        names, reason = tuple(f"b{i}" for i in bands), "the file's own names repeat (say them with --band-names)"
    notes.append(f"bands {', '.join(names)}: {reason}")
    if ColorInterp.palette in colours:
        notes.append("the band holds indices into a palette, read as plain numbers")
    return names


def acquired(path: str, tags: dict[str, str]) -> str | None:
    """ISO 8601 date or time of acquisition from a file's tags, else from its name or its folder's, or None."""
    for key in _TAG_DATES:
        found = _DATE.search(tags.get(key, "").replace(":", "-", 2).replace(" ", "T").replace(":", ""))
        if found:
            return _iso(found)
    place = Path(path.split("?")[0])
    for text in (place.stem, place.parent.name):
        found = _DATE.search(text)
        if found:
            return _iso(found)
        if _YEAR.match(text):
            return text
    return None


def _iso(found: re.Match) -> str:
    year, month, day, hour, minute, second = found.groups()
    return f"{year}-{month}-{day}" + (f"T{hour}:{minute}:{second}Z" if hour else "")
