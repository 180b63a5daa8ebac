"""From headers to the bands of a scene: where a raster lies, and the map of each band to [0, 1]."""

from collections.abc import Sequence

from affine import Affine
from odc.geo.geobox import GeoBox

from tiles.errors import InputError
from tiles.scenes import stretch
from tiles.scenes.band import Band
from tiles.scenes.detect import Decision
from tiles.scenes.raster import Raster


def placed(raster: Raster, gsd_m: float | None, notes: list[str]) -> GeoBox:
    """The grid of a raster, given a pixel size where the file has no CRS.

    Raises:
        InputError: Where nothing places the raster on the ground.
    """
    if raster.geobox.crs is not None:
        if abs(raster.geobox.affine.determinant) == 0:
            raise InputError(f"{raster.path} has pixels without area; its georeference is damaged.")
        return raster.geobox
    if gsd_m is not None:
        notes.append(f"no coordinate reference system: pixels taken as squares of {gsd_m:g} m")
        return GeoBox(raster.geobox.shape, Affine.scale(gsd_m, -gsd_m), None)
    if raster.gcps:
        raise InputError(
            f"{raster.path} is placed by ground control points only; warp it first (`gdalwarp {raster.path} OUT.tif`) "
            "or give its pixel size with --gsd."
        )
    raise InputError(f"{raster.path} has no coordinate reference system; give its pixel size in metres with --gsd.")


def make_bands(sources: Sequence[tuple[Raster, int]], decision: Decision, notes: list[str]) -> tuple[Band, ...]:
    """The bands of a scene, each with its map to [0, 1]."""
    bands = []
    for (raster, index), name in zip(sources, decision.names, strict=True):
        stated = raster.nodata[index - 1]
        nodata = decision.nodata if stated is None else stated
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
