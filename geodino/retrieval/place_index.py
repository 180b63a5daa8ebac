"""Sparse embeddings of many scenes: one vector a block of tokens, in a GeoParquet with Major TOM's columns.

The columns are those of the Major TOM embedding data sets (arXiv 2412.05600), so the files of either can be searched
with the tools of both. A search compares a query with every row and keeps the best.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import numpy.typing as npt
import pandas as pd
import shapely
from odc.geo.geobox import GeoBox
from rasterio.windows import Window

from geodino.dense.tokens import Origin, SceneTokens
from geodino.products.stac_table import write_item_of_table
from geodino.products.vector import write_vector
from geodino.retrieval.likeness import token_rows, unit
from tiles.cutting.tile_grid import Locator, Places
from tiles.errors import InputError, OutputError
from tiles.grids import cell_at, cell_name
from tiles.scenes.scene import Scene
from tiles.writing.outputs import check_output

COLUMNS = (
    "unique_id",
    "embedding",
    "timestamp",
    "product_id",
    "grid_cell",
    "grid_row_u",
    "grid_col_r",
    "geometry",
    "centre_lat",
    "centre_lon",
    "utm_footprint",
    "utm_crs",
    "pixel_bbox",
)
# What vectors must share to be comparable, by the name of its tag.
_MODEL_TAGS = {
    "GEODINO_BACKBONE_HASH": "backbone",
    "GEODINO_NORMALIZATION": "normalisation",
    "GEODINO_LAYERS": "layers",
}


def embed(tokens: SceneTokens, product: str, *, side: int = 8, timestamp: str | None = None) -> gpd.GeoDataFrame:
    """Sparse embeddings of a scene.

    Args:
        tokens: Features of unit length.
        product: Name of the scene.
        side: Tokens along a block's side; blocks of which less than half is valid are left out.
        timestamp: When the scene was taken, ISO 8601.

    Returns:
        One row a block, in WGS 84, with the columns ``COLUMNS``. ``embedding`` is the mean feature at unit length;
        ``pixel_bbox`` is in the scene's pixels, in tokens where no scene is known; ``attrs`` are those of ``model_of``.

    Raises:
        InputError: The tokens have no coordinate reference system.
    """
    grid = tokens.geobox
    if grid.crs is None:
        raise InputError(f"{product} has no coordinate reference system, so it has no place in an index")
    windows: list[Window] = []
    held: list[npt.NDArray[np.float32]] = []
    for start, features, valid in token_rows(tokens):  # pieces of 64 rows: whole blocks for every power of two up to it
        for top in range(0, valid.shape[0], side):
            for left in range(0, valid.shape[1], side):
                inside = valid[top : top + side, left : left + side]
                if inside.mean() < 0.5:
                    continue
                block = features[:, top : top + side, left : left + side][:, inside]
                height, width = inside.shape
                windows.append(Window(left, start + top, width, height))
                held.append(unit(block.mean(1)))
    places = Locator(grid).locate(windows)
    if not np.isfinite([places.longitude, places.latitude]).all():
        raise InputError(f"{product} has blocks that lie nowhere on Earth, so it has no place in an index")
    rows = [
        {"timestamp": timestamp, "product_id": product} | _place(grid, places, number, window, tokens.pixels, product)
        for number, window in enumerate(windows)
    ]
    frame = gpd.GeoDataFrame(
        rows, columns=[c for c in COLUMNS if c != "embedding"], geometry="geometry", crs="EPSG:4326"
    )
    frame.insert(1, "embedding", pd.Series(held, dtype=object))
    frame.attrs = model_of(tokens.origin)
    return frame


def model_of(origin: Origin) -> dict[str, str]:
    """What an index says of the model whose features it holds."""
    tags = origin.tags() | {"GEODINO_LAYERS": list(origin.layers)}
    found = {tag: tags[tag] for tag in (*_MODEL_TAGS, "GEODINO_BACKBONE")}
    return {tag: value if isinstance(value, str) else json.dumps(value, sort_keys=True) for tag, value in found.items()}


def check_model(known: Mapping[str, Any], asked: Mapping[str, Any], index: str, other: str) -> None:
    """Refuse vectors of two models, whose cosines mean nothing; what does not say its model is taken as it is.

    Args:
        known: What ``model_of`` gave for the index.
        asked: What it gave for the other cube.
        index: How to call the index.
        other: How to call the other cube.

    Raises:
        InputError: They differ.
    """
    differ = [what for tag, what in _MODEL_TAGS.items() if tag in known and tag in asked and known[tag] != asked[tag]]
    if differ:
        names = [model.get("GEODINO_BACKBONE", "unnamed") for model in (known, asked)]
        raise InputError(
            f"{index} has another {' and '.join(differ)} ({names[0]}) than {other} ({names[1]}); "
            "make both with the same backbone and settings"
        )


def _place(grid: GeoBox, places: Places, number: int, window: Window, pixels: int, product: str) -> dict[str, object]:
    """Where one block of a product lies, and its name."""
    longitude, latitude = float(places.longitude[number]), float(places.latitude[number])
    row, column = (int(found[0]) for found in cell_at(np.array([longitude]), np.array([latitude])))
    zone = 32601 + int((longitude + 180) // 6) % 60 + (0 if latitude >= 0 else 100)
    left, top = window.col_off, window.row_off
    right, bottom = left + window.width, top + window.height
    utm = grid[top:bottom, left:right].extent.to_crs(f"EPSG:{zone}").geom
    bounds = [n * pixels for n in (left, top, right, bottom)]
    return {
        "unique_id": f"{product}/{bounds[0]}_{bounds[1]}",
        "grid_cell": cell_name(row, column),
        "grid_row_u": row,
        "grid_col_r": column,
        "geometry": shapely.from_wkb(places.wkb[number]),
        "centre_lat": latitude,
        "centre_lon": longitude,
        "utm_footprint": shapely.to_wkt(utm, rounding_precision=2),
        "utm_crs": f"EPSG:{zone}",
        "pixel_bbox": bounds,
    }


def write_index(
    frames: Iterable[gpd.GeoDataFrame],
    output: Path,
    *,
    sources: Sequence[Scene | Path],
    settings: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> int:
    """Write the embeddings of many scenes into one GeoParquet, with a STAC item beside it.

    The file's metadata name the model, for ``search`` to compare.

    Args:
        frames: What ``embed`` gave for each source.
        output: ``.parquet``.
        sources: The scenes and cubes, for the item.
        settings: What else the rows depend on, for the item.
        overwrite: Replace an existing file.

    Returns:
        The number of rows.

    Raises:
        OutputError: The output exists, cannot be written, or is no ``.parquet``.
    """
    check_index_path(output, overwrite=overwrite)
    frames = list(frames)
    whole = gpd.GeoDataFrame(pd.concat(frames, ignore_index=True), geometry="geometry", crs="EPSG:4326")
    whole.attrs = dict(frames[0].attrs)
    write_vector(whole, output, layer="places", overwrite=overwrite)
    write_item_of_table(output, whole, sources, task="sparse-embedding", settings=settings)
    return len(whole)


def search(
    index: Path, query: npt.NDArray[np.float32], count: int = 100, *, model: Mapping[str, Any] | None = None
) -> gpd.GeoDataFrame:
    """The rows of an index that are most like a query, best first, with their cosine as ``similarity``.

    Args:
        index: GeoParquet with an ``embedding`` column.
        query: Unit vector ``[D]``.
        count: How many.
        model: What ``model_of`` gives for the query's cube.

    Raises:
        InputError: The file is no index, or another backbone made it.
    """
    frame = read_index(index)
    if frame.empty:
        return frame.assign(similarity=pd.Series(dtype=float))
    check_model(frame.attrs, model or {}, str(index), "the query")
    vectors = np.stack(list(frame["embedding"])).astype(np.float32)
    if vectors.shape[1] != len(query):
        raise InputError(
            f"{index} holds {vectors.shape[1]} features a row and the query {len(query)}: another backbone made it"
        )
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    found = frame.assign(similarity=vectors @ query).sort_values("similarity", ascending=False, kind="stable")
    return found.head(count).reset_index(drop=True)


def check_index_path(output: Path, *, overwrite: bool) -> None:
    """Refuse an index that cannot be written, before any work.

    Raises:
        OutputError: It exists, cannot be written, or is no ``.parquet``.
    """
    if output.suffix != ".parquet":
        raise OutputError(f"an index is a GeoParquet: name it .parquet, not {output.name}")
    check_output(output, overwrite=overwrite)


def read_index(index: Path) -> gpd.GeoDataFrame:
    """Read an index.

    Raises:
        InputError: The file is missing or no index.
    """
    if not os.path.exists(index):
        raise InputError(f"{index} does not exist")
    try:
        frame = gpd.read_parquet(index)
    except (ValueError, OSError) as error:
        raise InputError(f"{index} is no GeoParquet: {' '.join(str(error).split())}") from None
    if "embedding" not in frame:
        raise InputError(f"{index} has no column 'embedding'; `geodino index` makes such a file")
    return frame


def write_hits(
    hits: gpd.GeoDataFrame,
    output: Path,
    *,
    index: Path,
    query: Scene | Path,
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Write the result of a search, best first, without the vectors, with a STAC item beside it.

    Args:
        hits: What ``search`` gave.
        output: A vector file; its suffix chooses the format, see ``geodino.products.vector``.
        index: The index that was searched, for the item.
        query: The scene or cube in which the query lies, for the item.
        settings: What was asked, for the item.

    Raises:
        OutputError: It cannot be written.
    """
    hits = hits.drop(columns="embedding")
    hits["pixel_bbox"] = [",".join(str(n) for n in bounds) for bounds in hits["pixel_bbox"]]
    write_vector(hits, output, layer="places", overwrite=True)
    write_item_of_table(output, hits, [index], query=query, task="similarity-search", settings=settings)
