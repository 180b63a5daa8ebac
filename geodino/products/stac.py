"""A STAC item beside each product: where it lies, what its numbers mean, which model made it and from what.

Rasters and cubes get theirs here, tables in ``geodino.products.stac_table``. The item follows STAC 1.1 with the
projection, raster, classification and processing extensions. The model is described by fields of the
machine-learning-model extension (``mlm:``), as its best practices advise for derived products; the extension itself is
not declared, since it wants the weights among the assets, and a product has none.

pystac is imported where an item is made, and not by the commands that only name one.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import rasterio
import shapely
from odc.geo.geobox import GeoBox
from pyproj.exceptions import ProjError
from rasterio.errors import RasterioError

import geodino
from geodino.backbones.backbone import Backbone
from geodino.products.dates import times_of, times_of_scenes
from tiles.grids import cut_at_antimeridian
from tiles.scenes.scene import Scene
from tiles.writing.cog import read_classes
from tiles.writing.outputs import disk_errors, part_of

if TYPE_CHECKING:
    import pystac

# pystac has no class for the one, and for the other that of version 1.1, whose bands STAC 1.1 has taken over.
_PROCESSING = "https://stac-extensions.github.io/processing/v1.2.0/schema.json"
_RASTER = "https://stac-extensions.github.io/raster/v2.0.0/schema.json"


@dataclass(frozen=True)
class _Raster:
    """A product on a grid.

    Attributes:
        path: A COG or a Zarr cube.
        geobox: Its grid.
        data_type: NumPy's name of its number type.
        nodata: Its nodata value; None means NaN.
    """

    path: Path
    geobox: GeoBox
    data_type: str
    nodata: float | None

    @classmethod
    def read(cls, path: Path) -> "_Raster":
        with rasterio.open(path) as file:
            return cls(path, GeoBox.from_rio(file), file.dtypes[0], file.nodata)


def item_path(product: Path) -> Path:
    """Name of the item that describes ``product``."""
    return product.with_name(f"{product.name}.stac.json")


def write_item(
    product: Path,
    scenes: dict[str, Scene],
    backbone: Backbone | None,
    *,
    task: str,
    geobox: GeoBox | None = None,
    data_type: str | None = None,
    nodata: float | None = None,
    settings: dict[str, Any] | None = None,
) -> Path:
    """Write the item of a product, replacing an older one.

    Args:
        product: A raster or a Zarr cube, already in place.
        scenes: What it was made from, by the role they play (``scene``, ``before``, ``after``).
        backbone: The model, if one took part.
        task: What was done: ``feature-extraction``, ``similarity-search``, ``semantic-segmentation`` or
            ``change-detection``.
        geobox: Grid of the product; read from the file when None.
        data_type: Number type of the product; read from the file when None.
        nodata: Nodata value of the product; read from the file when None.
        settings: What else the product depends on.

    Returns:
        Where the item is.

    Raises:
        OutputError: The disk is full.
    """
    if geobox is None or data_type is None:
        raster = _Raster.read(product)
    else:
        raster = _Raster(product, geobox, data_type, nodata)
    item = _raster_item(
        raster,
        task,
        inputs=", ".join(f"{role} {scene.name} ({scene.sensor})" for role, scene in scenes.items()),
        how={
            "units": {role: {b.name: [b.scale, b.offset] for b in scene.bands} for role, scene in scenes.items()},
            "settings": settings or {},
        },
        sources=list(scenes.values()),
        times=times_of_scenes(tuple(scenes.values())),
    )
    if backbone is not None:
        from geodino.products.stac_model import describe_model

        describe_model(item, backbone, task, settings or {})
    return save_item(product, item)


def write_item_of_cube(product: Path, cube: Path, *, task: str, settings: dict[str, Any]) -> Path:
    """Write the item of a raster that was made from a feature cube: dates and model are those of the cube's item.

    Args:
        product: The raster, already in place.
        cube: The cube. Without its item nothing is known of the model, and of the dates that they are not younger
            than the cube.
        task: See ``write_item``.
        settings: What else the product depends on.

    Returns:
        Where the item is.

    Raises:
        OutputError: The disk is full.
    """
    item = _raster_item(
        _Raster.read(product),
        task,
        inputs=f"cube {cube.name}",
        how={"settings": settings},
        sources=[cube],
        times=times_of(cube),
    )
    if item_path(cube).exists():
        known = json.loads(item_path(cube).read_text(encoding="utf-8"))["properties"]
        item.properties |= {key: value for key, value in known.items() if key.startswith("mlm:")}
    return save_item(product, item)


def read_settings(product: Path) -> dict[str, Any]:
    """The settings that ``write_item`` put into the item of a product; empty where there is no such item."""
    try:
        item = json.loads(item_path(product).read_text(encoding="utf-8"))
        return dict(item["properties"]["processing:expression"]["expression"]["settings"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def add_quicklook(cube: Path, picture: Path) -> None:
    """Name the picture of a cube in the cube's item; nothing is done where there is no item.

    Args:
        cube: The cube.
        picture: Its quicklook, ``.png`` or a COG, already in place.

    Raises:
        OutputError: The disk is full.
    """
    import pystac

    if not item_path(cube).exists():
        return
    item = json.loads(item_path(cube).read_text(encoding="utf-8"))
    folder, file = cube.parent.resolve(), picture.parent.resolve() / picture.name
    asset = pystac.Asset(
        f"./{file.relative_to(folder).as_posix()}" if file.is_relative_to(folder) else str(file),
        title="three principal components of the features as red, green and blue",
        media_type=pystac.MediaType.PNG if picture.suffix.lower() == ".png" else pystac.MediaType.COG,
        roles=["overview"],
    )
    item["assets"]["quicklook"] = asset.to_dict()
    _write(cube, item)


def new_item(
    product: Path,
    task: str,
    *,
    media_type: str,
    footprint: Any,
    inputs: str,
    how: Mapping[str, Any],
    sources: Sequence[Scene | Path],
    times: tuple[datetime, datetime],
) -> "pystac.Item":
    """An item with its product as its asset, that says how and from what it was made.

    Args:
        product: What it describes.
        task: What was done.
        media_type: Of the product.
        footprint: Outline in longitude and latitude, cut at the antimeridian; None where there is none.
        inputs: What the product was made from, in words.
        how: Settings and the like.
        sources: What it was made from: scenes and other products.
        times: First and last moment of these.
    """
    import pystac

    start, end = times
    item = pystac.Item(
        id=product.name,
        geometry=None if footprint is None else json.loads(shapely.to_geojson(footprint)),
        bbox=None if footprint is None else _bbox(footprint),
        datetime=start if start == end else None,
        start_datetime=None if start == end else start,
        end_datetime=None if start == end else end,
        properties={
            "processing:level": "L4",
            "processing:lineage": f"{task} by geodino from {inputs}",
            "processing:software": {"geodino": geodino.__version__},
            "processing:expression": {"format": "geodino", "expression": {"task": task, **how}},
        },
        stac_extensions=[_PROCESSING],
    )
    level = {"processing:level": "L4"}
    asset = pystac.Asset(f"./{product.name}", title=task, media_type=media_type, roles=["data"], extra_fields=level)
    item.add_asset("product", asset)
    for source in sources:
        href = source.source if isinstance(source, Scene) else str(source.absolute())
        item.add_link(pystac.Link("derived_from", href, title=source.name))
    return item


def save_item(product: Path, item: "pystac.Item") -> Path:
    """Put an item beside its product, replacing an older one; returns where it is.

    Raises:
        OutputError: The disk is full.
    """
    if "mlm:name" in item.properties:
        item.assets["product"].extra_fields["mlm:name"] = item.properties["mlm:name"]
    return _write(product, item.to_dict(include_self_link=False))


def _write(product: Path, item: dict[str, Any]) -> Path:
    text = json.dumps(item, indent=2, default=str) + "\n"
    target = item_path(product)
    part = part_of(target)
    with disk_errors(target):
        part.write_text(text, encoding="utf-8")
        part.replace(target)
    return target


def _raster_item(raster: _Raster, task: str, **words: Any) -> "pystac.Item":
    """The item of a raster; further words are those of ``new_item``."""
    import pystac
    from pystac.extensions.classification import Classification, ClassificationExtension
    from pystac.extensions.projection import ProjectionExtension

    cog = raster.path.suffix != ".zarr"
    media = pystac.MediaType.COG if cog else "application/vnd.zarr; version=3"
    geobox, crs = raster.geobox, raster.geobox.crs
    item = new_item(raster.path, task, media_type=media, footprint=_footprint(geobox), **words)
    code = None if crs is None else crs.to_epsg()
    ProjectionExtension.ext(item, add_if_missing=True).apply(
        code=None if code is None else f"EPSG:{code}",
        wkt2=None if crs is None or code is not None else crs.to_wkt(),
        bbox=None if crs is None else list(geobox.boundingbox.bbox),
        shape=[int(n) for n in geobox.shape],
        transform=[float(n) for n in tuple(geobox.affine)[:6]],
    )
    item.stac_extensions.append(_RASTER)
    item.assets["product"].extra_fields |= {
        "data_type": raster.data_type,
        "nodata": "nan" if raster.nodata is None or np.isnan(raster.nodata) else raster.nodata,
        "raster:sampling": "area",
        "raster:spatial_resolution": float(abs(geobox.affine.determinant) ** 0.5),
    }
    classes = _classes(raster.path) if cog else {}
    if classes:
        ClassificationExtension.ext(item.assets["product"], add_if_missing=True).classes = [
            Classification.create(value, name=name, color_hint=color) for value, (name, color) in classes.items()
        ]
    return item


def _classes(raster: Path) -> dict[int, tuple[str, str]]:
    """Name and colour, six hexadecimal digits, of each value of a class map; none of other rasters."""
    try:
        return {c.value: (c.name, "{:02X}{:02X}{:02X}".format(*c.color)) for c in read_classes(raster)}
    except RasterioError:
        return {}


def _footprint(geobox: GeoBox) -> Any:
    """Outline in longitude and latitude, cut at the antimeridian; None where no CRS says a place on Earth."""
    if geobox.crs is None:
        return None
    for wrapdateline in (True, False):  # a grid of the whole world begins and ends at the antimeridian: nothing to cut
        try:
            # The outline bends between the corners; a point for every hundredth of it is more than a metre asks for.
            whole = cut_at_antimeridian(geobox.footprint("EPSG:4326", wrapdateline=wrapdateline).geom)
        except (ProjError, ValueError):  # another planet, or a plan of no known place
            return None
        # Cutting leaves slivers of no area; where cleaning changes the area, the outline goes around a pole.
        shape = whole.buffer(0) if wrapdateline and not whole.is_valid else whole
        if shape.is_valid and math.isclose(shape.area, whole.area, rel_tol=1e-9) and all(np.isfinite(shape.bounds)):
            return shape.simplify(1e-5)
    return None


def _bbox(outline: Any) -> list[float]:
    """West, south, east and north, in degrees; west is the larger one across the antimeridian (RFC 7946, 5.2)."""
    west, south, east, north = outline.bounds
    parts = [part.bounds for part in shapely.get_parts(outline)]
    before, after = [part[0] for part in parts if part[0] > 0], [part[2] for part in parts if part[2] < 0]
    if west <= -180 and east >= 180 and len(before) + len(after) == len(parts):
        west, east = min(before), max(after)
    return [west, south, east, north]
