"""Feature cubes on disk: Zarr v3 (float16, sharded) and Cloud-Optimized GeoTIFF (int8 code or float32).

A cube lies on the token grid, in the scene's CRS. Both kinds are filled in pieces of whole token rows, in any order and
by any number of processes, in a folder beside the target that becomes the target when every piece is there. The
tokens of a map are a temporary cube: the pieces alone, read where they lie.
"""

import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from odc.geo.geobox import GeoBox

from geodino.dense.cube_zarr import VARIABLE, consolidate, prepare_zarr
from geodino.dense.int8 import CODE_FORMULA, CODE_NODATA, encode_int8
from geodino.dense.settings import DenseSettings
from geodino.dense.stream import TokenRows
from tiles.errors import OutputError
from tiles.writing.cog import CogWriter
from tiles.writing.journal import RowParts, save_piece
from tiles.writing.outputs import DiskFullError, check_output, disk_errors, part_of, replace_folder

PIECE_ROWS = 64
"""Token rows of a piece: a row of Zarr shards, a row of COG blocks of many bands."""
# Of a temporary cube: about what a row of windows settles, so that little is held and little lost. Divides PIECE_ROWS.
_TEMPORARY_ROWS = 32


@dataclass(frozen=True)
class CubeSpec:
    """What a cube will be.

    Attributes:
        path: Where it will be; ``.zarr`` or ``.tif``.
        geobox: The token grid.
        channels: Features ``D``.
        dtype: ``float16``, ``float32`` or ``int8``.
        tags: What it says about its making.
        temporary: Whether the pieces are all that is wanted; ``path`` is then their folder.
    """

    path: Path
    geobox: GeoBox
    channels: int
    dtype: str
    tags: Mapping[str, Any]
    temporary: bool = False

    @property
    def work(self) -> Path:
        """Folder that holds the pieces until the cube is whole."""
        return self.path if self.temporary else self.path.with_name(self.path.name + ".part")

    @property
    def piece_rows(self) -> int:
        """Token rows of a piece."""
        return _TEMPORARY_ROWS if self.temporary else PIECE_ROWS

    @property
    def zarr(self) -> bool:
        """Whether it is a Zarr store."""
        return self.path.suffix == ".zarr" and not self.temporary


def cube_type(path: Path, wanted: str = "auto") -> str:
    """Number type that a cube of this name has.

    Raises:
        OutputError: The suffix says neither Zarr nor GeoTIFF, or the format has no such type.
    """
    kinds = {".zarr": ("float16", "float32"), ".tif": ("int8", "float32"), ".tiff": ("int8", "float32")}
    known = kinds.get(path.suffix.lower())
    if known is None:
        raise OutputError(f"{path} says neither Zarr nor GeoTIFF; name a feature cube .zarr or .tif")
    if wanted == "auto":
        return known[0]
    if wanted not in known:
        raise OutputError(f"a {path.suffix} cube holds {' or '.join(known)}, not {wanted}; choose one with --dtype")
    return wanted


class CubeWriter:
    """Fills a cube piece by piece and puts it under its name when it is whole.

    Args:
        spec: What it will be.
        identity: Everything its values depend on; an unfinished run with another one is refused.
        overwrite: Replace an existing cube, and an unfinished run of another identity; one of the same goes on.

    Raises:
        OutputError: The output exists or cannot be written.
        InputError: An unfinished run with other inputs or settings lies there.
    """

    def __init__(self, spec: CubeSpec, identity: Mapping[str, Any], *, overwrite: bool = False) -> None:
        check_output(spec.path, overwrite=overwrite or spec.temporary)
        self.spec, self.overwrite = spec, overwrite
        with disk_errors(spec.path):
            shutil.rmtree(self._whole, ignore_errors=True)
            if spec.zarr and spec.work.is_dir() and not _store(spec).is_dir():
                # A kill between the rename and the cleaning up leaves a journal of pieces that are no longer there.
                shutil.rmtree(spec.work)
            self.parts = RowParts(
                spec.work,
                dict(identity) | {"dtype": spec.dtype, "channels": spec.channels},
                rows=int(spec.geobox.shape[0]),
                step=spec.piece_rows,
                restart=overwrite,
            )
            if not self.parts.journal.done:  # a store that is there may be laid out for another run
                shutil.rmtree(_store(spec), ignore_errors=True)
            if spec.zarr:
                prepare_zarr(
                    _store(spec), spec.geobox, channels=spec.channels, dtype=spec.dtype, rows=PIECE_ROWS, tags=spec.tags
                )
            if spec.temporary:
                self._check_room()

    def _check_room(self) -> None:
        """Refuse a disk that has no room for the rest, before any work: nothing is compressed, so its size is known."""
        rows = sum(len(run) for run in self.missing())
        size = rows * int(self.spec.geobox.shape[1]) * self.spec.channels * np.dtype(self.spec.dtype).itemsize
        free = shutil.disk_usage(self.spec.work).free
        if size > free:
            raise DiskFullError(
                f"no space left for the {size / 1e9:.1f} GB of tokens in {self.spec.work}: {free / 1e9:.1f} GB are "
                "free; free some, or write to another disk"
            )

    def missing(self) -> list[range]:
        """Token rows still to be made."""
        return self.parts.missing()

    def write(self, rows: Iterator[TokenRows]) -> Iterator[int]:
        """Write a stream of rows; yields the number of rows finished after each piece."""
        for piece, features, valid in pieces(rows, self.spec):
            write_piece(self.spec, piece, features, valid)
            with disk_errors(self.spec.path):
                self.parts.mark(piece)
            yield piece.stop

    @property
    def _whole(self) -> Path:
        """Where a whole store lies for the moment of the exchange, apart from the journal that knows its pieces."""
        return part_of(self.spec.path, ".whole")

    def finish(self, before: Callable[[], object] = lambda: None) -> None:
        """Put the whole cube under its name.

        Args:
            before: Is called when the cube is whole and has not got its name yet.

        Raises:
            OutputError: The disk is full, or the name has been taken meanwhile.
        """
        if self.missing():
            raise ValueError(f"rows {self.missing()} of {self.spec.path} are missing")
        if self.spec.zarr:
            for stray in _store(self.spec).rglob("*.partial"):
                stray.unlink()
            consolidate(_store(self.spec))
        else:
            self._assemble()
        before()
        check_output(self.spec.path, overwrite=self.overwrite)
        with disk_errors(self.spec.path):
            if self.spec.zarr:
                _store(self.spec).rename(self._whole)
                old = replace_folder(self._whole, self.spec.path)
                if old is not None:
                    shutil.rmtree(old, ignore_errors=True)
            else:
                (self.spec.work / self.spec.path.name).replace(self.spec.path)
        self.parts.remove()

    def _assemble(self) -> None:
        spec = self.spec
        names = [f"feature {i}" for i in range(spec.channels)]
        with CogWriter(
            # The pieces' folder holds the name that a working file would take.
            spec.work / spec.path.name,
            spec.geobox,
            dtype=spec.dtype,
            nodata=CODE_NODATA if spec.dtype == "int8" else float("nan"),
            count=spec.channels,
            # An average of unit vectors has no unit length and a code has no average: overviews are samples.
            resampling="nearest",
            descriptions=names,
            tags=spec.tags,
            overwrite=True,
        ) as out:
            for piece in self.parts.pieces:
                out.write(piece.start, self.parts.read(VARIABLE, piece))


def pieces(
    rows: Iterator[TokenRows], spec: CubeSpec
) -> Iterator[tuple[range, npt.NDArray[np.float32], npt.NDArray[np.bool_]]]:
    """Cut a stream of rows, which begins at a piece's first row, into the pieces of a cube."""
    total, step = int(spec.geobox.shape[0]), spec.piece_rows
    stop = first = 0
    for new in rows:
        taken = 0
        while taken < new.valid.shape[0]:
            row = new.row + taken
            if row >= stop:
                first, stop = row, min(row // step * step + step, total)
                features = np.empty((len(new.features), stop - first, new.valid.shape[1]), np.float32)
                valid = np.empty(features.shape[1:], np.bool_)
            count = min(stop - row, new.valid.shape[0] - taken)
            here, there = slice(row - first, row - first + count), slice(taken, taken + count)
            features[:, here], valid[here] = new.features[:, there], new.valid[there]
            taken += count
            if row + count == stop:
                yield range(first, stop), features, valid


def write_piece(spec: CubeSpec, piece: range, features: npt.NDArray[np.float32], valid: npt.NDArray[np.bool_]) -> None:
    """Put one piece on disk; pieces touch no common file, so any process may write any of them.

    Raises:
        OutputError: The disk is full.
    """
    with disk_errors(spec.path):
        if spec.dtype == "int8":
            save_piece(spec.work, VARIABLE, piece, encode_int8(features, valid))
            return
        array = features.astype(spec.dtype)
        if not valid.all():
            array[:, ~valid] = np.nan
        if not spec.zarr:
            save_piece(spec.work, VARIABLE, piece, array)
            return
        import zarr

        store = zarr.open_group(_store(spec), mode="r+")
        store[VARIABLE][:, piece.start : piece.stop] = array


def _store(spec: CubeSpec) -> Path:
    return spec.work / "cube.zarr"


def cube_tags(dtype: str, settings: DenseSettings) -> dict[str, Any]:
    """Tags that say how to read a cube."""
    tags: dict[str, Any] = {
        "GEODINO_CUBE": "unit-length dense features on the token grid",
        "GEODINO_SETTINGS": settings.identity(),
    }
    if dtype == "int8":
        tags["GEODINO_CODE"] = CODE_FORMULA
    return tags
