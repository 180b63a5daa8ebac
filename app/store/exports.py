"""Files to take away: vectors in the three formats that other programs ask for."""

from pathlib import Path

import geopandas

from geodino.products.vector import write_vector

FORMATS = (".gpkg", ".geojson", ".parquet")


def write_vectors(frame: geopandas.GeoDataFrame, stem: Path, layer: str) -> list[Path]:
    """Write geometries as GeoPackage, GeoJSON and GeoParquet.

    Args:
        frame: What to write, in any CRS; GeoJSON is brought to EPSG:4326, as its standard says.
        stem: Path without an ending.
        layer: Name inside the GeoPackage.

    Returns:
        The files.
    """
    written = [stem.with_name(stem.name + ending) for ending in FORMATS]
    for path in written:
        write_vector(frame, path, layer=layer, overwrite=True)
    return written


def convert_vectors(source: Path) -> list[Path]:
    """The same vectors in the other formats, beside ``source``."""
    if not source.exists():
        return []
    others = [source.with_suffix(ending) for ending in FORMATS]
    if all(path.exists() and path.stat().st_mtime >= source.stat().st_mtime for path in others):
        return others
    return write_vectors(geopandas.read_file(source), source.with_suffix(""), source.stem)
