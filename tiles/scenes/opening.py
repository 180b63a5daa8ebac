"""Opening a scene: a raster, a folder of single bands or a STAC item.

Opening reads headers only (and, for data of unknown units, a sample for one stretch over the whole scene). Pixels
are read through `tiles.scenes.reader.SceneReader`, in windows.
"""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from odc.geo.geobox import GeoBox
from rasterio.enums import ColorInterp

from tiles.errors import InputError
from tiles.grids import ground_sample_distance_m, same_grid
from tiles.scenes import detect, folder
from tiles.scenes.alpha import settle_alpha
from tiles.scenes.fill import find_fill
from tiles.scenes.raster import inspect, placed
from tiles.scenes.scene import Scene
from tiles.scenes.units import make_bands
from tiles.scenes.validity import Mask, MaskKind, settle_picture


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
        gsd_m: Pixel size in metres of a raster without a coordinate reference system; others ignore it. Such a raster
            keeps the transform of its world file, which tells the pixel size where none is given.
        mask: Raster beside the scene: 0 where pixels are not to be used. It is laid by place, or pixel by pixel where
            it or the scene has no CRS and their shapes are equal.

    Raises:
        InputError: Where anything prevents reading; one sentence names the file and the way out.
    """
    text = os.fspath(source)
    if text.split("#")[0].lower().endswith((".json", ".geojson")):
        from tiles.scenes import stac  # pystac is needed for items only

        scene = stac.open_item_file(text, sensor=sensor, bands=bands)
    elif "://" not in text and not text.startswith("<") and os.path.isdir(text):
        scene = _open_folder(text, sensor, band_names, gsd_m)
    else:
        scene = _open_file(text, sensor, band_names, gsd_m)
    if mask is not None:
        scene = _masked(scene, os.fspath(mask))
    return scene if bands is None else scene.select(bands)


def _masked(scene: Scene, path: str) -> Scene:
    """The scene with a mask file laid on it by place, or pixel by pixel where either of them has no CRS."""
    grid = inspect(path).geobox
    scene = replace(scene, masks=(*scene.masks, Mask(path, 1, MaskKind.explicit)))
    if grid.crs is not None and scene.crs is not None:
        return scene
    if grid.shape != scene.geobox.shape:
        raise InputError(
            f"The mask {path} and {scene.source} have no coordinate reference system in common, and {grid.shape[1]} × "
            f"{grid.shape[0]} and {scene.width} × {scene.height} pixels, so it cannot be laid on it; georeference both."
        )
    note = f"the mask {path} is laid on the scene pixel by pixel, for want of a common reference system"
    return replace(scene, source_grids={**scene.source_grids, path: scene.geobox}, notes=(*scene.notes, note))


def _open_file(path: str, sensor: str | None, band_names: Sequence[str] | None, gsd_m: float | None) -> Scene:
    raster = inspect(path)
    if not raster.data_bands:
        raise InputError(f"{path} has an alpha band and nothing else.")
    told: list[str] = []
    naip = ColorInterp.alpha in raster.colours and detect.decide(raster, sensor, None).sensor.name == "naip"
    raster = settle_alpha(raster, naip, band_names, told)
    decision = detect.decide(raster, sensor, band_names)
    notes = [*told, *decision.notes]
    if raster.parts:
        others = ", ".join(raster.parts[:3]) + (" …" if len(raster.parts) > 3 else "")
        notes.append(f"the file holds {len(raster.parts)} rasters, of which the first is read; their names: {others}")
    geobox = placed(raster, gsd_m, notes)
    grids = {path: geobox} if geobox.crs is None else {}
    made = make_bands([(raster, index) for index in raster.data_bands], decision, notes)
    bands, blank = settle_picture(made, [True] * len(made), notes)
    return Scene(
        name=raster.stem or path,
        source=path,
        bands=bands,
        geobox=geobox,
        sensor=decision.sensor.name,
        gsd_m=_side(geobox, gsd_m),
        block_shape=raster.block_shape,
        datetime=decision.datetime,
        blank=blank or find_fill(made, notes),
        notes=tuple(notes),
        source_grids=grids,
        own_masks=raster.own_masks,
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
    made = make_bands([(raster, 1) for raster in found.rasters], decision, notes)
    on_grid = [same_grid(grids[raster.path], geobox) for raster in found.rasters]
    bands, blank = settle_picture(made, on_grid, notes)
    own_masks = tuple(mask for raster in found.rasters for mask in raster.own_masks)
    if own_masks:
        names = dict.fromkeys(Path(mask.path).name for mask in own_masks)
        notes.append(f"the mask or alpha of a file counts for all bands: {', '.join(names)}")
    if blank is None and not found.masks:
        blank = find_fill([band for band, on in zip(made, on_grid, strict=True) if on], notes)
    return Scene(
        name=Path(path).resolve().name,
        source=path,
        bands=bands,
        geobox=geobox,
        sensor=decision.sensor.name,
        gsd_m=_side(geobox, gsd_m),
        block_shape=finest.block_shape,
        datetime=decision.datetime,
        notes=tuple(dict.fromkeys(notes)),
        masks=found.masks,
        own_masks=own_masks,
        blank=blank,
        source_grids={name: grid for name, grid in grids.items() if grid.crs is None},
    )


def _side(geobox: GeoBox, gsd_m: float | None) -> float:
    """Ground sample distance in metres: as given where there is no reference system to tell it."""
    return gsd_m if gsd_m is not None and geobox.crs is None else ground_sample_distance_m(geobox)


def as_scene(source: str | Path | Scene) -> Scene:
    """A scene as it is, or what ``open_scene`` makes of a path.

    Raises:
        InputError: See ``open_scene``.
    """
    return source if isinstance(source, Scene) else open_scene(source)
