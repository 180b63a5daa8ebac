"""Vector files, and the objects of a classified raster as polygons that share their borders.

GDAL walks the whole raster line by line, so an object that crosses blocks or tiles is one polygon; memory grows with
the objects, not with the raster. Simplification works on all polygons together (Visvalingam–Whyatt on the coverage),
so that neighbours keep one common border.
"""

import math
import shutil
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyproj
import rasterio
import shapely
from numpy.typing import NDArray
from pyogrio.errors import DataSourceError
from rasterio.features import shapes
from shapely.geometry import shape

from tiles.errors import InputError, OutputError
from tiles.grids import cut_at_antimeridian
from tiles.writing.outputs import check_output, disk_errors, part_of

if TYPE_CHECKING:
    import geopandas as gpd

# Longest straight edge that is measured as one, in parts of all polygons' extent: a parallel is no shortest way.
_EDGES = 256
# Driver of pyogrio and media type by suffix; GeoParquet is geopandas' own.
_FORMATS = {
    ".gpkg": ("GPKG", "application/geopackage+sqlite3"),
    ".geojson": ("GeoJSON", "application/geo+json"),
    ".json": ("GeoJSON", "application/geo+json"),
    ".shp": ("ESRI Shapefile", "application/vnd.shp"),
    ".fgb": ("FlatGeobuf", "application/vnd.flatgeobuf"),
    ".parquet": (None, "application/vnd.apache.parquet"),
}


def check_vector_path(path: Path, *, overwrite: bool) -> None:
    """Refuse a vector output before any work is done.

    Raises:
        OutputError: unknown suffix, missing folder, or the file exists and ``overwrite`` is False.
    """
    if path.suffix.lower() not in _FORMATS:
        raise OutputError(f"{path} has no known vector suffix; use one of {', '.join(_FORMATS)}")
    check_output(path, overwrite=overwrite)


def media_type(path: Path) -> str:
    """Media type of a vector file by its suffix."""
    return _FORMATS[path.suffix.lower()][1]


def check_area(area_m2: float) -> None:
    """Refuse a smallest area that is no area, before any work.

    Raises:
        InputError: it is negative or no finite number.
    """
    if not 0 <= area_m2 < math.inf:
        raise InputError(f"the smallest area is a number of m² from 0 on, not {area_m2:g}")


def polygonize(path: str | Path, *, simplify_pixels: float = 0.0, drop: tuple[int, ...] = ()) -> "gpd.GeoDataFrame":
    """Polygons of equal values of a raster's first band.

    Args:
        path: a classified raster.
        simplify_pixels: tolerance in pixel sides; 0 keeps the pixel outline. Triangles of less than its square are
            cut, shared borders stay shared.
        drop: values that make no polygon, such as nodata.

    Returns:
        Columns ``value`` (int) and ``geometry`` in the raster's coordinate reference system, ordered by position.
    """
    import geopandas as gpd  # half a second that a map without polygons need not spend

    with rasterio.open(path) as source:
        side = float(np.sqrt(abs(source.transform.determinant)))
        found = [
            (int(value), shape(geometry))
            for geometry, value in shapes(rasterio.band(source, 1), connectivity=4, transform=source.transform)
            if int(value) not in drop
        ]
        crs = source.crs
    values = np.array([value for value, _ in found], dtype=np.int64)
    geometry = np.array([polygon for _, polygon in found], dtype=object)
    if simplify_pixels > 0 and len(geometry):
        geometry = shapely.coverage_simplify(geometry, simplify_pixels * side)
        kept = ~shapely.is_empty(geometry)
        values, geometry = values[kept], geometry[kept]
    return gpd.GeoDataFrame({"value": values}, geometry=gpd.GeoSeries(list(geometry), crs=crs), crs=crs)


def areas_m2(frame: "gpd.GeoDataFrame") -> NDArray[np.float64]:
    """True area of each polygon in square metres: on the ellipsoid, whatever the projection does to areas.

    Without a coordinate reference system, in the square of the raster's own unit.
    """
    if frame.crs is None:
        return np.asarray(frame.geometry.area, dtype=np.float64)
    crs = pyproj.CRS.from_user_input(frame.crs)
    ellipsoid = crs.get_geod()
    if ellipsoid is None or crs.geodetic_crs is None:
        return np.asarray(frame.geometry.area, dtype=np.float64)
    west, south, east, north = frame.total_bounds
    longest = max(east - west, north - south) / _EDGES
    outlines = frame.geometry.segmentize(longest) if longest > 0 else frame.geometry
    degrees = outlines.to_crs(crs.geodetic_crs)
    return np.array([abs(ellipsoid.geometry_area_perimeter(polygon)[0]) for polygon in degrees], dtype=np.float64)


def write_vector(frame: "gpd.GeoDataFrame", path: Path, *, layer: str, overwrite: bool = False) -> None:
    """Write geometries with their attributes, whole or not at all; the suffix chooses the format.

    GeoJSON is as RFC 7946 has it: longitude and latitude, outlines cut at the antimeridian.

    Args:
        frame: what to write.
        path: where.
        layer: its name inside a GeoPackage.
        overwrite: replace an existing file.

    Raises:
        OutputError: see ``check_vector_path``; or the file cannot be written.
    """
    check_vector_path(path, overwrite=overwrite)
    driver = _FORMATS[path.suffix.lower()][0]
    options = {"layer": layer} if driver == "GPKG" else {}
    if driver == "GeoJSON" and frame.crs is not None:
        options = {"RFC7946": "YES"}
        if frame.crs.is_geographic:  # GDAL cuts what it brings from other systems, and only that
            frame = frame.set_geometry([cut_at_antimeridian(outline) for outline in frame.geometry], crs=frame.crs)
    folder = part_of(path)
    shutil.rmtree(folder, ignore_errors=True)
    try:
        with disk_errors(path):
            folder.mkdir()
            whole = folder / path.name
            if driver is None:
                frame.to_parquet(whole, index=False)
            else:
                with warnings.catch_warnings():  # a scene without a reference system has polygons without one
                    warnings.filterwarnings("ignore", "'crs' was not provided")
                    frame.to_file(whole, driver=driver, engine="pyogrio", **options)
            for file in folder.iterdir():  # a shapefile is several files
                file.replace(path.with_name(file.name))
    except DataSourceError as error:
        raise OutputError(f"{path} cannot be written: {error}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
