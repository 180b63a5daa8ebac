"""Which files the web map may read: those inside the allowed folders, after links are followed, and nothing else.

Whatever an analyst types goes through `Access.resolve`. GDAL would open far more than files (URLs, archives, its
own ``/vsi`` file systems, connection strings, XML that names other files), so only plain paths with known endings
pass, and a VRT passes only when everything that it names lies inside the folders too.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from tiles.errors import InputError

RASTERS = (".tif", ".tiff", ".vrt", ".jp2", ".img", ".png", ".jpg", ".jpeg")
VECTORS = (".geojson", ".json", ".gpkg", ".shp", ".fgb", ".parquet")
_LARGEST_VRT = 20_000_000  # bytes; a VRT of a few 10,000 files has less


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
                if child.suffix.lower() == ".vrt":
                    self._judge_vrt(child)
            return
        if not real.is_file():
            raise InputError(f"{real} is neither a file nor a folder.")
        if not real.name.lower().endswith(endings):
            raise InputError(f"{real.name} is of a kind that is not opened here; these are: {', '.join(endings)}.")
        if real.suffix.lower() == ".vrt":
            self._judge_vrt(real)

    def _judge_vrt(self, vrt: Path) -> None:
        """A VRT may name any file or URL: all of them must be plain paths inside the folders, and no code."""
        if vrt.stat().st_size > _LARGEST_VRT:
            raise InputError(f"{vrt.name} is too large for a VRT.")
        text = vrt.read_text(errors="replace")
        if "<!DOCTYPE" in text or "<!ENTITY" in text:
            raise InputError(f"{vrt.name} is no VRT that is opened here: it defines entities.")
        try:
            root = ElementTree.fromstring(text)
        except ElementTree.ParseError as error:
            raise InputError(f"{vrt.name} is no valid VRT ({error}).") from error
        for element in root.iter():
            if (
                element.tag in {"PixelFunctionCode", "PixelFunctionType", "GDALWarpOptions"}
                and element.tag == "PixelFunctionCode"
            ):
                raise InputError(f"{vrt.name} carries program code, which is not run here.")
            if element.tag in {"SourceFilename", "SourceDataset", "SourceDatasetName"}:
                named = (element.text or "").strip()
                relative = element.get("relativeToVRT") == "1" or not Path(named).is_absolute()
                target = vrt.parent / named if relative else Path(named)
                nested = target.suffix.lower() == ".vrt"
                if "://" in named or _virtual(named) or _names_a_driver(named) or nested or not self.contains(target):
                    raise InputError(
                        f"{vrt.name} names {_quoted(named)}, which is not a plain raster inside the allowed folders."
                    )


def _virtual(text: str) -> bool:
    return re.search(r"(^|/)vsi[a-z0-9_]*(/|$)", os.path.normpath(text)) is not None or text.lstrip("/").startswith(
        "vsi"
    )


def _names_a_driver(text: str) -> bool:
    """Connection strings such as ``GTIFF_RAW:x`` or ``NETCDF:"x":v``; a Windows drive is one letter."""
    return re.match(r"[A-Za-z][A-Za-z0-9_]+:", text) is not None


def _quoted(text: str) -> str:
    return repr(text if len(text) <= 200 else text[:197] + "...")
