"""A scene: the bands of one acquisition on one pixel grid, whatever files they lie in.

Opening reads headers only (and, for data of unknown units, a sample for one stretch over the whole scene). Pixels
are read through `Scene.open`, in windows.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from affine import Affine
from odc.geo.geobox import GeoBox

from . import detect, folder, stretch
from .band import Band, Mask, MaskKind, Pixels
from .detect import Decision
from .errors import InputError
from .fill import Fill, find_fill
from .raster import Raster, ground_sample_distance_m, inspect
from .reader import SceneReader, same_grid

if TYPE_CHECKING:
    from odc.geo.crs import CRS

__all__ = ["Band", "Mask", "MaskKind", "Pixels", "Scene", "SceneReader", "open_scene"]


@dataclass(frozen=True)
class Scene:
    """Bands of one acquisition on one grid.

    Attributes:
        name: Short name, unique enough for people.
        source: What was opened.
        bands: The bands, in reading order.
        geobox: Pixel grid: shape, affine and CRS (None for a raster in bare pixels).
        sensor: Name of the row of the sensor table that gave the units.
        gsd_m: Ground sample distance in metres, at the centre.
        block_shape: Rows and columns that the first band's file decodes at once.
        datetime: ISO 8601 date or time, or None.
        notes: What was decided about sensor, bands and units, to be printed.
        masks: Files that say which pixels are usable.
        resampling: How bands on other grids are brought onto this one.
        parts: Scenes of which this one is the mosaic, earlier ones on top; empty for a plain scene.
        source_grids: Grids of files that cannot state their own.
        fill: Undeclared nodata round the scene, or None.
    """

    name: str
    source: str
    bands: tuple[Band, ...]
    geobox: GeoBox
    sensor: str
    gsd_m: float
    block_shape: tuple[int, int]
    datetime: str | None
    notes: tuple[str, ...]
    masks: tuple[Mask, ...] = ()
    resampling: str = "bilinear"
    parts: tuple["Scene", ...] = ()
    source_grids: dict[str, GeoBox] = field(default_factory=dict)
    fill: Fill | None = None

    @property
    def height(self) -> int:
        """Rows of the grid."""
        return int(self.geobox.shape[0])

    @property
    def width(self) -> int:
        """Columns of the grid."""
        return int(self.geobox.shape[1])

    @property
    def crs(self) -> "CRS | None":
        """Coordinate reference system of the grid."""
        return self.geobox.crs

    @property
    def band_names(self) -> tuple[str, ...]:
        """Names of the bands, in reading order."""
        return tuple(band.name for band in self.bands)

    def select(self, names: Sequence[str]) -> "Scene":
        """The same scene with the bands called ``names``, in that order.

        Raises:
            InputError: Where one is missing; the sentence names it and what exists.
        """
        by_name = {band.name: band for band in self.bands}
        missing = [name for name in names if name not in by_name]
        if missing:
            raise InputError(
                f"{self.source} has no band called {', '.join(missing)}; it has {', '.join(self.band_names)} "
                "(choose among them with --bands, or name the file's bands with --band-names)."
            )
        chosen = tuple(by_name[name] for name in names)
        return replace(self, bands=chosen, parts=tuple(part.select(names) for part in self.parts))

    def on(self, geobox: GeoBox, resampling: str = "bilinear") -> "Scene":
        """The same pixels seen on another grid, warped while reading.

        Args:
            geobox: Grid to read on; it has a CRS exactly when the scene has one.
            resampling: A rasterio ``Resampling`` name; ``average`` weighs by area, for shrinking.
        """
        if same_grid(geobox, self.geobox):
            return self
        if (geobox.crs is None) != (self.geobox.crs is None):
            raise InputError(f"{self.source} and the grid asked for cannot be brought together: only one has a CRS.")
        return replace(
            self,
            geobox=geobox,
            gsd_m=ground_sample_distance_m(geobox),
            resampling=resampling,
            parts=tuple(part.on(geobox, resampling) for part in self.parts),
        )

    def at_gsd(self, gsd_m: float) -> "Scene":
        """The same scene at another ground sample distance, weighed by area when shrinking, bilinear when enlarging."""
        factor = gsd_m / self.gsd_m
        if abs(factor - 1) < 1e-3:
            return self
        shape = (max(1, round(self.height / factor)), max(1, round(self.width / factor)))
        geobox = GeoBox(shape, self.geobox.affine @ Affine.scale(factor), self.geobox.crs)
        return replace(self.on(geobox, "average" if factor > 1 else "bilinear"), gsd_m=gsd_m)

    def fingerprint(self) -> str:
        """Hexadecimal digest that changes when an input file, the band choice, the scaling or the grid changes."""
        digest = hashlib.sha256()
        bands = [[b.name, b.path, b.index, b.dtype, repr(b.nodata), repr(b.scale), repr(b.offset)] for b in self.bands]
        masks = [[m.path, m.index, m.kind] for m in self.masks]
        grid = [list(self.geobox.shape), list(self.geobox.affine)[:6], str(self.geobox.crs), self.resampling]
        files = [_state(path) for path in sorted({b.path for b in self.bands} | {m.path for m in self.masks})]
        fill = None if self.fill is None else [self.fill.value, self.fill.witness.path, self.fill.witness.index]
        digest.update(json.dumps([bands, masks, grid, files, fill]).encode())
        for part in self.parts:
            digest.update(part.fingerprint().encode())
        return digest.hexdigest()[:32]

    def open(self) -> SceneReader:
        """Open for reading in one thread at a time, as a context manager."""
        return SceneReader(self)


def _state(path: str) -> list[object]:
    """What tells a file's state without reading it; for a URL only its name is known."""
    try:
        found = os.stat(path)
    except OSError:
        return [path]
    return [path, found.st_size, found.st_mtime_ns]


def open_scene(
    source: str | Path,
    *,
    bands: Sequence[str] | None = None,
    sensor: str | None = None,
    band_names: Sequence[str] | None = None,
    gsd_m: float | None = None,
    mask: str | Path | None = None,
) -> Scene:
    """Open a raster, a folder of single-band files or a STAC item.

    Args:
        source: Path, VRT, URL that GDAL can open, folder of single-band files (stacked by band name onto the finest
            grid, Sentinel-2 ``.SAFE`` folders included), or a STAC item's JSON file.
        bands: Names of the bands to keep, in order; None keeps all.
        sensor: Row of the sensor table, where files do not say it.
        band_names: Names of the file's bands in order, where the file does not say them.
        gsd_m: Pixel size in metres of a raster without a coordinate reference system; others ignore it.
        mask: Raster beside the scene: 0 where pixels are not to be used.

    Raises:
        InputError: Where anything prevents reading; one sentence names the file and the way out.
    """
    text = os.fspath(source)
    if text.split("#")[0].lower().endswith((".json", ".geojson")):
        from . import stac  # pystac is needed for items only

        scene = stac.open_item_file(text, sensor=sensor, bands=bands)
    elif "://" not in text and not text.startswith("<") and Path(text).is_dir():
        scene = _open_folder(text, sensor, band_names, gsd_m)
    else:
        scene = _open_file(text, sensor, band_names, gsd_m)
    if mask is not None:
        extra = Mask(os.fspath(mask), 1, MaskKind.explicit)
        if inspect(extra.path).geobox.crs is None and scene.crs is not None:
            raise InputError(
                f"The mask {extra.path} has no coordinate reference system, so it cannot be laid on {text}."
            )
        scene = replace(scene, masks=(*scene.masks, extra))
    return scene if bands is None else scene.select(bands)


def _open_file(path: str, sensor: str | None, band_names: Sequence[str] | None, gsd_m: float | None) -> Scene:
    raster = inspect(path)
    if not raster.data_bands:
        raise InputError(f"{path} has an alpha band and nothing else.")
    decision = detect.decide(raster, sensor, band_names)
    notes = list(decision.notes)
    geobox = placed(raster, gsd_m, notes)
    grids = {path: geobox} if geobox.crs is None else {}
    bands = make_bands([(raster, index) for index in raster.data_bands], decision, notes)
    return Scene(
        name=raster.stem or path,
        source=path,
        bands=bands,
        geobox=geobox,
        sensor=decision.sensor.name,
        gsd_m=ground_sample_distance_m(geobox),
        block_shape=raster.block_shape,
        datetime=decision.datetime,
        fill=find_fill(bands, notes),
        notes=tuple(notes),
        source_grids=grids,
    )


def _open_folder(path: str, sensor: str | None, band_names: Sequence[str] | None, gsd_m: float | None) -> Scene:
    found = folder.list_stack(path)
    decision = detect.decide_stack(
        found.rasters, path, sensor, band_names, any(mask.kind is MaskKind.scl for mask in found.masks)
    )
    notes = [*decision.notes, *found.notes]
    grids = {raster.path: placed(raster, gsd_m, notes) for raster in found.rasters}
    finest = min(found.rasters, key=lambda raster: ground_sample_distance_m(grids[raster.path]))
    geobox = grids[finest.path]
    resampled = [n for r, n in zip(found.rasters, decision.names, strict=True) if not same_grid(grids[r.path], geobox)]
    if resampled:
        notes.append(f"bands {', '.join(resampled)} are resampled onto the grid of {Path(finest.path).name}")
    bands = make_bands([(raster, 1) for raster in found.rasters], decision, notes)
    level = [b for b, r in zip(bands, found.rasters, strict=True) if same_grid(grids[r.path], geobox)]
    fill = None if found.masks else find_fill(level, notes)
    return Scene(
        name=Path(path).resolve().name,
        source=path,
        bands=bands,
        geobox=geobox,
        sensor=decision.sensor.name,
        gsd_m=ground_sample_distance_m(geobox),
        block_shape=finest.block_shape,
        datetime=decision.datetime,
        notes=tuple(dict.fromkeys(notes)),
        masks=found.masks,
        fill=fill,
        source_grids={name: grid for name, grid in grids.items() if grid.crs is None},
    )


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
