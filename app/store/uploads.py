"""Files that analysts upload: judged by what they are before anything opens them, then kept in the server's folder.

Refused: names that lead elsewhere, other kinds, contents that are not what the name says, pickles under any name,
archives that unpack to more than they may or to other places.
"""

import io
import re
import zipfile
from pathlib import Path
from typing import BinaryIO

from tiles.errors import InputError

RASTER_KINDS = ("tif", "tiff", "jp2", "png", "jpg", "jpeg")
VECTOR_KINDS = ("geojson", "json", "gpkg", "fgb", "parquet", "zip")  # zip: a zipped shapefile
MOST_BYTES = 2 * 1024**3
MOST_UNPACKED_BYTES = 4 * 1024**3
MOST_MEMBERS = 200
MOST_RATIO = 200  # an honest archive of geodata packs 2 to 20 times
SHAPEFILE = (".shp", ".shx", ".dbf", ".prj", ".cpg", ".sbn", ".sbx", ".qpj", ".qmd")

_SIGNATURES: dict[str, tuple[bytes, ...]] = {
    "tif": (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
    "jp2": (b"\0\0\0\x0cjP  ",),
    "png": (b"\x89PNG\r\n\x1a\n",),
    "jpg": (b"\xff\xd8\xff",),
    "gpkg": (b"SQLite format 3\0",),
    "fgb": (b"fgb",),
    "parquet": (b"PAR1",),
    "zip": (b"PK\x03\x04",),
}
_SAME = {"tiff": "tif", "jpeg": "jpg"}


def store(name: str, content: BinaryIO, folder: Path, kinds: tuple[str, ...] = RASTER_KINDS + VECTOR_KINDS) -> Path:
    """Keep an uploaded file.

    Args:
        name: What the browser calls it.
        content: Its bytes, from the start.
        folder: Where it goes; an existing file of that name is not replaced, the new one gets a number.
        kinds: File name endings that are accepted.

    Returns:
        The file, or for a zipped shapefile its ``.shp``.

    Raises:
        InputError: Where it is refused; the sentence says why.
    """
    safe = safe_name(name)
    kind = Path(safe).suffix.lower().lstrip(".")
    if kind not in kinds:
        raise InputError(f"{safe} is of a kind that is not taken; these are: {', '.join(kinds)}.")
    size = content.seek(0, io.SEEK_END)
    if size > MOST_BYTES:
        raise InputError(f"{safe} has {size >> 20} MB; the most is {MOST_BYTES >> 20} MB: add it by path instead.")
    content.seek(0)
    head = content.read(64)
    content.seek(0)
    _judge(safe, kind, head)
    folder.mkdir(parents=True, exist_ok=True)
    if kind == "zip":
        return _unpack(safe, content, folder)
    target = _free(folder / safe)
    part = target.with_name(f".{target.name}.part")
    with part.open("wb") as copy:
        while block := content.read(1 << 20):
            copy.write(block)
    part.replace(target)
    return target


def safe_name(name: str) -> str:
    """The last part of a name, without anything but letters, digits, dots, dashes and underscores."""
    last = re.split(r"[/\\]", name)[-1]
    cleaned = re.sub(r"[^\w.\-]", "_", last, flags=re.ASCII).lstrip(".")
    if not cleaned or len(cleaned) > 200:
        raise InputError("The file's name is empty or longer than 200 letters; rename it.")
    return cleaned


def _judge(name: str, kind: str, head: bytes) -> None:
    if head[:2] in {b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"}:
        raise InputError(f"{name} holds pickled Python objects, which could run code; it is refused.")
    if kind in {"geojson", "json"}:
        if not head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith((b"{", b"[")):
            raise InputError(f"{name} is no JSON.")
        return
    wanted = _SIGNATURES[_SAME.get(kind, kind)]
    if not head.startswith(wanted):
        raise InputError(f"{name} is not what its name says: its content is no {kind}.")


def _free(target: Path) -> Path:
    number = 2
    candidate = target
    while candidate.exists():
        candidate = target.with_stem(f"{target.stem}_{number}")
        number += 1
    return candidate


def _unpack(name: str, content: BinaryIO, folder: Path) -> Path:
    """Unpack a zipped shapefile, and nothing else that an archive may be."""
    try:
        archive = zipfile.ZipFile(content)
    except zipfile.BadZipFile as error:
        raise InputError(f"{name} is a damaged archive.") from error
    members = [member for member in archive.infolist() if not member.is_dir()]
    if len(members) > MOST_MEMBERS:
        raise InputError(f"{name} holds {len(members)} files; the most is {MOST_MEMBERS}.")
    unpacked = sum(member.file_size for member in members)
    packed = max(1, sum(member.compress_size for member in members))
    if unpacked > MOST_UNPACKED_BYTES or unpacked / packed > MOST_RATIO:
        raise InputError(f"{name} would unpack to {unpacked >> 20} MB from {packed >> 10} kB; it is refused.")
    wanted = [member for member in members if member.filename.lower().endswith(SHAPEFILE)]
    if not any(member.filename.lower().endswith(".shp") for member in wanted):
        raise InputError(f"{name} holds no shapefile.")
    home = _free(folder / Path(name).stem)
    home.mkdir(parents=True)
    for member in wanted:
        if member.filename.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", member.filename):
            raise InputError(f"{name} holds a path that leads outside ({member.filename!r}); it is refused.")
        _unpack_one(archive, member, home / safe_name(member.filename), name)
    return next(file for file in sorted(home.iterdir()) if file.suffix.lower() == ".shp")


def _unpack_one(archive: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path, name: str) -> None:
    """Write one member, trusting the bytes that come and not the size that the archive claims."""
    written = 0
    with archive.open(member) as source, target.open("wb") as copy:
        while block := source.read(1 << 20):
            written += len(block)
            if written > member.file_size:
                raise InputError(f"{name} says less than it holds; it is refused.")
            copy.write(block)
