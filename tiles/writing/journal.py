"""What of a long job is finished, kept on disk so that a killed job goes on where it stopped.

A journal is a file of JSON lines: the first says what the job is (its inputs, model and settings), each further one
names a finished item. An item is written only after its result is safely in place. Whoever comes back with other
inputs or settings is refused: the half-finished results would not fit together.
"""

import json
import os
import shutil
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tiles.errors import InputError
from tiles.writing.outputs import replacing
from tiles.writing.stitch import row_pieces


class Journal:
    """An append-only record of finished items.

    Args:
        path: The file; made if absent, continued if it belongs to the same job.
        identity: Everything the results depend on, JSON values by name.
        restart: Throw an existing journal of another job away in place of refusing.

    Attributes:
        done: Facts of each finished item by its name.
        restarted: True when an existing journal was thrown away, so that what belongs to it must go too.

    Raises:
        InputError: The journal belongs to another job; the sentence names what differs.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any], *, restart: bool = False) -> None:
        self.path = path
        self.done: dict[str, dict[str, Any]] = {}
        self.restarted = False
        self._lock = threading.Lock()
        self.identity: dict[str, Any] = json.loads(json.dumps(identity, sort_keys=True))
        lines = _whole_lines(path)
        if lines:
            known = lines[0].get("job")
            if known == self.identity:
                self.done = {line["done"]: line.get("facts", {}) for line in lines[1:]}
                self._rewrite(lines)  # without a last line that a kill tore off
                return
            if not restart:
                raise InputError(_difference(path, known, self.identity))
            self.restarted = True
        self._rewrite([{"job": self.identity}])

    def _rewrite(self, lines: Iterable[Mapping[str, Any]]) -> None:
        with replacing(self.path) as part:
            part.write_text("".join(json.dumps(line, sort_keys=True) + "\n" for line in lines), encoding="utf-8")

    def mark(self, item: str, **facts: Any) -> None:
        """Record that ``item`` is finished and safely on disk."""
        line = json.dumps({"done": item, "facts": facts}, sort_keys=True) + "\n"
        with self._lock, self.path.open("a", encoding="utf-8") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
            self.done[item] = facts


def _whole_lines(path: Path) -> list[dict[str, Any]]:
    """Lines of a journal up to the first that is not whole."""
    lines: list[dict[str, Any]] = []
    if path.exists():
        for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                lines.append(json.loads(text))
            except json.JSONDecodeError:
                break
    return lines


def _difference(path: Path, known: object, now: Mapping[str, Any]) -> str:
    before = known if isinstance(known, dict) else {}
    names = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
    what = ", ".join(f"{name} (was {_short(before.get(name))}, is {_short(now.get(name))})" for name in names)
    return (
        f"{path.parent} holds an unfinished run with another {what}; repeat that command to finish it, "
        "or start anew with --overwrite"
    )


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


class RowParts:
    """A raster in the making: pieces of whole rows, each finished piece on disk and in a journal.

    Pieces start at multiples of ``step``. A run that was interrupted asks for what is ``missing``; what it saves is the
    same array file, whichever process or machine made it.

    Args:
        folder: Where pieces and journal are; made if absent.
        identity: See `Journal`.
        rows: Rows of the whole raster.
        step: Rows of a piece.
        restart: See `Journal`; the pieces of another job are removed.

    Raises:
        InputError: See `Journal`.
    """

    def __init__(
        self, folder: Path, identity: Mapping[str, Any], *, rows: int, step: int, restart: bool = False
    ) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self.pieces = row_pieces(0, rows, step)
        self.journal = Journal(folder / "journal.jsonl", dict(identity) | {"rows": rows, "step": step}, restart=restart)
        for stray in folder.glob("*.npy.*.part"):
            stray.unlink()
        if self.journal.restarted:
            for stray in folder.glob("*.npy"):
                stray.unlink()

    def missing(self) -> list[range]:
        """Rows still to be made, as ranges that begin and end with pieces, neighbours joined."""
        runs: list[range] = []
        for piece in self.pieces:
            if self.finished(piece):
                continue
            if runs and runs[-1].stop == piece.start:
                runs[-1] = range(runs[-1].start, piece.stop)
            else:
                runs.append(piece)
        return runs

    def finished(self, piece: range) -> bool:
        """Whether a piece is in place."""
        return self._item(piece) in self.journal.done

    def save(self, piece: range, **arrays: npt.NDArray[Any]) -> None:
        """Put the arrays of one piece on disk and record it."""
        for name, array in arrays.items():
            save_piece(self.folder, name, piece, array)
        self.mark(piece)

    def mark(self, piece: range, **facts: Any) -> None:
        """Record a piece whose arrays are on disk already."""
        self.journal.mark(self._item(piece), **facts)

    def read(self, name: str, piece: range) -> npt.NDArray[Any]:
        """Open the array ``name`` of a piece, memory-mapped."""
        return np.load(_piece_path(self.folder, name, piece), mmap_mode="r")

    def remove(self) -> None:
        """Delete the folder, the journal first: what a kill leaves of the rest then belongs to nobody."""
        self.journal.path.unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    @staticmethod
    def _item(piece: range) -> str:
        return f"rows {piece.start}-{piece.stop}"


def save_piece(folder: Path, name: str, piece: range, array: npt.NDArray[Any]) -> None:
    """Write one array of a piece, whole or not at all; needs no journal, so that any process may do it."""
    with replacing(_piece_path(folder, name, piece), shared=True, durable=True) as part, part.open("wb") as file:
        np.save(file, array, allow_pickle=False)


def _piece_path(folder: Path, name: str, piece: range) -> Path:
    return folder / f"{name}-{piece.start:09d}.npy"
