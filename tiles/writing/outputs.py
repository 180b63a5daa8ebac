"""Places that a command writes to: whether it may, that one process does at a time, and results that appear whole.

What is unfinished lies beside the output under a name that ends in ``.part``; a rename puts it under its own. GDAL and
rasterio are imported where a raster is at stake only, since a thin training node has neither.
"""

import errno
import fcntl
import json
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from tiles.errors import OutputError

_FULL = (errno.ENOSPC, errno.EDQUOT)
# With less than this free a disk counts as full: GDAL passes on the reason for few of its errors.
_LEAST_FREE = 64 << 20
# Bytes that the longest name beside an output adds to its own: a cube's smaller copies, "-half" each time, and ".part".
_LONGEST_ENDING = 56


class DiskFullError(OutputError):
    """There is no space left for the output, nor for any other on that disk."""


class Input(Protocol):
    """Something that is read from several files: a scene."""

    @property
    def name(self) -> str:
        """What to call it."""

    def files(self) -> Iterable[str]:
        """Paths and addresses that are read for it."""


def check_output(path: Path, *, overwrite: bool) -> None:
    """Refuse an output that cannot or must not be written, before any work is done for it.

    Raises:
        OutputError: It exists and ``overwrite`` is false, its folder is missing or cannot be written, or its name
            leaves no room for those of what is unfinished and of its STAC item.
    """
    _check_length(path)
    if path.exists() and not overwrite:
        raise OutputError(f"{path} exists already; choose another name or replace it with --overwrite")
    if not path.parent.is_dir():
        raise OutputError(f"the folder {path.parent} of the output {path.name} does not exist; make it first")
    if not os.access(path.parent, os.W_OK):
        raise OutputError(f"the folder {path.parent} cannot be written; choose another output")


def _check_length(path: Path) -> None:
    if path.suffix == ".part" or not os.path.isdir(path.parent):
        return
    longest = os.pathconf(path.parent, "PC_NAME_MAX") - _LONGEST_ENDING
    length = len(os.fsencode(path.name))
    if length > longest:
        raise OutputError(
            f"the name of the output {path.name[:20]}... is {length} bytes long, and the file system of {path.parent} "
            f"leaves room for {longest}; choose a shorter one"
        )


def check_not_input(outputs: Iterable[Path | None], *inputs: str | Path | Input | None) -> None:
    """Refuse an output that is an input too, which ``--overwrite`` would replace while it is needed.

    Args:
        outputs: Where results go.
        *inputs: Scenes, and whatever else is read: labels, models, cubes, indices.

    Raises:
        OutputError: One of the outputs is one of the inputs, or a file of a scene.
    """
    existing = [output for output in outputs if output is not None and output.exists()]
    if not existing:
        return
    for source in inputs:
        if source is None:
            continue
        name, files = (source, [str(source)]) if isinstance(source, str | Path) else (source.name, source.files())
        for file in files:
            for output in existing:
                if os.path.exists(file) and os.path.samefile(output, file):
                    raise OutputError(f"{output} is also the input {name}; choose another name for the output")


def part_of(path: Path, kind: str = "") -> Path:
    """Temporary name beside ``path``: what is under it is unfinished."""
    return path.with_name(f"{path.name}{kind}.part")


@contextmanager
def replacing(path: Path, *, shared: bool = False, durable: bool = False) -> Iterator[Path]:
    """Yield the name to write a file under; it gets its own when the block ends well, and goes when it does not.

    Args:
        path: The file.
        shared: Other processes may be writing the same file: each does so under a name of its own, and the last counts.
        durable: Have the disk say that the content is there before it gets its name, so that a record of it is true
            even after the power failed.
    """
    part = part_of(path, f".{secrets.token_hex(4)}" if shared else "")
    try:
        yield part
        if durable:
            with part.open("rb+") as file:
                os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_json(content: Any, path: Path) -> None:
    """Write JSON for people, whole or not at all."""
    with replacing(path) as part:
        part.write_text(json.dumps(content, indent=1) + "\n")


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep other processes from writing the same output, a file or a folder that exists.

    Raises:
        OutputError: Another process is at it.
    """
    lock = path / ".lock" if path.is_dir() else path.with_name(f".{path.name}.lock")
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            taken = not os.fstat(file.fileno()).st_nlink  # one that was just given back, and locks nothing any more
        except OSError:
            taken = True
        if taken:
            raise OutputError(f"Another process is writing {path}; wait for it or choose another output.")
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn GDAL's and the system's write errors into one sentence about ``path``.

    Raises:
        DiskFullError: There is no space left.
        OutputError: Anything else prevented writing.
    """
    import rasterio
    from rasterio._err import CPLE_BaseError  # copying to a COG and closing a file raise these as they are
    from rasterio.errors import RasterioError

    with rasterio.Env():  # GDAL's own messages go to Python's logging; outside they would spill onto standard error
        try:
            yield
        except OutputError:
            raise
        except (RasterioError, CPLE_BaseError, OSError) as error:
            full = isinstance(error, OSError) and error.errno in _FULL
            raise cannot_write(path, " ".join(str(error.__cause__ or error).split()), full=full) from error


def cannot_write(path: Path, reason: str, *, full: bool = False) -> OutputError:
    """The error for an output that could not be written: it says so where the disk is full."""
    free = shutil.disk_usage(path.parent).free
    if full or free < _LEAST_FREE:
        return DiskFullError(
            f"no space left on the disk for {path} ({free >> 20} MB free); free some and run the same command again"
        )
    return OutputError(f"{path} cannot be written: {reason}")
