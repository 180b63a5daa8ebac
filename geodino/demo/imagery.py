"""Satellite scenes that come with installed packages: the only imagery a machine has after an installation.

``localtileserver`` carries Landsat scenes and ``spyndex`` a Sentinel-2 chip. They are read where they lie or
written as GeoTIFFs into the demo's folder; nothing is downloaded.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import rasterio
from odc.geo.geobox import GeoBox
from rasterio.transform import from_origin

from tiles.errors import InputError

# Points (column, row) in the San Francisco scene, set by eye on the false-colour picture.
SAN_FRANCISCO_POINTS = {
    "water": ((800, 560), (1350, 1200), (200, 1250), (1650, 1450), (1100, 300), (1300, 1650)),
    "built-up": ((600, 930), (760, 1090), (860, 960), (1350, 720), (1660, 1130), (1480, 870), (1880, 1360)),
    "woodland": ((230, 250), (110, 190), (1700, 690), (1800, 760), (560, 985), (650, 1790)),
    "grassland": ((1960, 520), (2060, 620), (2110, 270), (1720, 60), (420, 560), (830, 1390)),
}


@dataclass(frozen=True)
class DemoScene:
    """A scene of the demo.

    Attributes:
        path: The raster.
        title: What it shows, for the page.
        credit: Whose imagery it is and which package carries it.
    """

    path: Path
    title: str
    credit: str


def san_francisco() -> DemoScene:
    """Landsat 7, 30 m, 2181 × 1917, near infrared, red and green in the red, green and blue bands, uint8, nodata 0."""
    path = _package_file("localtileserver", "tiler/data/landsat7.tif")
    return DemoScene(
        path, "San Francisco Bay, Landsat 7, false colour", "USGS Landsat, from the package localtileserver"
    )


def salt_lake(folder: Path) -> DemoScene:
    """Write the visible bands of a Landsat 7 scene (1482 × 1489, about 30 m, uint8) into ``folder``, named as such.

    The package's file calls its bands by the sensor's numbers only: 3, 2 and 1 are red, green and blue.
    """
    path = folder / "salt_lake.tif"
    with rasterio.open(_package_file("localtileserver", "tiler/data/landsat.tif")) as source:
        bands = source.read((3, 2, 1))
        write_raster(path, bands, GeoBox.from_rio(source), nodata=source.nodata, names=("red", "green", "blue"))
    return DemoScene(path, "Great Salt Lake, Landsat 7", "USGS Landsat, from the package localtileserver")


def sentinel_chip(folder: Path) -> DemoScene:
    """Write the Sentinel-2 chip of ``spyndex`` (300 × 300, 10 m, blue, green, red, nir, uint16) into ``folder``.

    The package stores reflectance times 10,000 as JSON and says neither place nor time, so the chip is put on a
    made grid.
    """
    source = _package_file("spyndex", "data/S2_10m.json")
    values = np.asarray(json.loads(source.read_text()), dtype=np.uint16)
    path = folder / "sentinel2_chip.tif"
    grid = GeoBox(values.shape[1:], from_origin(500_000, 5_000_000, 10, 10), "EPSG:32631")
    write_raster(path, values, grid, names=("B02", "B03", "B04", "B08"))
    return DemoScene(path, "Fields and woods, Sentinel-2", "Copernicus Sentinel-2, from the package spyndex")


def write_raster(
    path: Path, values: np.ndarray, grid: GeoBox, *, nodata: float | None = None, names: Sequence[str] = ()
) -> None:
    """Write bands ``[C, H, W]`` of any type as a Cloud-Optimized GeoTIFF, with names where they have some."""
    count, height, width = values.shape
    with rasterio.open(
        path, "w", driver="COG", count=count, height=height, width=width, dtype=values.dtype.name, nodata=nodata,
        crs=None if grid.crs is None else grid.crs.to_wkt(), transform=grid.affine, compress="deflate",
    ) as target:  # fmt: skip
        target.write(values)
        if names:
            target.descriptions = tuple(names)


def write_points(scene: Path, points: dict[str, tuple[tuple[int, int], ...]], path: Path) -> None:
    """Write labelled pixels ``{class: ((column, row), ...)}`` of ``scene`` as GeoJSON points (longitude, latitude)."""
    import geopandas
    from shapely.geometry import Point

    from geodino.products.vector import write_vector

    with rasterio.open(scene) as source:
        crs, transform = source.crs, source.transform
    rows = [
        {"class": name, "geometry": Point(*(transform @ (column + 0.5, row + 0.5)))}
        for name, pixels in points.items()
        for column, row in pixels
    ]
    write_vector(geopandas.GeoDataFrame(rows, crs=crs), path, layer="labels", overwrite=True)


def _package_file(package: str, relative: str) -> Path:
    """A data file inside an installed package, found without importing it."""
    spec = find_spec(package)
    path = Path(next(iter(spec.submodule_search_locations or ()))) / relative if spec else None
    if path is None or not path.exists():
        raise InputError(f"the demo's imagery {package}/{relative} is not installed; run: pip install 'geodino[demo]'")
    return path
