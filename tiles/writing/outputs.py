"""Places that a command writes to: whether it may, that one process does at a time, and results that appear whole.

What is unfinished lies beside the output under a name that ends in ``.part``; a rename puts it under its own. GDAL and
rasterio are imported where a raster is at stake only, since a thin training node has neither.
"""

import ctypes
import errno
import fcntl
import json
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

from tiles.errors import OutputError

_FULL = (errno.ENOSPC, errno.EDQUOT)
# With less than this free a disk counts as full: GDAL passes on the reason for few of its errors.
_LEAST_FREE = 64 << 20
# Of renameat2: names are relative to the working folder, and are exchanged.
_HERE, _RENAME_EXCHANGE = -100, 2
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
    check_name(path)
    if os.path.exists(path) and not overwrite:
        raise OutputError(f"{path} exists already; choose another name or replace it with --overwrite")
    if not os.path.isdir(path.parent):
        raise OutputError(f"the folder {path.parent} of the output {path.name} does not exist; make it first")
    if not os.access(path.parent, os.W_OK):
        raise OutputError(f"the folder {path.parent} cannot be written; choose another output")


def check_name(path: Path) -> None:
    """Refuse the name of an output that leaves no room for those of what is unfinished and of its STAC item.

    Raises:
        OutputError: It is too long for its folder's file system.
    """
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
    existing = [output for output in outputs if output is not None and os.path.exists(output)]
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
def staged(*outputs: Path | None) -> Iterator[tuple[Path | None, ...]]:
    """Yield names to write the outputs of one run under; they replace older ones together when the block ends well.

    Each lies in a folder of its own beside its output, so that a format of several files may be written there; the
    folders go, whether the block ends well or not.
    """
    folders = {path: part_of(path, ".new") for path in outputs if path is not None}
    try:
        for path, folder in folders.items():
            shutil.rmtree(folder, ignore_errors=True)
            try:
                folder.mkdir()
            except OSError as error:
                raise cannot_write(path, error.strerror or str(error), full=is_full(error)) from error
        yield tuple(None if path is None else folders[path] / path.name for path in outputs)
        for path, folder in folders.items():
            try:
                for file in sorted(folder.iterdir()):
                    os.replace(file, path.with_name(file.name))
            except OSError as error:
                raise cannot_write(path, error.strerror or str(error), full=is_full(error)) from error
    finally:
        for folder in folders.values():
            shutil.rmtree(folder, ignore_errors=True)


def replace_folder(source: Path, target: Path) -> Path | None:
    """Put a whole folder in another's place, at no moment of which the name is without a whole folder.

    Where the file system cannot exchange two names (NFS), the old folder is moved aside first.

    Returns:
        Where the folder that ``target`` was lies now; None where there was none.
    """
    if not target.exists():
        os.rename(source, target)
        return None
    if _exchange(source, target):
        return source
    old = part_of(target, ".old")
    shutil.rmtree(old, ignore_errors=True)
    os.rename(target, old)
    try:
        os.rename(source, target)
    except OSError:
        os.rename(old, target)
        raise
    return old


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two names in one step; False where the system cannot."""
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if call is None:
        return False
    if call(_HERE, os.fsencode(one.absolute()), _HERE, os.fsencode(other.absolute()), _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP):
        return False
    raise OSError(number, os.strerror(number), str(other))


@contextmanager
def locked(*outputs: Path | None) -> Iterator[None]:
    """Keep other processes from writing the same outputs, which become whole by a rename.

    The locks lie beside them, as ``.NAME.lock``, and go at the end. The system gives back those of a process that died.

    Raises:
        OutputError: Another process is writing one of them.
    """
    with ExitStack() as held:
        for path in sorted({path.absolute() for path in outputs if path is not None}):
            held.enter_context(_lock(path.with_name(f".{path.name}.lock"), path))
        yield


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Keep other processes from writing into a folder that exists and grows where it is: a tile set.

    Raises:
        OutputError: Another process is writing into it.
    """
    with _lock(folder / ".lock", folder):
        yield


@contextmanager
def _lock(lock: Path, output: Path) -> Iterator[None]:
    while True:
        try:
            file = lock.open("w")
        except OSError as error:
            raise cannot_write(output, error.strerror or str(error), full=is_full(error)) from error
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise OutputError(
                    f"Another process is writing {output}; wait for it or choose another output."
                ) from None
            except OSError:
                pass  # a file system without locks: nothing to ask
            if not os.fstat(file.fileno()).st_nlink:
                continue  # one that was just given back, and locks nothing any more
            try:
                yield
            finally:
                lock.unlink(missing_ok=True)
            return


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
            raise cannot_write(path, " ".join(str(error.__cause__ or error).split()), full=is_full(error)) from error


def is_full(error: BaseException) -> bool:
    """Whether an error says that the disk is full."""
    return isinstance(error, DiskFullError) or (isinstance(error, OSError) and error.errno in _FULL)


def cannot_write(path: Path, reason: str, *, full: bool = False) -> OutputError:
    """The error for an output that could not be written: it says so where the disk is full."""
    free = shutil.disk_usage(path.parent).free
    if full or free < _LEAST_FREE:
        return DiskFullError(
            f"no space left on the disk for {path} ({free >> 20} MB free); free some and run the same command again"
        )
    return OutputError(f"{path} cannot be written: {reason}")
