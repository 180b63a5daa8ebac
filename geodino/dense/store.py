"""Values on a scene's token grid, kept on disk while a map is being made.

The model is the expensive part of every map. What it gave is written here as it comes, with a journal of how far it
got: an interrupted run started again goes on from there, and gives the same bytes, because a range of token rows has
the values that the whole scene has there.
"""

import json
import math
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import DTypeLike, NDArray

from tiles.errors import InputError
from tiles.writing.outputs import disk_errors

_JOURNAL = "journal.json"
_VALUES, _VALID = "values.raw", "valid.raw"


class TokenStore:
    """An array `[rows, C, columns]` with validity `[rows, columns]` in a folder, filled from top to bottom.

    Attributes:
        folder: where it lies; removed by ``remove`` when the map is whole.
        done: token rows written so far.
        channels: values a token.
        dtype: their type on disk.
        valid: which tokens hold something; rows from ``done`` on are undefined.
    """

    folder: Path
    done: int
    channels: int
    dtype: np.dtype[Any]
    valid: np.memmap

    @classmethod
    def open(
        cls,
        folder: Path,
        identity: Mapping[str, Any],
        *,
        rows: int,
        columns: int,
        channels: int,
        dtype: DTypeLike = np.float16,
        restart: bool = False,
    ) -> Self:
        """Begin, or go on where an interrupted run with the same ``identity`` stopped.

        Args:
            folder: where to keep it.
            identity: everything the values depend on, as JSON can hold it.
            rows: token rows of the scene.
            columns: token columns.
            channels: values a token.
            dtype: type on disk.
            restart: throw away an unfinished run instead of going on with it.

        Raises:
            InputError: an unfinished run with other inputs or settings lies there.
            OutputError: the folder cannot be made, or the disk has no room for all the rows.
        """
        store = cls()
        store.folder = folder
        shape = {"rows": rows, "columns": columns, "channels": channels, "dtype": np.dtype(dtype).name}
        wanted = json.loads(json.dumps({**identity, **shape}, sort_keys=True))
        if restart:
            shutil.rmtree(folder, ignore_errors=True)
        found = store._read_journal()
        if found is not None and found["identity"] != wanted:
            differ = sorted(
                key for key in {*found["identity"], *wanted} if found["identity"].get(key) != wanted.get(key)
            )
            raise InputError(
                f"{folder} holds an unfinished run with another {' and '.join(differ)}; "
                "delete the folder or give --overwrite to start again"
            )
        with disk_errors(folder):
            folder.mkdir(parents=False, exist_ok=True)
            store.channels, store.dtype = channels, np.dtype(dtype)
            _reserve(folder / _VALUES, rows * channels * columns * store.dtype.itemsize)
            _reserve(folder / _VALID, rows * columns)
            store.valid = np.memmap(folder / _VALID, dtype=np.bool_, mode="r", shape=(rows, columns))
            store._identity, store.done = wanted, 0 if found is None else int(found["done"])
            store._write_journal()
        return store

    def write(self, row: int, values: NDArray, valid: NDArray[np.bool_]) -> None:
        """Add token rows ``values`` `[C, h, columns]` and ``valid`` `[h, columns]` from token row ``row`` on.

        Raises:
            OutputError: the disk is full.
        """
        if row != self.done:
            raise ValueError(f"row {row} does not follow {self.done}")
        with disk_errors(self.folder):
            _put(self.folder / _VALUES, row, np.moveaxis(values, 0, 1).astype(self.dtype))
            _put(self.folder / _VALID, row, valid)
            self.done = row + values.shape[1]
            self._write_journal()

    def read(self, start: int, stop: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Values `[C, h, columns]` float32 and validity `[h, columns]` of token rows ``start`` to ``stop``."""
        values = np.moveaxis(self._rows(start, stop), 1, 0).astype(np.float32)
        return values, np.asarray(self.valid[start:stop])

    def at(self, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[np.float32]:
        """Values of single tokens, `[N, C]` float32."""
        found = np.empty((len(rows), self.channels), np.float32)
        order = np.argsort(rows, kind="stable")
        for members in np.split(order, np.flatnonzero(np.diff(rows[order])) + 1):
            if len(members):
                row = int(rows[members[0]])
                found[members] = self._rows(row, row + 1)[0][:, columns[members]].T
        return found

    def _rows(self, start: int, stop: int) -> NDArray[Any]:
        """Whole token rows as they lie on disk, `[stop - start, C, columns]`.

        Not memory-mapped: what is read through a mapping stays in the process's memory, in the end the whole scene.
        """
        shape = (stop - start, self.channels, self.valid.shape[1])
        size = math.prod(shape[1:])
        path, offset = self.folder / _VALUES, start * size * self.dtype.itemsize
        return np.fromfile(path, self.dtype, math.prod(shape), offset=offset).reshape(shape)

    def remove(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _read_journal(self) -> dict[str, Any] | None:
        path = self.folder / _JOURNAL
        return json.loads(path.read_text()) if path.exists() else None

    def _write_journal(self) -> None:
        part = self.folder / (_JOURNAL + ".part")
        part.write_text(json.dumps({"identity": self._identity, "done": self.done}))
        os.replace(part, self.folder / _JOURNAL)

    _identity: dict[str, Any]


def _reserve(path: Path, size: int) -> None:
    """Make room on disk, or find it there.

    A disk without that room refuses here, before any work (where the system can reserve: not on macOS).
    """
    with path.open("ab") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        file.truncate(size)


def _put(path: Path, row: int, rows: NDArray[Any]) -> None:
    """Write whole rows of an array into its file, and have the disk say that they are there."""
    with path.open("r+b") as file:
        file.seek(row * rows[:1].nbytes)
        file.write(np.ascontiguousarray(rows).data)
        file.flush()
        os.fsync(file.fileno())
