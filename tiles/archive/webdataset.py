"""Publishing a tile set as WebDataset: plain tar files that other tools stream."""

import io
import json
import os
import tarfile
from pathlib import Path

import numpy as np

from tiles.archive.dataset import TileDataset
from tiles.archive.index import read_table
from tiles.archive.shard import unpack
from tiles.errors import OutputError
from tiles.progress import Progress, Silent
from tiles.writing.outputs import locked_folder, part_of

_COLUMNS = [
    "tile_id",
    "crs",
    "transform",
    "gsd_m",
    "valid_fraction",
    "source",
    "sensor",
    "datetime",
    "cell",
    "label",
    "split",
]


def export_webdataset(
    path: Path,
    output: Path,
    *,
    tiles_per_file: int = 1000,
    split: str | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> int:
    """Write tar files of ``KEY.npy`` (digital numbers ``[C, H, W]``), ``KEY.valid.npy`` and ``KEY.json``.

    Args:
        path: The tile set.
        output: Folder for ``tiles-00000.tar`` and so on.
        tiles_per_file: Tiles in each tar file.
        split: Only tiles of this split.
        overwrite: Replace tar files that are there, when all new ones are whole.
        progress: Told the share of tiles written.

    Returns:
        Number of tiles written.

    Raises:
        OutputError: Where there are tar files already, or no tile belongs to the split.
    """
    tiles = TileDataset(path)
    output.mkdir(parents=True, exist_ok=True)
    existing = sorted(output.glob("tiles-*.tar"))
    if existing and not overwrite:
        raise OutputError(f"{output} holds {existing[0].name} already; choose another folder or --overwrite.")
    chosen = np.arange(len(tiles)) if split is None else np.flatnonzero(tiles.column("split") == split)
    if not len(chosen):
        raise OutputError(f"{path} has no tile in split {split}; make splits with `geodino tiles split`.")
    about = read_table(path, [*_COLUMNS, "scale", "offset"])
    bar = progress or Silent()
    made: list[Path] = []
    with locked_folder(output):
        try:
            for number, first in enumerate(range(0, len(chosen), tiles_per_file)):
                rows = chosen[first : first + tiles_per_file]
                made.append(output / f"tiles-{number:05d}.tar")
                with tarfile.open(part_of(made[-1]), "w", format=tarfile.USTAR_FORMAT) as tar:
                    for i, row in zip(rows, about.take(rows).to_pylist(), strict=True):
                        values, bits = tiles.raw(int(i))
                        key = f"{int(i):09d}"
                        _add(tar, f"{key}.npy", _npy(values))
                        _add(tar, f"{key}.valid.npy", _npy(unpack(bits, tiles.size)))
                        _add(tar, f"{key}.json", json.dumps({**row, "bands": tiles.bands}).encode())
                bar.update(min(1.0, (first + tiles_per_file) / len(chosen)))
            for file in made:  # the old files go when the new ones are whole
                os.replace(part_of(file), file)
        finally:
            for file in made:
                part_of(file).unlink(missing_ok=True)
        for file in set(existing) - set(made):
            file.unlink()
    return len(chosen)


def _npy(values: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)  # time 0 and no owner: the same tiles give the same bytes
    entry.size = len(content)
    tar.addfile(entry, io.BytesIO(content))
