"""Sensors: which bands they have and how their digital numbers become values in [0, 1].

Two steps, both linear and both the same for every pixel of a band: digital number → reflectance, and reflectance →
display range. The display maximum of the visible bands is 0.275: the value that maps the three EuroSAT
multi-spectral tiles onto the RGB images published with them (mean absolute error 1.2 of 255, measured in
``tests/tiles/test_sensor_real.py``). Vegetation reflects about twice as much in the red edge, near and short-wave
infrared, so that those bands keep 0.55.
"""

import re
from dataclasses import dataclass
from enum import StrEnum

VISIBLE_MAX = 0.275
INFRARED_MAX = 0.55

# The STAC eo extension's common names, with numbered red edges.
_COMMON_NAMES = frozenset(
    [
        "coastal",
        "blue",
        "green",
        "yellow",
        "red",
        "rededge",
        "rededge071",
        "rededge075",
        "rededge078",
        "nir",
        "nir08",
        "nir09",
        "cirrus",
        "swir16",
        "swir22",
    ]
)
_VISIBLE = ("coastal", "blue", "green", "yellow", "red")


Linear = tuple[float, float]  # scale and offset


class Meaning(StrEnum):
    """What kind of values a band has in [0, 1]."""

    reflectance = "reflectance"
    display = "display"
    stretched = "stretched"  # by the scene's own percentiles


@dataclass(frozen=True)
class Sensor:
    """One row of the table.

    Attributes:
        name: What ``--sensor`` takes.
        title: For people.
        bands: Band identifiers of the sensor's own products, upper case, to common names, in file order.
        scale: Reflectance = digital number * scale + offset; None where values are display values already.
        offset: See ``scale``.
        full_scale: Digital number shown as 1.0 where there is no reflectance (8-bit and 11-bit imagery).
        nodata: Digital number that means "no measurement" even when the file does not say so.
    """

    name: str
    title: str
    bands: dict[str, str]
    scale: float | None = None
    offset: float = 0.0
    full_scale: float = 255.0
    nodata: float | None = None

    def to_unit(self, band: str) -> Linear:
        """Scale and offset from digital numbers to [0, 1] for a band of that common name.

        Args:
            band: Common name; it chooses the display range.
        """
        if self.scale is None:
            return 1.0 / self.full_scale, 0.0
        return to_display(band, self.scale, self.offset)


def to_display(band: str, scale: float, offset: float) -> Linear:
    """Scale and offset to [0, 1] of a band whose reflectance is ``digital number * scale + offset``."""
    top = VISIBLE_MAX if band in _VISIBLE else INFRARED_MAX
    return scale / top, offset / top


def is_reflectance(scale: float, offset: float) -> bool:
    """Whether a scale and an offset that a file states can turn integers into reflectance."""
    return 0 < scale <= 0.01 and abs(offset) <= 1


def _table(text: str) -> dict[str, str]:
    """``B02:blue B03:green …`` as a dictionary."""
    return dict(pair.split(":") for pair in text.split())


_S2_BANDS = _table(
    "B01:coastal B02:blue B03:green B04:red B05:rededge071 B06:rededge075 B07:rededge078 B08:nir B8A:nir08 B09:nir09 "
    "B10:cirrus B11:swir16 B12:swir22"
)
_S2_L2A_BANDS = {key: name for key, name in _S2_BANDS.items() if key != "B10"}
_OLI_BANDS = _table("B1:coastal B2:blue B3:green B4:red B5:nir08 B6:swir16 B7:swir22 B9:cirrus")
_OLI_SR_BANDS = {key: name for key, name in _OLI_BANDS.items() if key != "B9"}
_TM_BANDS = _table("B1:blue B2:green B3:red B4:nir08 B5:swir16 B7:swir22")
_RGBN = _table("1:red 2:green 3:blue 4:nir")
_PLANET_8 = _table(
    "COASTAL_BLUE:coastal BLUE:blue GREEN_I:green_i GREEN:green YELLOW:yellow RED:red REDEDGE:rededge NIR:nir"
)
_WORLDVIEW_8 = _table("C:coastal B:blue G:green Y:yellow R:red RE:rededge N:nir N2:nir09")

# Landsat Collection 2: LSDS-1618/1619 product guides (reflectance = DN * 2.75e-5 - 0.2 at level 2, DN * 2e-5 - 0.1 at
# level 1 before the sun's elevation). Sentinel-2: quantification value 10,000, and -1000 digital numbers from
# processing baseline 04.00 (2022-01-25) on. PlanetScope surface reflectance: 10,000.
SENSORS: dict[str, Sensor] = {
    row.name: row
    for row in (
        Sensor("sentinel-2-l1c", "Sentinel-2 L1C, top of atmosphere", _S2_BANDS, 1e-4, nodata=0),
        Sensor("sentinel-2-l2a", "Sentinel-2 L2A, surface reflectance", _S2_L2A_BANDS, 1e-4, nodata=0),
        Sensor("sentinel-2-8bit", "Sentinel-2 bands stretched to 8 bits for display", _S2_BANDS),
        Sensor(
            "landsat-89-c2-l2",
            "Landsat 8 and 9, Collection 2 surface reflectance",
            _OLI_SR_BANDS,
            2.75e-5,
            -0.2,
            nodata=0,
        ),
        Sensor("landsat-89-c2-l1", "Landsat 8 and 9, Collection 2 top of atmosphere", _OLI_BANDS, 2e-5, -0.1, nodata=0),
        Sensor(
            "landsat-47-c2-l2", "Landsat 4 to 7, Collection 2 surface reflectance", _TM_BANDS, 2.75e-5, -0.2, nodata=0
        ),
        Sensor("landsat-47-c2-l1", "Landsat 4 to 7, Collection 2 8-bit level 1 numbers", _TM_BANDS, nodata=0),
        Sensor("landsat-8bit", "Landsat bands stretched to 8 bits for display", _TM_BANDS),
        Sensor("naip", "NAIP aerial, 8 bits", _RGBN),
        Sensor(
            "planetscope-sr",
            "PlanetScope surface reflectance",
            {"BLUE": "blue", "GREEN": "green", "RED": "red", "NIR": "nir"},
            1e-4,
            nodata=0,
        ),
        Sensor("planetscope-8b-sr", "PlanetScope SuperDove surface reflectance, 8 bands", _PLANET_8, 1e-4, nodata=0),
        Sensor("maxar-8bit", "Maxar/WorldView, 8 bits", {"R": "red", "G": "green", "B": "blue", "N": "nir"}),
        Sensor("maxar-11bit", "Maxar/WorldView, 11 bits", _WORLDVIEW_8, full_scale=2047.0, nodata=0),
        Sensor("reflectance", "Reflectance: floats as they are, integers as ten-thousandths", {}, 1.0),
        Sensor("8bit", "Any 8-bit image", {}),
        Sensor("stretch", "Unknown units: one percentile stretch over the whole scene", {}),
    )
}

# Other spellings of band names in files, STAC assets and descriptions.
_ALIASES = _table(
    "coastal_aerosol:coastal coastal_blue:coastal aerosol:coastal near_infrared:nir nearinfrared:nir near_ir:nir "
    "nir1:nir nir2:nir09 nir_narrow:nir08 red_edge:rededge rededge1:rededge071 rededge2:rededge075 "
    "rededge3:rededge078 red_edge_1:rededge071 red_edge_2:rededge075 red_edge_3:rededge078 swir1:swir16 swir2:swir22 "
    "swir_1:swir16 swir_2:swir22 r:red g:green b:blue"
)
_BAND_ID = re.compile(r"(?:^|[_\-. ])(B(?:\d{1,2}|8A))(?:[_\-. ]|$)", re.IGNORECASE)
_WORD = re.compile(r"[^a-z0-9]+")


def meaning(sensor: str, units: dict[str, tuple[float, float]]) -> Meaning:
    """What the bands of a scene stand for, by its row of the table and each band's scale and offset to [0, 1]."""
    row = SENSORS[sensor]
    if row.scale is not None:
        return Meaning.reflectance
    shown = all(unit in (row.to_unit(name), (1.0, 0.0)) for name, unit in units.items())
    return Meaning.display if shown and row.name != "stretch" else Meaning.stretched


def common_name(text: str) -> str | None:
    """The common name that a description, an asset key or a file stem spells, or None."""
    word = _WORD.sub("_", text.strip().lower()).strip("_")
    word = _ALIASES.get(word, word)
    if word in _COMMON_NAMES:
        return word
    last = word.rsplit("_", 1)[-1]
    last = last if len(last) > 1 else ""  # a lone letter at the end of a name says nothing
    last = _ALIASES.get(last, last)
    return last if last in _COMMON_NAMES else None


def band_id(text: str) -> str | None:
    """The band identifier (``B02``, ``B8A``, ``B4``) within a file stem or a description, or None."""
    found = _BAND_ID.search(text)
    return found.group(1).upper() if found else None


def named(name: str, sensor: Sensor) -> str:
    """The common name of a band called ``name`` in a file of ``sensor``, else ``name`` in lower case."""
    identifier = band_id(name) or ""
    # Sentinel-2's own files write B02 and Landsat's B2; Earth Engine writes B2 and HLS B02 for both.
    padded = identifier.replace("B", "B0") if len(identifier) == 2 else ""
    for spelling in (identifier, padded, identifier.replace("B0", "B")):
        if spelling in sensor.bands:
            return sensor.bands[spelling]
    if name.upper() in sensor.bands:
        return sensor.bands[name.upper()]
    return common_name(name) or name.strip().lower()
