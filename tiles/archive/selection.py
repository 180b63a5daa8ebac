"""A choice among the tiles of a set, kept beside it, so that nothing is copied and nothing is lost."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tiles.errors import InputError
from tiles.writing.outputs import replacing, write_json

SELECTION_FILE = "curated.parquet"
REPORT_FILE = "curated.json"


@dataclass(frozen=True)
class Selection:
    """Which tiles were kept, and why the others were not.

    Attributes:
        kept: bool ``[N]`` over the tiles of the whole set.
        duplicate_of: int64 ``[N]``; the tile that each one repeats, itself where none.
        cluster: int64 ``[N]``; cluster of each tile at the top of the tree.
    """

    kept: np.ndarray
    duplicate_of: np.ndarray
    cluster: np.ndarray

    def save(self, folder: Path, tile_ids: np.ndarray, report: dict[str, Any]) -> Path:
        """Write the choice and a report on it into the tile set's folder."""
        path = folder / SELECTION_FILE
        columns = {
            "tile_id": pa.array(tile_ids.tolist()),
            "kept": pa.array(self.kept),
            "duplicate_of": pa.array(self.duplicate_of),
            "cluster": pa.array(self.cluster),
        }
        with replacing(path) as part:
            pq.write_table(pa.table(columns), part, compression="zstd")
            write_json(report, folder / REPORT_FILE)
        return path


def read_kept(path: Path, tiles: int) -> np.ndarray:
    """Numbers of the kept tiles of a selection's file, int64, sorted.

    Raises:
        InputError: Where it is no selection, or one of another state of the tile set.
    """
    try:
        kept = pq.ParquetFile(path).read(columns=["kept"]).column("kept").to_numpy()
    except (pa.ArrowInvalid, OSError, KeyError) as error:
        raise InputError(f"{path} is no selection of tiles ({error}); make one with `geodino curate`.") from error
    if len(kept) != tiles:
        raise InputError(f"{path} was made when its tile set had {len(kept)} tiles, now it has {tiles}; curate again.")
    return np.flatnonzero(kept)
