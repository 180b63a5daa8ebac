"""Folders of single-band files: which files are bands, which are masks, which are neither."""

import re
from dataclasses import dataclass
from pathlib import Path

from tiles.errors import InputError
from tiles.scenes.raster import Raster, inspect
from tiles.scenes.sensor import band_id, common_name
from tiles.scenes.validity import Mask, MaskKind

RASTER_SUFFIXES = (".tif", ".tiff", ".jp2", ".vrt", ".img", ".cog", ".png", ".jpg", ".jpeg")
_SCL = re.compile(r"(?:^|[_\-.])SCL(?:[_\-.]|$)", re.IGNORECASE)
_QA_PIXEL = re.compile(r"QA_PIXEL", re.IGNORECASE)
# What lies beside the bands of Sentinel-2 and Landsat products and is no spectral band.
_BESIDE = re.compile(
    r"mask|label|MSK_|(?:^|[_\-.])(?:AOT|WVP|TCI|PVI|QA|QA_[A-Z]+|SAA|SZA|VAA|VZA|ANG|ST|DEM|thumbnail|preview|quicklook)"
    r"(?:[_\-.]|$)",
    re.IGNORECASE,
)
_RESOLUTION = re.compile(r"_(\d{2})m$", re.IGNORECASE)


@dataclass(frozen=True)
class Stack:
    """The files of a folder that make one scene."""

    rasters: tuple[Raster, ...]
    masks: tuple[Mask, ...]
    notes: tuple[str, ...]


def list_stack(path: str) -> Stack:
    """Find the single-band files of a folder, its band order being that of the file names.

    Raises:
        InputError: Where the folder holds no raster, or rasters that are no stack of single bands.
    """
    top = Path(path)
    # A SAFE folder keeps its bands three levels down, the same band at several resolutions.
    inner = sorted(top.glob("GRANULE/*/IMG_DATA")) or sorted(top.glob("*.SAFE/GRANULE/*/IMG_DATA"))
    files = sorted(f for f in (inner[0].rglob("*") if inner else top.iterdir()) if f.is_file())
    files = [f for f in files if f.suffix.lower() in RASTER_SUFFIXES]
    if not files:
        raise InputError(f"{path} is a folder without rasters ({', '.join(RASTER_SUFFIXES)}).")
    masks: dict[MaskKind, Mask] = {}
    candidates: list[Path] = []
    aside: list[str] = []
    for file in files:
        kind = MaskKind.scl if _SCL.search(file.stem) else MaskKind.qa_pixel if _QA_PIXEL.search(file.stem) else None
        if kind is not None:
            masks.setdefault(kind, Mask(str(file), 1, kind))
        elif _BESIDE.search(file.stem) and not band_id(file.stem):
            aside.append(file.name)
        else:
            candidates.append(file)
    recognised = [f for f in candidates if band_id(f.stem) or common_name(_RESOLUTION.sub("", f.stem))]
    if recognised:
        aside += [f.name for f in candidates if f not in recognised]
        candidates = _finest(recognised)
    notes = [f"left aside: {', '.join(aside)}"] if aside else []
    notes += [f"{kind.value} mask: {Path(mask.path).name}" for kind, mask in masks.items()]
    if not candidates:
        raise InputError(f"{path} holds no band, only {', '.join(aside)}.")
    rasters = [inspect(str(f)) for f in candidates]
    several = [raster for raster in rasters if len(raster.data_bands) > 1]
    if several:
        raise InputError(
            f"{path} holds rasters of several bands ({Path(several[0].path).name} has {several[0].count}), so it is no "
            "stack of single bands; give the files themselves."
        )
    crs = {str(raster.geobox.crs) for raster in rasters}
    if len(crs) > 1:
        raise InputError(
            f"{path} holds bands in several reference systems ({', '.join(sorted(crs))}); give one scene a folder."
        )
    if not recognised and len({tuple(raster.geobox.shape) for raster in rasters}) > 1:
        raise InputError(f"{path} holds rasters of several sizes whose names name no band; give the files themselves.")
    return Stack(tuple(rasters), tuple(masks.values()), tuple(notes))


def _finest(files: list[Path]) -> list[Path]:
    """Keep the finest file of each band (``_B02_10m`` over ``_B02_20m``)."""
    best: dict[str, tuple[int, Path]] = {}
    for file in files:
        found = _RESOLUTION.search(file.stem)
        metres = int(found.group(1)) if found else 0
        stem = _RESOLUTION.sub("", file.stem)
        if stem not in best or metres < best[stem][0]:
            best[stem] = (metres, file)
    return sorted(file for _, file in best.values())
