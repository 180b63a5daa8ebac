"""Deciding, from names, tags and types, which sensor a raster is from and what its bands are called.

Every decision is a sentence in ``Decision.notes``, which is printed and stored: nothing is guessed silently.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from odc.geo.geobox import GeoBox
from rasterio.enums import ColorInterp

from tiles.errors import InputError
from tiles.scenes.band import Band
from tiles.scenes.dates import acquired
from tiles.scenes.raster import Raster
from tiles.scenes.safe import SafeMetadata, safe_metadata
from tiles.scenes.sensor import SENSORS, Sensor, band_id, common_name, is_reflectance, named
from tiles.scenes.stretch import percentiles
from tiles.scenes.units import REFLECTANCE_TOP, Decision, Evidence, settle_units

_S2_NAME = re.compile(r"S2[ABC]_|MSIL[12][AC]|SENTINEL-?_?2|(?:^|[_/])T\d{2}[A-Z]{3}_|EuroSAT_?MS", re.IGNORECASE)
_LANDSAT_NAME = re.compile(r"L([COTEM])0([4-9])_L(1|2)[A-Z0-9]{2}_")
_HLS_LANDSAT_NAME = re.compile(r"HLS\.L30\.")  # its bands are Landsat's, spelled as Sentinel-2's
_NAIP_NAME = re.compile(r"(?:^|/)m_\d{7}_(?:ne|nw|se|sw)_\d{2}_", re.IGNORECASE)
_PLANET_NAME = re.compile(r"_AnalyticMS_(8b_)?SR|AnalyticMS_SR_(8b)?", re.IGNORECASE)
_MAXAR_NAME = re.compile(r"(?:^|[/_])(?:WV0[1-4]|GE01|QB02|103001|104001|105001)", re.IGNORECASE)
# Landsat's digital numbers of level 1 and 2 begin at 5000 and 7273 where the ground reflects nothing.
_LANDSAT_LEAST = 5000
# Names that Earth Engine gives its exports: S2_SR_HARMONIZED, COPERNICUS_S2.
_EE_S2_NAME = re.compile(r"(?:^|[_\-. ])S2(?:[_\-. ]|$)", re.IGNORECASE)

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
    product = safe_metadata(raster.path, notes)
    row = _given(sensor, notes) if sensor else _sensor_of(raster, product, notes)
    names = _names_of(raster, row, band_names, notes)
    parent = Path(raster.path.split("?")[0]).parent.name
    date = acquired(_tags(raster, product), {"file name": raster.stem, "folder's name": parent}, notes)
    evidence = Evidence(raster.path, raster.tags, date, product)
    sources = [(raster, index) for index in raster.data_bands]
    row, units = settle_units(row, sources, names, evidence, notes)
    return Decision(row, names, units, date, tuple(notes))


def decide_stack(
    rasters: Sequence[Raster], folder: str, sensor: str | None, band_names: Sequence[str] | None, has_scl: bool
) -> Decision:
    """Decide for a folder of single-band files."""
    notes: list[str] = []
    identifiers = [band_id(raster.stem) for raster in rasters]
    dtypes = {raster.dtypes[0] for raster in rasters}
    product = safe_metadata(rasters[0].path, notes)
    if sensor:
        row = _given(sensor, notes)
    else:
        row = _sensor_of_stack(folder, rasters, identifiers, dtypes, has_scl, product, notes)
    if band_names:
        if len(band_names) != len(rasters):
            raise InputError(f"{folder} holds {len(rasters)} bands, but --band-names gives {len(band_names)}.")
        names = tuple(band_names)
        notes.append(f"bands {', '.join(names)}: as given")
    else:
        names = tuple(_stack_name(raster.stem, row) for raster in rasters)
        notes.append(f"bands {', '.join(names)}: from the file names")
    looked_in = {"file name": rasters[0].stem, "folder's name": Path(folder).absolute().name}
    date = acquired(_tags(rasters[0], product), looked_in, notes)
    evidence = Evidence(f"{folder}/{rasters[0].stem}", rasters[0].tags, date, product)
    row, units = settle_units(row, [(raster, 1) for raster in rasters], names, evidence, notes)
    return Decision(row, names, units, date, tuple(notes))


def _given(sensor: str, notes: list[str]) -> Sensor:
    row = sensor_row(sensor)
    notes.append(f"sensor {row.name}: as given")
    return row


def _tags(raster: Raster, product: SafeMetadata | None) -> dict[str, str]:
    return {**raster.tags, "PRODUCT_START_TIME": product.taken} if product and product.taken else raster.tags


def _stack_name(stem: str, row: Sensor) -> str:
    identifier = band_id(stem)
    return named(identifier, row) if identifier else common_name(stem) or stem.lower()


def _sensor_of(raster: Raster, product: SafeMetadata | None, notes: list[str]) -> Sensor:
    path = raster.path
    bands = raster.data_bands
    count = len(bands)
    types = {raster.dtypes[i - 1] for i in bands}
    integer8 = types <= {"uint8"}
    floating = all(dtype.startswith("float") for dtype in types)
    landsat = _LANDSAT_NAME.search(path)
    if landsat:
        return _said(_landsat_row(landsat, integer8), "by its file name", notes)
    if _HLS_LANDSAT_NAME.search(path):
        return _said("landsat-89-c2-l2", "by its file name (HLS)", notes)
    if _NAIP_NAME.search(path):
        return _said("naip", "by its file name", notes)
    planet = _PLANET_NAME.search(path)
    if planet:
        return _said("planetscope-8b-sr" if count == 8 else "planetscope-sr", "by its file name", notes)
    if _MAXAR_NAME.search(path) or "satId" in raster.tags or "IMD_SATID" in raster.tags:
        return _said("maxar-8bit" if integer8 else "maxar-11bit", "by its name or tags", notes)
    described = [band_id(raster.descriptions[i - 1] or "") for i in bands]
    esa = _S2_NAME.search(path) or product or any(text and text.startswith("B0") for text in described)
    earth_engine = None if esa else _earth_engine([(raster, i) for i in bands], described, notes)
    if esa or earth_engine or "B8A" in described:
        if integer8:
            return _said("sentinel-2-8bit", "by its name", notes)
        level = _level(path, product)
        level1 = level == "L1C" or (level is None and ("B10" in described or (count == 13 and not any(described))))
        reason = earth_engine or "by its name and bands"
        return _said("sentinel-2-l1c" if level1 else "sentinel-2-l2a", reason, notes)
    if integer8:
        return _said("8bit", "since its values have 8 bits", notes)
    stated = [(raster.scales[i - 1], raster.offsets[i - 1]) for i in bands]
    known = next(((scale, offset) for scale, offset in stated if is_reflectance(scale, offset)), None)
    if known:
        return _said("reflectance", "since the file states a scale of {:g} and an offset of {:g}".format(*known), notes)
    if count == 13 and raster.dtypes[0] == "uint16":
        return _said("sentinel-2-l1c", "since it has 13 bands of 16 bits", notes)
    if count == 12 and raster.dtypes[0] == "uint16":
        return _said("sentinel-2-l2a", "since it has 12 bands of 16 bits", notes)
    if floating and all(common_name(raster.descriptions[i - 1] or "") for i in bands):
        return _floats([(raster, i) for i in bands], notes)
    return _said("stretch", "since neither name, tags nor band count tell the sensor (say it with --sensor)", notes)


def _level(path: str, product: SafeMetadata | None) -> str | None:
    """Level of a Sentinel-2 product, by its metadata, else by its name."""
    if product:
        return product.level
    text = path.upper()
    return "L1C" if "L1C" in text else "L2A" if "L2A" in text or "S2_SR" in text else None


def _floats(sources: Sequence[tuple[Raster, int]], notes: list[str]) -> Sensor:
    """Floats of spectral bands: reflectance where their values can be that."""
    ranges = [_range(raster, index) for raster, index in sources]
    low, high = min(low for low, _ in ranges), max(high for _, high in ranges)
    values = f"its bands are spectral and its float values go from {low:g} to {high:g} (percentiles 2 and 98)"
    if low >= -0.3 and high <= REFLECTANCE_TOP:
        return _said("reflectance", f"since {values}", notes)
    return _said("stretch", f"since {values}, which is no reflectance (say it with --sensor)", notes)


def _range(raster: Raster, index: int) -> tuple[float, float]:
    """Percentiles 2 and 98 of a band's digital numbers."""
    return percentiles(Band("", raster.path, index, raster.dtypes[index - 1], raster.nodata[index - 1], 1.0, 0.0))


def _earth_engine(
    sources: Sequence[tuple[Raster, int]], identifiers: Sequence[str | None], notes: list[str]
) -> str | None:
    """Why bands that are called B2, B3 … as Google Earth Engine writes them are Sentinel-2's; None where they are not.

    Landsat's are called so too, and other colours: what tells them apart are the bands that only one has, the name,
    and 10 or 20 m pixels together with values that are no Landsat digital numbers.
    """
    found = {text for text in identifiers if text}
    texts = [f"{raster.descriptions[index - 1]} {raster.stem}".upper() for raster, index in sources]
    unpadded = {"B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B9"} & found
    if not unpadded or any("SR_B" in text for text in texts):
        return None
    listed = ", ".join(text for text in identifiers if text)
    raster, index = next(source for source, text in zip(sources, identifiers, strict=True) if text in unpadded)
    place = Path(raster.path)
    if "B8A" in found or "B12" in found:
        return f"by its bands {listed}, among them {'B8A' if 'B8A' in found else 'B12'}, which only Sentinel-2 has"
    if _EE_S2_NAME.search(place.stem) or _EE_S2_NAME.search(place.parent.name):
        return f"by its name and its bands {listed}"
    stated = raster.scales[index - 1], raster.offsets[index - 1]
    if abs(stated[0] / 1e-4 - 1) < 1e-3:
        return f"by its bands {listed} and the scale of 0.0001 that it states"
    if stated == (1.0, 0.0) and "B10" not in found and ("B8" in found or _sentinel2_pixels(raster.geobox)):
        low, _ = _range(raster, index)
        if low < _LANDSAT_LEAST:
            sign = "B8 with them" if "B8" in found else "pixels of 10 or 20 m"
            return f"by its bands {listed}, {sign} and values from {low:g} on, which are no Landsat digital numbers"
    notes.append(
        f"bands {listed} may be Sentinel-2's or Landsat's (say --sensor sentinel-2-l2a or --sensor landsat-89-c2-l2)"
    )
    return None


def _sentinel2_pixels(geobox: GeoBox) -> bool:
    """Whether pixels are 10 or 20 m high, in degrees along the meridian."""
    if geobox.crs is None:
        return False
    metres = abs(geobox.affine.e) * (111_195 if geobox.crs.geographic else 1)
    return any(abs(metres / side - 1) < 0.05 for side in (10, 20))


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
    product: SafeMetadata | None,
    notes: list[str],
) -> Sensor:
    integer8 = dtypes == {"uint8"}
    place = f"{folder}/{rasters[0].stem}"
    landsat = _LANDSAT_NAME.search(place)
    if landsat:
        return _said(_landsat_row(landsat, integer8), "by its file names", notes)
    if _HLS_LANDSAT_NAME.search(place):
        return _said("landsat-89-c2-l2", "by its file names (HLS)", notes)
    # Sentinel-2 writes B02 and B8A; Landsat writes B2, and Earth Engine for both.
    padded = [text for text in identifiers if text and (len(text) == 3 or text == "B8A")]
    esa = product or (padded and (_S2_NAME.search(place) or any(text.startswith("B0") for text in padded)))
    earth_engine = None if esa else _earth_engine([(raster, 1) for raster in rasters], identifiers, notes)
    if esa or earth_engine or "B8A" in padded:
        if integer8:
            return _said("sentinel-2-8bit", "by its band files, which hold 8-bit display values", notes)
        level = _level(place, product)
        if has_scl or level == "L2A":
            return _said("sentinel-2-l2a", earth_engine or "by its band files and name", notes)
        if level == "L1C" or "B10" in identifiers:
            return _said("sentinel-2-l1c", earth_engine or "by its band files", notes)
        reason = earth_engine or "by its band files"
        return _said("sentinel-2-l2a", f"{reason}; level 2A is taken, since nothing tells the level", notes)
    if integer8:
        return _said("8bit", "since its values have 8 bits", notes)
    stated = [(raster.scales[0], raster.offsets[0]) for raster in rasters]
    known = next((scale for scale, offset in stated if is_reflectance(scale, offset)), None)
    if known:
        return _said("reflectance", f"since the files state a scale of {known:g}", notes)
    if all(dtype.startswith("float") for dtype in dtypes) and all(common_name(raster.stem) for raster in rasters):
        return _floats([(raster, 1) for raster in rasters], notes)
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
    elif count == 1 and band_id(raster.stem) and named(raster.stem, row) in row.bands.values():
        names, reason = (named(raster.stem, row),), "from the file name"
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
