"""Values on a scene's token grid, kept on disk while a map is being made.

The model is the expensive part of every map. What it gave is written here as it comes, with a journal of how far it
got: an interrupted run started again goes on from there, and gives the same bytes, because a range of token rows has
the values that the whole scene has there.
"""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import DTypeLike, NDArray

from tiles.errors import InputError, OutputError

_JOURNAL = "journal.json"


class TokenStore:
    """An array `[rows, C, columns]` with validity `[rows, columns]` in a folder, filled from top to bottom.

    Attributes:
        folder: where it lies; removed by ``remove`` when the map is whole.
        done: token rows written so far.
        values: the array, memory-mapped; rows from ``done`` on are undefined.
        valid: which tokens hold something.
    """

    folder: Path
    done: int
    values: np.memmap
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
            OutputError: the folder cannot be made.
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
        mode: Literal["w+", "r+"] = "w+" if found is None else "r+"
        try:
            folder.mkdir(parents=False, exist_ok=True)
            sizes = {"values": (rows, channels, columns), "valid": (rows, columns)}
            store.values = _map(folder / "values.raw", dtype, mode, sizes["values"])
            store.valid = _map(folder / "valid.raw", np.bool_, mode, sizes["valid"])
            store._identity, store.done = wanted, 0 if found is None else int(found["done"])
            store._write_journal()
        except OSError as error:
            raise OutputError(f"{folder} cannot be written: {error.strerror or error}") from error
        return store

    def write(self, row: int, values: NDArray, valid: NDArray[np.bool_]) -> None:
        """Add token rows ``values`` `[C, h, columns]` and ``valid`` `[h, columns]` from token row ``row`` on."""
        if row != self.done:
            raise ValueError(f"row {row} does not follow {self.done}")
        stop = row + values.shape[1]
        self.values[row:stop] = np.moveaxis(values, 0, 1)
        self.valid[row:stop] = valid
        self.values.flush()
        self.valid.flush()
        self.done = stop
        self._write_journal()

    def read(self, start: int, stop: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Values `[C, h, columns]` float32 and validity `[h, columns]` of token rows ``start`` to ``stop``."""
        values = np.moveaxis(np.asarray(self.values[start:stop]), 1, 0).astype(np.float32)
        return values, np.asarray(self.valid[start:stop])

    def at(self, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[np.float32]:
        """Values of single tokens, `[N, C]` float32."""
        return np.asarray(self.values[rows, :, columns], dtype=np.float32)

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


def _map(path: Path, dtype: DTypeLike, mode: Literal["w+", "r+"], shape: tuple[int, ...]) -> np.memmap:
    """A memory-mapped array; numpy's own typing wants the dtype in one of its many spellings."""
    return np.memmap(path, dtype=np.dtype(dtype), mode=mode, shape=shape)
