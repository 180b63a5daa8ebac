"""A STAC item beside each product: where it lies, what its numbers mean, which model made it and from what.

Rasters and cubes get theirs here, tables in ``geodino.products.stac_table``. The item follows STAC 1.1 with the
projection, raster, classification and processing extensions. The model is described by fields of the
machine-learning-model extension (``mlm:``), as its best practices advise for derived products; the extension itself is
not declared, since it wants the weights among the assets, and a product has none.
"""

import json
import os
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import rasterio
import shapely
import torch
from odc.geo.geobox import GeoBox
from pyproj.exceptions import ProjError
from rasterio.errors import RasterioError

import geodino
from geodino.backbones.backbone import Backbone
from tiles.scenes.scene import Scene
from tiles.writing.cog import read_classes
from tiles.writing.outputs import disk_errors, part_of

SUFFIX = ".stac.json"
_EXTENSIONS = {
    "proj": "https://stac-extensions.github.io/projection/v2.0.0/schema.json",
    "raster": "https://stac-extensions.github.io/raster/v2.0.0/schema.json",
    "processing": "https://stac-extensions.github.io/processing/v1.2.0/schema.json",
    "classification": "https://stac-extensions.github.io/classification/v2.0.0/schema.json",
    "table": "https://stac-extensions.github.io/table/v1.2.0/schema.json",
}
# No scene from the air or from space is older; a bound where a scene says nothing of its date.
_EARLIEST = datetime(1858, 1, 1, tzinfo=UTC)
_LATEST = datetime(2100, 1, 1, tzinfo=UTC)


def item_path(product: Path) -> Path:
    """Name of the item that describes ``product``."""
    return product.with_name(product.name + SUFFIX)


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
        with rasterio.open(product) as file:
            geobox = GeoBox.from_rio(file)
            data_type, nodata = file.dtypes[0], file.nodata
    asset = _asset(product, geobox, data_type, nodata, task)
    inputs = ", ".join(f"{role} {scene.name} ({scene.sensor})" for role, scene in scenes.items())
    units = {role: {band.name: [band.scale, band.offset] for band in scene.bands} for role, scene in scenes.items()}
    properties = processing(inputs, task, {"units": units, "settings": settings or {}})
    if backbone is not None:
        properties |= _model(backbone, task, settings)
    links = [derived_from(scene) for scene in scenes.values()]
    return _write_raster(product, asset, geobox, _times(tuple(scenes.values())), properties, links)


def read_settings(product: Path) -> dict[str, Any]:
    """The settings that ``write_item`` put into the item of a product; empty where there is no such item."""
    try:
        item = json.loads(item_path(product).read_text(encoding="utf-8"))
        return dict(item["properties"]["processing:expression"]["expression"]["settings"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}


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
    with rasterio.open(product) as file:
        geobox = GeoBox.from_rio(file)
        asset = _asset(product, geobox, file.dtypes[0], file.nodata, task)
    properties = processing(f"cube {cube.name}", task, {"settings": settings})
    if item_path(cube).exists():
        known = pystac.Item.from_file(item_path(cube))
        properties |= {key: value for key, value in known.properties.items() if key.startswith("mlm:")}
    return _write_raster(product, asset, geobox, times_of(cube), properties, [derived_from(cube)])


def add_quicklook(cube: Path, picture: Path) -> None:
    """Name the picture of a cube in the cube's item; nothing is done where there is no item.

    Args:
        cube: The cube.
        picture: Its quicklook, ``.png`` or a COG, already in place.

    Raises:
        OutputError: The disk is full.
    """
    if not item_path(cube).exists():
        return
    item = json.loads(item_path(cube).read_text(encoding="utf-8"))
    asset = pystac.Asset(
        _href(picture, cube.parent),
        title="three principal components of the features as red, green and blue",
        media_type=pystac.MediaType.PNG if picture.suffix.lower() == ".png" else pystac.MediaType.COG,
        roles=["overview"],
    )
    item["assets"]["quicklook"] = asset.to_dict()
    _save(cube, item)


def save_item(
    product: Path,
    asset: pystac.Asset,
    *,
    footprint: Any,
    times: tuple[datetime, datetime],
    properties: dict[str, Any],
    links: list[pystac.Link],
    extensions: Sequence[str],
) -> Path:
    """Put an item beside its product, replacing an older one.

    Args:
        product: What it describes.
        asset: The product as an asset.
        footprint: Outline in longitude and latitude; None where there is none.
        times: First and last moment.
        properties: Further fields.
        links: What the product was made from.
        extensions: Prefixes of the extensions used, such as ``processing``.

    Returns:
        Where the item is.

    Raises:
        OutputError: The disk is full.
    """
    start, end = times
    item = pystac.Item(
        id=product.name,
        geometry=None if footprint is None else json.loads(shapely.to_geojson(footprint)),
        bbox=None if footprint is None else list(footprint.bounds),
        datetime=start if start == end else None,
        start_datetime=None if start == end else start,
        end_datetime=None if start == end else end,
        properties=properties,
        stac_extensions=[_EXTENSIONS[name] for name in extensions],
    )
    if "mlm:name" in properties:
        asset.extra_fields["mlm:name"] = properties["mlm:name"]
    item.add_asset("product", asset)
    item.add_links(links)
    return _save(product, item.to_dict(include_self_link=False))


def _save(product: Path, item: dict[str, Any]) -> Path:
    text = json.dumps(item, indent=2, default=str) + "\n"
    target = item_path(product)
    part = part_of(target)
    with disk_errors(target):
        part.write_text(text, encoding="utf-8")
        part.replace(target)
    return target


def _href(file: Path, folder: Path) -> str:
    """How an item in a folder names a file: by the way down to it, or by its whole path where it lies elsewhere."""
    folder, file = folder.resolve(), file.parent.resolve() / file.name
    return f"./{file.relative_to(folder).as_posix()}" if file.is_relative_to(folder) else str(file)


def _write_raster(
    product: Path,
    asset: pystac.Asset,
    geobox: GeoBox,
    times: tuple[datetime, datetime],
    properties: dict[str, Any],
    links: list[pystac.Link],
) -> Path:
    used = ["proj", "raster", "processing"] + ["classification"] * ("classification:classes" in asset.extra_fields)
    return save_item(
        product,
        asset,
        footprint=_footprint(geobox),
        times=times,
        properties={**_projection(geobox), **properties},
        links=links,
        extensions=used,
    )


def derived_from(source: Scene | Path) -> pystac.Link:
    """Link to a scene or to another product."""
    if isinstance(source, Scene):
        return pystac.Link("derived_from", source.source, title=source.name)
    return pystac.Link("derived_from", str(source.absolute()), title=source.name)


def _asset(product: Path, geobox: GeoBox, data_type: str, nodata: float | None, task: str) -> pystac.Asset:
    fields: dict[str, Any] = {
        "data_type": data_type,
        "nodata": "nan" if nodata is None or np.isnan(nodata) else nodata,
        "raster:sampling": "area",
        "raster:spatial_resolution": float(abs(geobox.affine.determinant) ** 0.5),
        "processing:level": "L4",
    }
    media = "application/vnd.zarr; version=3"
    if product.suffix != ".zarr":
        media = pystac.MediaType.COG
        classes = _classes(product)
        if classes:
            fields["classification:classes"] = classes
    return pystac.Asset(f"./{product.name}", title=task, media_type=media, roles=["data"], extra_fields=fields)


def _classes(product: Path) -> list[dict[str, Any]]:
    try:
        found = read_classes(product)
    except RasterioError:
        return []
    return [{"value": c.value, "name": c.name, "color_hint": "{:02X}{:02X}{:02X}".format(*c.color)} for c in found]


def times_of(source: Scene | Path) -> tuple[datetime, datetime]:
    """First and last moment of a scene, or of a product as its item has them."""
    if isinstance(source, Scene):
        return _times((source,))
    # Without an item, of a product's dates is known that they are not younger than its file.
    start, end = min(_EARLIEST, _age(source)), _age(source)
    if not item_path(source).exists():
        return start, end
    known = pystac.Item.from_file(item_path(source))
    metadata = known.common_metadata
    return known.datetime or metadata.start_datetime or start, known.datetime or metadata.end_datetime or end


def _times(scenes: tuple[Scene, ...]) -> tuple[datetime, datetime]:
    """First and last moment at which the scenes were taken: the narrowest interval that is certainly right."""
    known = [interval(text) for scene in scenes if (text := scene.datetime)]
    if len(known) < len(scenes):
        # A picture is not younger than its file.
        ages = [_age(Path(scene.source)) for scene in scenes if os.path.exists(scene.source)]
        latest = max(ages) if len(ages) == len(scenes) else _LATEST
        known.append((min(_EARLIEST, latest), latest))
    return min(start for start, _ in known), max(end for _, end in known)


def _age(path: Path) -> datetime:
    """Second in which a file was last changed."""
    return datetime.fromtimestamp(int(path.stat().st_mtime), UTC)


def interval(text: str) -> tuple[datetime, datetime]:
    """First and last second that an ISO 8601 text may mean: a moment, a day, a month or a year."""
    parts = text.split("-")
    if len(text) > 10:
        moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return moment, moment
    year, month, day = (int(parts[i]) if i < len(parts) else None for i in range(3))
    start = datetime(year or 1, month or 1, day or 1, tzinfo=UTC)
    if day is not None:
        after = start + timedelta(days=1)
    elif month is not None:
        after = start.replace(year=start.year + month // 12, month=month % 12 + 1)
    else:
        after = start.replace(year=start.year + 1)
    return start, after - timedelta(seconds=1)


def _projection(geobox: GeoBox) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "proj:code": None,
        "proj:shape": [int(n) for n in geobox.shape],
        "proj:transform": [float(n) for n in tuple(geobox.affine)[:6]],
    }
    if geobox.crs is not None:
        code = geobox.crs.to_epsg()
        fields["proj:code"] = None if code is None else f"EPSG:{code}"
        if code is None:
            fields["proj:wkt2"] = geobox.crs.to_wkt()
        box = geobox.boundingbox
        fields["proj:bbox"] = [box.left, box.bottom, box.right, box.top]
    return fields


def processing(inputs: str, task: str, how: dict[str, Any]) -> dict[str, Any]:
    """Fields of the processing extension.

    Args:
        inputs: What the product was made from, in words.
        task: What was done.
        how: Settings and the like.
    """
    return {
        "processing:level": "L4",
        "processing:lineage": f"{task} by geodino from {inputs}",
        "processing:software": {"geodino": geodino.__version__},
        "processing:expression": {
            "format": "geodino",
            "expression": {"task": task, **how},
        },
    }


def _model(backbone: Backbone, task: str, settings: dict[str, Any] | None) -> dict[str, Any]:
    scaling = [
        {"type": "z-score", "mean": mean, "stddev": std}
        for mean, std in zip(backbone.normalization.mean, backbone.normalization.std, strict=True)
    ]
    return {
        "mlm:name": model_name(backbone.name),
        "mlm:architecture": backbone.architecture,
        "mlm:framework": "PyTorch",
        "mlm:framework_version": torch.__version__.split("+")[0],
        "mlm:tasks": [task if task in ("similarity-search", "semantic-segmentation") else "regression"],
        "mlm:total_parameters": sum(p.numel() for p in backbone.module.parameters()),
        "mlm:hyperparameters": {"weights_sha256": backbone.hash, **{k: v for k, v in (settings or {}).items()}},
        "mlm:input": [
            {
                "name": "windows of values in [0, 1]",
                "bands": list(backbone.bands),
                "input": {
                    "shape": [-1, len(backbone.bands), -1, -1],
                    "dim_order": ["batch", "channel", "height", "width"],
                    "data_type": "float32",
                },
                "value_scaling": scaling,
                "resize_type": None,
            }
        ],
        "mlm:output": [
            {
                "name": "patch tokens",
                "tasks": ["regression"],
                "result": {
                    "shape": [-1, backbone.embed_dim, -1, -1],
                    "dim_order": ["batch", "channel", "height", "width"],
                    "data_type": "float32",
                },
            }
        ],
    }


def model_name(backbone: str) -> str:
    """A backbone's name in the letters that the extension allows."""
    letters = "".join(c if c.isascii() and (c.isalnum() or c in "_.-") else "-" for c in backbone).strip("-_.")
    return letters if letters[:1].isalpha() and len(letters) > 2 else f"geodino-{letters or 'backbone'}-model"


def _footprint(geobox: GeoBox) -> Any:
    """Outline in longitude and latitude; None where there is no CRS, or one of no place on Earth."""
    if geobox.crs is None:
        return None
    try:
        # The outline bends between the corners; a point for every hundredth of it is more than a metre asks for.
        shape = geobox.geographic_extent.geom.simplify(1e-5)
    except (ProjError, ValueError):  # another planet, or a plan of no known place
        return None
    return shape if shape.is_valid and all(np.isfinite(shape.bounds)) else None
