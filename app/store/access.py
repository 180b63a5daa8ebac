"""Which files the web map may read: those inside the allowed folders, after links are followed, and nothing else.

Whatever an analyst types goes through `Access.resolve`. GDAL would open far more than files (URLs, archives, its
own ``/vsi`` file systems, connection strings, XML that names other files), so only plain paths with known endings
pass. What names other files, a VRT (under any ending: GDAL looks at the content) or a STAC item, passes only when
all that it names lies inside the folders too, or for an item on the web.
"""

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from xml.etree import ElementTree

from tiles.errors import InputError

RASTERS = (".tif", ".tiff", ".vrt", ".jp2", ".img", ".png", ".jpg", ".jpeg")
ITEMS = (".json",)  # STAC items
SCENES = RASTERS + ITEMS
LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")
VECTORS = (".geojson", ".json", ".gpkg", ".shp", ".fgb", ".parquet")
_LARGEST_LIST = 20_000_000  # bytes; a VRT of a few 10,000 files has less
_REMOTE = (".tif", ".tiff", ".jp2")  # of a STAC item's assets on the web; a VRT there could name files here


@dataclass(frozen=True)
class Access:
    """The allowed folders.

    Attributes:
        roots: Real paths of the folders whose files may be read.
    """

    roots: tuple[Path, ...]

    @classmethod
    def to(cls, *folders: Path) -> "Access":
        """Access to some folders and what lies under them."""
        return cls(tuple(dict.fromkeys(Path(os.path.realpath(folder)) for folder in folders)))

    def resolve(self, typed: str, endings: tuple[str, ...] = RASTERS) -> Path:
        """The file or folder that an analyst named, if it may be read.

        Args:
            typed: A path: absolute, or relative to one of the folders.
            endings: File name endings that are accepted; folders are judged by what is in them.

        Raises:
            InputError: Where it is no plain path, lies outside, does not exist, or is of another kind.
        """
        text = typed.strip()
        if not text:
            raise InputError("Type the path of a raster or of a folder of single-band files.")
        if "\x00" in text or "://" in text or text.startswith("<") or _names_a_driver(text):
            raise InputError(f"{_quoted(text)} is no plain path; give a file inside the allowed folders.")
        if _virtual(text):
            raise InputError(
                f"{_quoted(text)} names one of GDAL's virtual file systems; give a file inside the allowed folders."
            )
        real = self._inside(text)
        if real is None:
            raise InputError(
                f"{_quoted(text)} lies outside the allowed folders ({self.listed()}); start with --allow FOLDER."
            )
        if not real.exists():
            raise InputError(f"{_quoted(text)} does not exist.")
        self._judge(real, endings)
        return real

    def listed(self) -> str:
        """The folders, for people."""
        return ", ".join(str(root) for root in self.roots)

    def contains(self, path: Path) -> bool:
        """Whether a path, links followed, lies inside the folders."""
        real = Path(os.path.realpath(path))
        return any(real == root or root in real.parents for root in self.roots)

    def _inside(self, text: str) -> Path | None:
        path = Path(text).expanduser()
        candidates = [path] if path.is_absolute() else [root / path for root in self.roots]
        inside = [Path(os.path.realpath(one)) for one in candidates if self.contains(one)]
        return next((one for one in inside if one.exists()), inside[0] if inside else None)

    def _judge(self, real: Path, endings: tuple[str, ...]) -> None:
        if real.is_dir():
            for child in real.iterdir():
                if child.is_symlink() and not self.contains(child):
                    raise InputError(f"{real} holds a link, {child.name}, that leaves the allowed folders.")
                if child.is_file():
                    self._judge_content(child)
            return
        if not real.is_file():
            raise InputError(f"{real} is neither a file nor a folder.")
        if not real.name.lower().endswith(endings):
            raise InputError(f"{real.name} is of a kind that is not opened here; these are: {', '.join(endings)}.")
        if endings is SCENES and real.suffix.lower() in ITEMS:
            self._judge_item(real)
        else:
            self._judge_content(real)

    def _judge_content(self, real: Path) -> None:
        """A raster's content decides what GDAL takes it for: XML and JSON may name other files."""
        if not real.name.lower().endswith(RASTERS):
            return
        with real.open("rb") as opened:
            head = opened.read(256).lstrip(b"\xef\xbb\xbf \t\r\n")
        if real.suffix.lower() == ".vrt" or head.startswith(b"<"):
            self._judge_vrt(real)
        elif head.startswith(b"{"):
            raise InputError(f"{real.name} is no raster but a text that names others; it is not opened here.")

    def _judge_item(self, item: Path) -> None:
        """A STAC item's assets: rasters on the web, or plain files inside the folders."""
        if item.stat().st_size > _LARGEST_LIST:
            raise InputError(f"{item.name} is too large for a STAC item.")
        try:
            record = json.loads(item.read_text(errors="replace"))
            hrefs = [str(asset["href"]) for asset in record["assets"].values() if not _beside_the_data(asset)]
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise InputError(f"{item.name} is no STAC item.") from error
        for href in hrefs:
            if not is_remote_raster(href) and not self._plain_inside(item.parent, href):
                raise InputError(f"{item.name} names {_quoted(href)}, which is no raster that may be read.")

    def _plain_inside(self, folder: Path, named: str) -> bool:
        odd = "://" in named or _virtual(named) or _names_a_driver(named) or named.lower().endswith(".vrt")
        return not odd and self.contains(folder / named)

    def _judge_vrt(self, vrt: Path) -> None:
        """A VRT may name any file or URL: all of them must be plain paths inside the folders, and no code."""
        if vrt.stat().st_size > _LARGEST_LIST:
            raise InputError(f"{vrt.name} is too large for a VRT.")
        text = vrt.read_text(errors="replace")
        if "<!DOCTYPE" in text or "<!ENTITY" in text:
            raise InputError(f"{vrt.name} is no VRT that is opened here: it defines entities.")
        try:
            root = ElementTree.fromstring(text)
        except ElementTree.ParseError as error:
            raise InputError(f"{vrt.name} is no valid VRT ({error}).") from error
        for element in root.iter():
            if element.tag == "PixelFunctionCode":
                raise InputError(f"{vrt.name} carries program code, which is not run here.")
            if element.tag in {"SourceFilename", "SourceDataset", "SourceDatasetName"}:
                named = (element.text or "").strip()
                if not self._plain_inside(vrt.parent, named):
                    raise InputError(
                        f"{vrt.name} names {_quoted(named)}, which is not a plain raster inside the allowed folders."
                    )


def _beside_the_data(asset: dict[str, Any]) -> bool:
    """Whether an asset is a thumbnail or a record, which is never opened as a raster."""
    kind, roles = str(asset.get("type", "")), set(asset.get("roles", ()))
    return bool(roles & {"thumbnail", "overview", "metadata"}) and "data" not in roles and "tiff" not in kind


def is_remote_raster(href: str) -> bool:
    """Whether an address is that of a raster on the web, asked for in a way that nobody listens to."""
    parts = urlsplit(href)
    safe = parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOCAL_HOSTS)
    return safe and parts.path.lower().endswith(_REMOTE)


def _virtual(text: str) -> bool:
    return re.search(r"(^|/)vsi[a-z0-9_]*(/|$)", os.path.normpath(text)) is not None or text.lstrip("/").startswith(
        "vsi"
    )


def _names_a_driver(text: str) -> bool:
    """Connection strings such as ``GTIFF_RAW:x`` or ``NETCDF:"x":v``; a Windows drive is one letter."""
    return re.match(r"[A-Za-z][A-Za-z0-9_]+:", text) is not None


def _quoted(text: str) -> str:
    return repr(text if len(text) <= 200 else text[:197] + "...")
