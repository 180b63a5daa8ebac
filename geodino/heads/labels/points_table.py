"""Labels as a table of points: text with a column for each coordinate."""

import csv
import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from odc.geo.geobox import GeoBox

from tiles.errors import InputError

if TYPE_CHECKING:
    import geopandas as gpd
    import pandas as pd

SUFFIXES = (".csv", ".tsv", ".txt")
_DEGREES = (("lon", "lat"), ("long", "lat"), ("lng", "lat"), ("longitude", "latitude"))
_PAIRS = (*_DEGREES, ("x", "y"), ("easting", "northing"))
_SEPARATORS = ",;\t|"


@dataclass(frozen=True)
class Columns:
    """Where the coordinates stand.

    Attributes:
        x: heading of longitude or easting.
        y: heading of latitude or northing.
        separator: character between columns.
        degrees: whether the headings say that these are degrees.
    """

    x: str
    y: str
    separator: str
    degrees: bool


def find_columns(path: Path) -> Columns | None:
    """The columns of coordinates by their headings; None where the file is no table of points."""
    if path.suffix.lower() not in SUFFIXES or not os.path.isfile(path):
        return None
    with path.open("rb") as file:
        line = _decoded(file.read(1 << 16)).lstrip("\r\n").partition("\n")[0]
    for separator in _SEPARATORS:
        try:
            heading = next(csv.reader([line.strip("\r\n")], delimiter=separator, skipinitialspace=True), [])
        except csv.Error:
            continue
        named = {name.strip().lower(): name.strip() for name in heading}
        for x, y in _PAIRS:
            if x in named and y in named:
                return Columns(named[x], named[y], separator, (x, y) in _DEGREES)
    return None


def points_of(path: Path, columns: Columns, geobox: GeoBox, notes: list[str]) -> "gpd.GeoDataFrame":
    """Read the points.

    Longitude and latitude are degrees. Other coordinates are the scene's own where one of them lies within it or none
    can be degrees, and else degrees; what was decided is noted.

    Raises:
        InputError: it holds no point, or what are called degrees are none.
        ValueError: it cannot be read as a table.
    """
    import geopandas as gpd
    import pandas as pd

    text = _decoded(path.read_bytes())
    table = pd.read_csv(
        io.StringIO(text.lstrip("\r\n")), sep=columns.separator, skipinitialspace=True, keep_default_na=False,
        na_values=[""], index_col=False, low_memory=False,
    )  # fmt: skip
    table.columns = [str(name).strip() for name in table.columns]
    if table.columns.has_duplicates:
        raise InputError(f"{path} has two columns of one name; rename one")
    x, y = (_numbers(table[name]) for name in (columns.x, columns.y))
    known = np.isfinite(x) & np.isfinite(y)
    if not known.any():
        raise InputError(f"{path} holds no point: columns {columns.x} and {columns.y} have no numbers")
    if not known.all():
        notes.append(f"{int((~known).sum()):,} rows of {path.name} have no coordinates and are left out")
    x, y, table = x[known], y[known], table[known]
    possible = bool((abs(x) <= 360).all() and (abs(y) <= 90).all())
    if columns.degrees and not possible:
        raise InputError(
            f"columns {columns.x} and {columns.y} of {path} hold numbers that are no degrees; call columns in the "
            "scene's own coordinates x and y"
        )
    degrees = columns.degrees or (geobox.crs is not None and possible and not _within(x, y, geobox))
    crs = "EPSG:4326" if degrees else None if geobox.crs is None else geobox.crs.to_wkt()
    read_as = "degrees of longitude and latitude" if degrees else "coordinates of the scene"
    notes.append(f"columns {columns.x} and {columns.y} of {path.name} are read as {read_as}")
    attributes = table.drop(columns=[columns.x, columns.y])
    attributes = attributes.rename(columns={"geometry": "geometry_"})
    return gpd.GeoDataFrame(attributes, geometry=gpd.points_from_xy(x, y), crs=crs)


def _decoded(content: bytes) -> str:
    """Text in UTF-8 or, by its mark, UTF-16; else as Western European systems write it."""
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return content.decode("utf-16", errors="replace")
    try:
        # The beginning of a file may end within a character.
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if error.start >= len(content) - 3 and len(content) > 3:
            return content[: error.start].decode("utf-8-sig")
        return content.decode("cp1252", errors="replace")


def _numbers(column: "pd.Series") -> np.ndarray:
    """Values of a column, with a decimal point or comma; NaN where there is no number."""
    import pandas as pd

    if pd.api.types.is_numeric_dtype(column):
        return column.to_numpy(dtype=float, na_value=np.nan)
    text = column.astype(str).str.strip().str.replace(",", ".", regex=False)
    return pd.to_numeric(text, errors="coerce").to_numpy(dtype=float, na_value=np.nan)


def _within(x: np.ndarray, y: np.ndarray, geobox: GeoBox) -> bool:
    """Whether one of the points lies in the scene by the scene's own coordinates."""
    cols, rows = ~geobox.affine @ (x, y)
    height, width = geobox.shape
    return bool(((cols >= 0) & (cols < width) & (rows >= 0) & (rows < height)).any())
