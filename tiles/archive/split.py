"""Splits by place: no spot on Earth lies in tiles of two splits.

A Major-TOM cell belongs to one split, by a hash of its name and the seed, so that adding scenes later moves nothing.
A tile that touches cells of different splits belongs to none (``border``). Tiles without a place are drawn one by one.
"""

import hashlib
import math
from typing import Any

import numpy as np
import pyarrow as pa
import shapely

from tiles.archive.index import SCHEMA, column_array
from tiles.grids import cells

BORDER = "border"
# Corners of a tile may lie in other cells than its centre; so may points between corners where tiles exceed a cell.
_POINTS_A_SIDE = 3


def settings(fractions: dict[str, float], seed: int = 0) -> dict[str, Any]:
    """Settings of a split, as `assign` takes them.

    Args:
        fractions: Share of cells of each split; together 1.
        seed: Changes which cells go where.
    """
    if not math.isclose(sum(fractions.values()), 1.0, abs_tol=1e-6) or min(fractions.values()) < 0:
        raise ValueError(f"the shares of a split must be positive and add up to 1, not {fractions}")
    return {"fractions": fractions, "seed": seed}


def assign(table: pa.Table, split: dict[str, Any] | None) -> pa.Table:
    """The index with its ``split`` column set (null without settings)."""
    place = table.schema.get_field_index("split")
    names: list[str | None] = [None] * len(table) if split is None else splits_of(table, split)
    return table.set_column(place, SCHEMA.field("split"), pa.array(names, type=SCHEMA.field("split").type))


def splits_of(table: pa.Table, split: dict[str, Any]) -> list[str | None]:
    """The split of every row of an index."""
    cell = column_array(table.column("cell"))
    identity = table.column("tile_id").to_pylist()
    touched = _touched_cells(table, cell)
    chosen: list[str | None] = []
    known: dict[str, str] = {}
    for i, around in enumerate(touched):
        found = {known.setdefault(name, _draw(name, split)) for name in around} or {_draw(identity[i], split)}
        chosen.append(found.pop() if len(found) == 1 else BORDER)
    return chosen


def _draw(name: str, split: dict[str, Any]) -> str:
    digest = hashlib.sha256(f"{split['seed']}:{name}".encode()).digest()
    point = int.from_bytes(digest[:8], "big") / 2**64
    edge = 0.0
    for key, share in split["fractions"].items():
        edge += share
        if point < edge:
            return str(key)
    return str(key)


def _touched_cells(table: pa.Table, cell: np.ndarray) -> list[set[str]]:
    """Cells that each tile's footprint touches, its centre's included; empty without a place."""
    touched = [{name} if name is not None else set() for name in cell]
    placed = [i for i, name in enumerate(cell) if name is not None]
    wkb = table.column("geometry")
    for i in placed:
        shape = wkb[i].as_py()
        if shape is None:
            continue
        for part in shapely.get_parts(shapely.from_wkb(shape)):
            west, south, east, north = shapely.bounds(part)
            # Cells are about 0.09 degrees high: a step below that leaves none out.
            rows = np.linspace(south, north, max(_POINTS_A_SIDE, 2 + int((north - south) / 0.04)))
            step = 0.04 / max(math.cos(math.radians(max(abs(south), abs(north)))), 0.01)
            columns = np.linspace(west, east, max(_POINTS_A_SIDE, 2 + int((east - west) / step)))
            x, y = np.meshgrid(columns, rows)
            touched[i] |= {name for name in cells(x.ravel(), y.ravel()) if name}
    return touched
