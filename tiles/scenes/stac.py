"""STAC items as scenes: local files or the answer of a search, one scene a solar day."""

import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pystac
from odc.stac import ParsedItem, RasterSource, parse_item
from pystac.errors import STACError, STACTypeError
from rasterio.enums import ColorInterp

from tiles.errors import InputError
from tiles.grids import ground_sample_distance_m, same_grid
from tiles.scenes import detect
from tiles.scenes.dates import interval
from tiles.scenes.mosaic import mosaic
from tiles.scenes.raster import Raster, inspect, placed
from tiles.scenes.scene import Scene
from tiles.scenes.sensor import SENSORS, Sensor, common_name, is_reflectance, named
from tiles.scenes.units import Decision, Evidence, make_bands, settle_units
from tiles.scenes.validity import Mask, MaskKind, is_picture, settle_picture
from tiles.writing.outputs import write_json

_MASK_ASSETS = {"scl": MaskKind.scl, "qa_pixel": MaskKind.qa_pixel}
# Derived pictures among the assets: the bands they were made from are there as well.
_PICTURES = ("visual", "overview", "thumbnail", "preview", "rendered_preview", "tilejson", "tci")
_PLATFORMS = {"landsat-4": "47", "landsat-5": "47", "landsat-7": "47", "landsat-8": "89", "landsat-9": "89"}


@dataclass(frozen=True)
class _Layer:
    """A band of an asset."""

    name: str
    source: RasterSource
    raw: dict[str, Any]  # what the item says about the band


def load_items(path: str) -> list[pystac.Item]:
    """Read an item or an item collection; links to files become absolute.

    Raises:
        InputError: Where the file is neither.
    """
    try:
        content = json.loads(Path(path).read_text())
    except FileNotFoundError:
        raise InputError(f"{path} does not exist.") from None
    except (OSError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is no JSON file ({error}).") from error
    features = content.get("features", [content]) if isinstance(content, dict) else []
    items = []
    for feature in features:
        try:
            item = pystac.Item.from_dict(feature)
        except (STACError, STACTypeError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"{path} is no STAC item or item collection ({error}).") from error
        if not (item.get_self_href() or "").startswith(("http", "s3")):
            item.set_self_href(os.path.abspath(path))
        item.make_asset_hrefs_absolute()
        items.append(item)
    if not items:
        raise InputError(f"{path} holds no STAC item.")
    return items


def solar_day(item: pystac.Item) -> str:
    """Date of acquisition in the place's own solar time, ISO 8601."""
    return str(_parsed(item, lambda parsed: parsed.solar_date.date().isoformat()))


def _parsed(item: pystac.Item, take: Callable[[ParsedItem], Any] = lambda parsed: parsed) -> Any:
    """What odc-stac makes of an item, which raises much at dates, boxes and grids that are none."""
    try:
        return take(parse_item(item))
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        text = " ".join(str(error).split())
        raise InputError(f"STAC item {item.id} cannot be understood ({text}); mend it or leave it out.") from error


def days(path: str) -> list[str]:
    """The solar days of an item collection's file, sorted."""
    return sorted({solar_day(item) for item in load_items(path)})


def open_item_file(path: str, *, sensor: str | None = None, bands: Sequence[str] | None = None) -> Scene:
    """Open the item of a file, or the mosaic of one solar day of a collection, written ``FILE#YYYY-MM-DD``.

    Args:
        path: The file, with the day where it holds several.
        sensor: Row of the sensor table, where the item does not tell.
        bands: Open these only; None opens all.
    """
    file, _, day = path.partition("#")
    items = load_items(file)
    by_day: dict[str, list[pystac.Item]] = {}
    for item in items:
        by_day.setdefault(solar_day(item), []).append(item)
    if not day and len(by_day) > 1:
        raise InputError(
            f"{file} holds items of {len(by_day)} days; choose one: {file}#{min(by_day)} … #{max(by_day)}."
        )
    day = day or next(iter(by_day))
    if day not in by_day:
        raise InputError(f"{file} holds no item of {day}; it has {', '.join(sorted(by_day))}.")
    chosen = sorted(by_day[day], key=lambda item: item.id)
    scenes = [open_item(item, sensor=sensor, bands=bands) for item in chosen]
    if len(scenes) == 1:
        return replace(scenes[0], source=path)
    return mosaic(scenes, name=f"{Path(file).stem}_{day}", source=path)


def open_item(item: pystac.Item, *, sensor: str | None = None, bands: Sequence[str] | None = None) -> Scene:
    """Open the bands of one item on its finest grid.

    Raises:
        InputError: Where an asset cannot be opened or a band is missing; the sentence names the item.
    """
    parsed: ParsedItem = _parsed(item)
    row = detect.sensor_row(sensor) if sensor else _sensor(item)
    every = list(_layers(item, parsed, row))
    layers = [layer for layer in every if bands is None or layer.name in bands]
    missing = [name for name in bands or () if name not in {layer.name for layer in layers}]
    if missing:
        names = ", ".join(layer.name for layer in every)
        raise InputError(f"STAC item {item.id} has no band called {', '.join(missing)}; it has {names}.")
    if not layers:
        raise InputError(f"STAC item {item.id} has no raster asset.")
    rasters: dict[str, Raster] = {}
    _inspect(layers, rasters, item)
    if _may_be_blank(layers, rasters) or any(raster.own_masks for raster in rasters.values()):
        # What is nodata in a picture, all bands tell together; files' own masks count. Both whichever bands are read.
        layers = every
        _inspect(layers, rasters, item)
    notes: list[str] = []
    applied = bool(item.properties.get("earthsearch:boa_offset_applied"))
    sources = [(_with_metadata(rasters[layer.source.uri], layer, row, applied), layer.source.band) for layer in layers]
    decision = _decide(item, row, layers, sources, sensor is not None)
    grids = {uri: placed(raster, None, notes) for uri, raster in rasters.items()}
    finest = min(grids, key=lambda uri: ground_sample_distance_m(grids[uri]))
    on_grid = [same_grid(grids[layer.source.uri], grids[finest]) for layer in layers]
    made, blank = settle_picture(make_bands(sources, decision, notes), on_grid, notes)
    spectral = {b.path for b in made if rasters[b.path].colours[b.index - 1] is ColorInterp.alpha}
    own_masks = [m for raster in rasters.values() for m in raster.own_masks if not (m.index and m.path in spectral)]
    notes += [f"the band of {uri} that is tagged alpha is a measurement: the item names it" for uri in sorted(spectral)]
    resampled = [layer.name for layer, on in zip(layers, on_grid, strict=True) if not on]
    if resampled:
        notes.append(f"bands {', '.join(resampled)} are resampled onto the finest grid")
    scene = Scene(
        name=item.id,
        source=item.get_self_href() or item.id,
        bands=made,
        geobox=grids[finest],
        sensor=decision.sensor.name,
        gsd_m=ground_sample_distance_m(grids[finest]),
        block_shape=rasters[finest].block_shape,
        datetime=decision.datetime,
        notes=(*decision.notes, *notes),
        masks=_masks(item),
        blank=blank,
        own_masks=tuple(own_masks),
    )
    return scene if bands is None else scene.select(bands)


def _may_be_blank(layers: Sequence[_Layer], rasters: dict[str, Raster]) -> bool:
    """Whether bands look like an 8-bit picture whose nodata its other bands have a say in."""
    places = [(layer, rasters[layer.source.uri], layer.source.band - 1) for layer in layers]
    stated = all(raster.nodata[at] is not None or layer.raw.get("nodata") is not None for layer, raster, at in places)
    return stated and is_picture(raster.dtypes[at] for _, raster, at in places)


def _inspect(layers: Iterable[_Layer], rasters: dict[str, Raster], item: pystac.Item) -> None:
    """Read the headers of files that are not yet in ``rasters``."""
    try:
        for layer in layers:
            if layer.source.uri not in rasters:
                rasters[layer.source.uri] = inspect(layer.source.uri)
    except InputError as error:
        raise InputError(f"STAC item {item.id}: {error}") from error


def _layers(item: pystac.Item, parsed: ParsedItem, row: Sensor) -> Iterable[_Layer]:
    found: dict[str, _Layer] = {}
    for (key, number), source in sorted(
        parsed.bands.items(), key=lambda pair: (list(item.assets).index(pair[0][0]), pair[0][1])
    ):
        asset = item.assets[key]
        roles = set(asset.roles or ())
        if not isinstance(source, RasterSource) or roles & {"thumbnail", "overview", "visual", "cloud", "snow-ice"}:
            continue
        if key.lower() in _MASK_ASSETS or key.lower().removesuffix("-jp2") in _PICTURES or key.endswith("-jp2"):
            continue
        fields = asset.extra_fields
        spectral = _at(fields.get("eo:bands") or fields.get("bands") or item.properties.get("eo:bands"), number - 1)
        raster = _at(fields.get("raster:bands"), number - 1)
        text = spectral.get("common_name") or spectral.get("eo:common_name") or spectral.get("name")
        count = sum(1 for name, _ in parsed.bands if name == key)
        if not text and (roles & {"metadata"} or (count == 1 and not _spectral(key, row))):
            continue
        # The sensor's own table tells apart what common names join (three red edges, two near infrareds).
        own = spectral.get("name", key if count == 1 else "")
        name = row.bands.get(str(own).upper()) or named(str(text or key), row)
        if name in found:
            name = key.lower()
        whole: dict[str, Any] = {
            key: fields[key] for key in ("nodata", "raster:scale", "raster:offset") if key in fields
        }
        found.setdefault(name, _Layer(name, source, {**whole, **spectral, **raster}))
    return found.values()


def _spectral(key: str, row: Sensor) -> bool:
    return key.upper() in row.bands or common_name(key) is not None


def _at(values: list[dict[str, Any]] | None, place: int) -> dict[str, Any]:
    return values[place] if values and place < len(values) else {}


def _masks(item: pystac.Item) -> tuple[Mask, ...]:
    return tuple(
        Mask(asset.href, 1, _MASK_ASSETS[key.lower()])
        for key, asset in item.assets.items()
        if key.lower() in _MASK_ASSETS
    )


def _sensor(item: pystac.Item) -> Sensor:
    properties = item.properties
    platform = str(properties.get("platform", "")).lower().replace("_", "-")
    collection = f"{item.collection_id or ''} {item.id}".lower()
    if "sentinel-2" in platform or "sentinel-2" in collection or item.id.startswith(("S2A_", "S2B_", "S2C_")):
        return SENSORS["sentinel-2-l1c" if "l1c" in collection else "sentinel-2-l2a"]
    if platform in _PLATFORMS:
        level = "1" if "l1" in collection or properties.get("landsat:correction", "L2SP").startswith("L1") else "2"
        return SENSORS[f"landsat-{_PLATFORMS[platform]}-c2-l{level}"]
    if "naip" in collection:
        return SENSORS["naip"]
    if "planet" in collection or str(properties.get("constellation", "")).lower() == "planetscope":
        return SENSORS["planetscope-sr"]
    return SENSORS["stretch"]


def _decide(
    item: pystac.Item, row: Sensor, layers: Sequence[_Layer], sources: Sequence[tuple[Raster, int]], given: bool
) -> Decision:
    dtypes = {raster.dtypes[band - 1] for raster, band in sources}
    if not given and row.name == "stretch":
        if dtypes == {"uint8"}:
            row = SENSORS["8bit"]
        elif any(is_reflectance(raster.scales[band - 1], raster.offsets[band - 1]) for raster, band in sources):
            row = SENSORS["reflectance"]
    names = tuple(layer.name for layer in layers)
    notes = [f"sensor {row.name}: {'as given' if given else 'by the STAC item'}"]
    notes.append(f"bands {', '.join(names)}: from the STAC item")
    date = _date(item, notes)
    if row.name.startswith("sentinel-2-l") and item.properties.get("earthsearch:boa_offset_applied"):
        notes.append("the item says that Sentinel-2's offset is applied already")
    tags = {"PROCESSING_BASELINE": str(item.properties.get("s2:processing_baseline", ""))}
    evidence = Evidence(f"{item.collection_id or ''}/{item.id}", tags, date)
    row, units = settle_units(row, sources, names, evidence, notes)
    return Decision(row, names, units, date, tuple(notes))


def _date(item: pystac.Item, notes: list[str]) -> str | None:
    """The item's moment, else the first day that it covers."""
    if item.datetime:
        return item.datetime.isoformat().replace("+00:00", "Z")
    first, last = (item.properties.get(f"{which}_datetime") for which in ("start", "end"))
    if not isinstance(first, str) or interval(first) is None:
        return None
    notes.append(f"date {first}: the first of what the item covers (until {last})")
    return first


def _with_metadata(raster: Raster, layer: _Layer, row: Sensor, applied: bool) -> Raster:
    """The header completed by what the item says of a band where the file is silent.

    Args:
        raster: Header of the file.
        layer: The band.
        row: Row of the sensor table, whose scale holds where an offset is stated alone.
        applied: The item says that Sentinel-2's offset is applied already, whatever else it states.
    """
    place = layer.source.band - 1
    nodata, scales, offsets = list(raster.nodata), list(raster.scales), list(raster.offsets)
    if nodata[place] is None:
        nodata[place] = _number(layer.raw, "nodata")
    scale, offset = _number(layer.raw, "scale"), _number(layer.raw, "offset")
    if row.name.startswith("sentinel-2-l") and applied and raster.dtypes[place] != "uint8":
        offset = 0.0
    if (scales[place], offsets[place]) == (1.0, 0.0) and (scale is not None or offset is not None):
        scales[place], offsets[place] = row.scale or 1.0 if scale is None else scale, offset or 0.0
    return replace(raster, nodata=tuple(nodata), scales=tuple(scales), offsets=tuple(offsets))


def _number(raw: dict[str, Any], field: str) -> float | None:
    """A number that an item states, in the spelling of STAC 1.0 or 1.1."""
    try:
        return float(raw[field] if field in raw else raw[f"raster:{field}"])
    except (KeyError, TypeError, ValueError):
        return None


def search(
    url: str,
    collections: Sequence[str],
    bbox: Sequence[float] | None,
    datetime: str | None,
    limit: int,
    target: Path,
    *,
    again: bool = False,
) -> list[str]:
    """Search a STAC API and keep the answer, so that a repeated cut asks nobody.

    Args:
        url: Landing page of the API.
        collections: Collections to search.
        bbox: West, south, east, north in degrees, or None.
        datetime: RFC 3339 moment or range, such as ``2024-06-01/2024-06-30``, or None.
        limit: Most items to take.
        target: File for the item collection; an existing one is used as it is.
        again: Search all the same, and replace it by the new answer.

    Returns:
        One source a solar day, as `open_item_file` takes it.
    """
    from pystac_client import Client
    from pystac_client.exceptions import APIError
    from requests.exceptions import RequestException

    if again or not target.exists():
        try:
            found = Client.open(url).search(
                collections=list(collections), bbox=list(bbox) if bbox else None, datetime=datetime, max_items=limit
            )
            items = found.item_collection()
        except (APIError, RequestException, STACError, STACTypeError, NotImplementedError, ValueError) as error:
            raise InputError(f"The STAC search at {url} failed ({error}).") from error
        if not len(items):
            raise InputError(f"{url} has no items of {', '.join(collections)} in that place and time.")
        target.parent.mkdir(parents=True, exist_ok=True)
        write_json(items.to_dict(), target)
    return [f"{target}#{day}" for day in days(str(target))]
