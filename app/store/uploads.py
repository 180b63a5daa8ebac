"""Rasters that analysts upload: judged by what they are before anything opens them, then kept in the server's folder.

Refused: names that lead elsewhere, other kinds, contents that are not what the name says (archives and pickles under
any name among them).
"""

import io
import re
import shutil
from pathlib import Path
from typing import BinaryIO

from tiles.errors import InputError
from tiles.writing.outputs import replacing

MOST_BYTES = 2 * 1024**3
SIGNATURES = {
    "tif": (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
    "tiff": (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
    "jp2": (b"\0\0\0\x0cjP  ",),
    "png": (b"\x89PNG\r\n\x1a\n",),
    "jpg": (b"\xff\xd8\xff",),
    "jpeg": (b"\xff\xd8\xff",),
}


def store(name: str, content: BinaryIO, folder: Path) -> Path:
    """Keep an uploaded raster.

    Args:
        name: What the browser calls it.
        content: Its bytes, from the start.
        folder: Where it goes; an existing file of that name is not replaced, the new one gets a number.

    Returns:
        The file.

    Raises:
        InputError: Where it is refused; the sentence says why.
    """
    safe = safe_name(name)
    kind = Path(safe).suffix.lower().lstrip(".")
    if kind not in SIGNATURES:
        raise InputError(f"{safe} is of a kind that is not taken; these are: {', '.join(SIGNATURES)}.")
    size = content.seek(0, io.SEEK_END)
    if size > MOST_BYTES:
        raise InputError(f"{safe} has {size >> 20} MB; the most is {MOST_BYTES >> 20} MB: add it by path instead.")
    content.seek(0)
    if not content.read(16).startswith(SIGNATURES[kind]):
        raise InputError(f"{safe} is not what its name says: its content is no {kind}.")
    content.seek(0)
    folder.mkdir(parents=True, exist_ok=True)
    target = _free(folder / safe)
    with replacing(target) as part, part.open("wb") as copy:
        shutil.copyfileobj(content, copy, 1 << 20)
    return target


def safe_name(name: str) -> str:
    """The last part of a name, without anything but letters, digits, dots, dashes and underscores."""
    last = re.split(r"[/\\]", name)[-1]
    cleaned = re.sub(r"[^\w.\-]", "_", last, flags=re.ASCII).lstrip(".")
    if not cleaned or len(cleaned) > 200:
        raise InputError("The file's name is empty or longer than 200 letters; rename it.")
    return cleaned


def _free(target: Path) -> Path:
    number = 2
    candidate = target
    while candidate.exists():
        candidate = target.with_stem(f"{target.stem}_{number}")
        number += 1
    return candidate
