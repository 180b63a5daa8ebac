"""A STAC item beside each table of places: an index of sparse embeddings, or what a search in one found.

It has the fields of the other products' items (``geodino.products.stac``) and those of the table extension.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely

from geodino.products.dates import times_of
from geodino.products.stac import new_item, save_item
from geodino.products.vector import media_type
from tiles.grids import cut_at_antimeridian
from tiles.scenes.dates import interval
from tiles.scenes.scene import Scene


def write_item_of_table(
    product: Path,
    table: gpd.GeoDataFrame,
    sources: Sequence[Scene | Path],
    *,
    query: Scene | Path | None = None,
    task: str,
    settings: Mapping[str, Any] | None = None,
) -> Path:
    """Write the item of a table of places, replacing an older one.

    Args:
        product: A file that ``geodino.products.vector.write_vector`` wrote.
        table: Its rows; ``attrs`` may name the model, as ``geodino.retrieval.place_index.model_of`` does.
        sources: What the rows come from: scenes, cubes, an index.
        query: What the rows were compared with, if anything.
        task: What was done: ``sparse-embedding`` or ``similarity-search``.
        settings: What else the table depends on.

    Returns:
        Where the item is.

    Raises:
        OutputError: The disk is full.
    """
    inputs = [_in_words(source) for source in sources]
    if query is not None:
        inputs.append(f"query in {_in_words(query)}")
    from pystac.extensions.table import Column, TableExtension

    item = new_item(
        product,
        task,
        media_type=media_type(product),
        footprint=_bounds(table),
        inputs=", ".join(inputs),
        how={"settings": dict(settings or {})},
        sources=[*sources, *([] if query is None else [query])],
        times=_times(table, sources),
    )
    item.properties |= _model(table.attrs)
    described = TableExtension.ext(item, add_if_missing=True)
    described.columns = [Column({"name": name}) for name in table.columns]
    described.row_count = len(table)
    return save_item(product, item)


def _in_words(source: Scene | Path) -> str:
    if isinstance(source, Scene):
        return f"scene {source.name} ({source.sensor})"
    return f"{'index' if source.suffix == '.parquet' else 'cube'} {source.name}"


def _model(attrs: Mapping[str, Any]) -> dict[str, Any]:
    """What a table says of the model whose features it holds."""
    from geodino.products.stac_model import model_name

    fields: dict[str, Any] = {}
    if "GEODINO_BACKBONE" in attrs:
        fields["mlm:name"] = model_name(attrs["GEODINO_BACKBONE"])
    if "GEODINO_BACKBONE_HASH" in attrs:
        fields["mlm:hyperparameters"] = {"weights_sha256": attrs["GEODINO_BACKBONE_HASH"]}
    return fields


def _bounds(table: gpd.GeoDataFrame) -> Any:
    """Box around all rows in longitude and latitude, cut at the antimeridian; None without a row or a CRS.

    Rows on both sides of the antimeridian have the box that crosses it and leaves out the widest gap between them.
    """
    if table.empty or table.crs is None:
        return None
    places = [cut_at_antimeridian(place) for place in table.to_crs("EPSG:4326").geometry]
    west, south, east, north = shapely.total_bounds(places)
    if not np.isfinite([west, south, east, north]).all():
        return None
    if west > -180 or east < 180:
        return shapely.box(west, south, east, north)
    parts = shapely.bounds(shapely.get_parts(places))[:, [0, 2]]
    begins, ends = parts[np.argsort(parts[:, 0])].T
    gaps = begins[1:] - np.maximum.accumulate(ends)[:-1]
    widest = int(np.argmax(gaps)) if len(gaps) else 0
    if not len(gaps) or gaps[widest] <= 0:
        return shapely.box(west, south, east, north)
    halves = shapely.box([begins[widest + 1], -180], south, [180, np.maximum.accumulate(ends)[widest]], north)
    return shapely.multipolygons(halves)


def _times(table: gpd.GeoDataFrame, sources: Sequence[Scene | Path]) -> tuple[datetime, datetime]:
    """First and last moment of the rows; those without one lie within the times of the sources."""
    stamps = table["timestamp"].unique() if "timestamp" in table else [None]
    found = [None if pd.isna(stamp) else interval(str(stamp)) for stamp in stamps]
    known = [times for times in found if times is not None]
    if not known or None in found:
        known += [times_of(source) for source in sources]
    return min(start for start, _ in known), max(end for _, end in known)
