"""What a raster file says about itself, and GDAL's errors as sentences that name the file."""

import html
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from odc.geo.geobox import GeoBox
from rasterio._err import CPLE_BaseError
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import DatasetReader

from tiles.errors import InputError
from tiles.grids import ground_sample_distance_m
from tiles.scenes.validity import OwnMask, opaque

# What has no place is said by `placed`, once and with the way out.
warnings.filterwarnings("ignore", category=NotGeoreferencedWarning)

# A header may claim any size; a raster of more pixels than this is taken for a lie (the Earth at 0.2 m has 1.3e16).
_MOST_PIXELS = 10**14
# What GDAL calls the parts of a file: ``netcdf:FILE:NAME``, ``HDF5:"FILE"://NAME``, ``GPKG:FILE:NAME``.
_DRIVER = re.compile(r"[A-Za-z][A-Za-z0-9_]+:")
_PART = re.compile(r'(?:[A-Za-z][A-Za-z0-9_]+:)+(?!//)((?:\d+:)?)"?([^":]+)"?((?::.*)?)')
_WORD = re.compile(r"[^A-Za-z0-9]+")
# Without a reference system, smaller pixels are degrees rather than metres.
_LEAST_SIDE = 0.005


@dataclass(frozen=True)
class Raster:
    """A raster's header.

    Attributes:
        path: What GDAL opened.
        count: Number of bands, alpha included.
        dtypes: NumPy type name of each band.
        nodata: Digital number of each band that means "no measurement".
        colours: Colour interpretation of each band.
        descriptions: Description of each band.
        scales: Per band, as the file states them.
        offsets: Per band, as the file states them.
        tags: Metadata of the file.
        geobox: Pixel grid; without a CRS where the file has none.
        gcps: True where only ground control points place the raster.
        block_shape: Rows and columns that are decoded at once.
        overviews: Reduction factors of the first band's overviews.
        own_masks: What the file itself says of all its pixels: its alpha bands and its mask.
        parts: Names of the further rasters that the file holds, as GDAL opens them (``GTIFF_DIR:2:…``).
    """

    path: str
    count: int
    dtypes: tuple[str, ...]
    nodata: tuple[float | None, ...]
    colours: tuple[ColorInterp, ...]
    descriptions: tuple[str | None, ...]
    scales: tuple[float, ...]
    offsets: tuple[float, ...]
    tags: dict[str, str]
    geobox: GeoBox
    gcps: bool
    block_shape: tuple[int, int]
    overviews: tuple[int, ...]
    own_masks: tuple[OwnMask, ...] = ()
    parts: tuple[str, ...] = ()

    @property
    def data_bands(self) -> tuple[int, ...]:
        """Numbers (from 1) of the bands that are no alpha."""
        return tuple(i for i, colour in enumerate(self.colours, 1) if colour != ColorInterp.alpha)

    @property
    def stem(self) -> str:
        """The file's name without folder and suffix; of a part of a file both names."""
        part = _PART.fullmatch(self.path)
        if part is None:
            return Path(self.path.split("?")[0]).stem
        page, file, inner = part.groups()
        return "_".join(text for text in (Path(file).stem, _WORD.sub("_", f"{page}{inner}").strip("_")) if text)


@contextmanager
def reading(path: str) -> Iterator[None]:
    """Turn what GDAL and rasterio raise about ``path`` into an `InputError` that names it."""
    try:
        yield
    except (RasterioError, CPLE_BaseError) as error:
        raise InputError(
            f"{path} cannot be read as a raster ({_short(error)}); is it complete and of a kind GDAL opens?"
        ) from error
    except (ValueError, IndexError, OverflowError, MemoryError, UnicodeDecodeError) as error:
        # Lying headers surface as these: an impossible size, a band type NumPy does not know, text that is no text.
        raise InputError(f"{path} is damaged: {_short(error) or type(error).__name__}.") from error


def _short(error: BaseException) -> str:
    text = " ".join(str(error.__cause__ or error).split())
    return text if len(text) <= 160 else text[:157] + "..."


def open_raster(path: str) -> DatasetReader:
    """Open one file for one thread.

    Raises:
        InputError: Where the file is missing, no raster, or empty; the sentence names it.
    """
    local = "://" not in path and not path.startswith(("/vsi", "<")) and not _DRIVER.match(path)
    if local and not os.path.exists(path):
        raise InputError(f"{path} does not exist.")
    with reading(path):
        return rasterio.open(path, sharing=False)


def files_of(path: str) -> list[str]:
    """The files that decide about the pixels read from ``path``: itself, its sidecars, and a VRT's sources with theirs.

    Overviews are left out. Of what lies on the network only the address is known.

    Raises:
        InputError: Where a local file cannot be opened.
    """
    found: dict[str, None] = {}
    waiting = [path]
    while waiting:
        file = waiting.pop()
        if file in found:
            continue
        found[file] = None
        part = _PART.fullmatch(file)
        if part is not None and not os.path.exists(file):
            waiting.append(part[2])
        if "://" in file or file.startswith("/vsi"):
            continue
        if file == path or file.lower().endswith(".vrt"):
            with open_raster(file) as opened, reading(file):
                waiting += opened.files
        if file.lower().endswith(".vrt"):
            # GDAL leaves out of a VRT's files those of which it reads a part.
            waiting += [os.path.join(os.path.dirname(file), part[2]) for part in _parts_in(file)]
        waiting += [side for side in (f"{file}.msk", f"{file}.aux.xml") if os.path.isfile(side)]
    return [file for file in found if not file.lower().endswith(".ovr")]


def _parts_in(vrt: str) -> list[re.Match[str]]:
    """Parts of files that a VRT reads, as ``netcdf:FILE:NAME``."""
    with open(vrt, encoding="utf-8", errors="replace") as text:
        named = re.findall(r"<SourceFilename[^>]*>([^<]+)<", text.read())
    return [part for name in named if (part := _PART.fullmatch(html.unescape(name)))]


def inspect(path: str) -> Raster:
    """Read the header of one file.

    Raises:
        InputError: Where it cannot be opened, holds no band, or states an impossible size or type.
    """
    with open_raster(path) as source, reading(path):
        if not source.count:
            parts = ", ".join(source.subdatasets[:3])
            raise InputError(
                f"{path} holds no raster band{f' of its own; name one of its parts: {parts}' if parts else ''}."
            )
        if source.height * source.width > _MOST_PIXELS:
            raise InputError(
                f"{path} claims {source.width} × {source.height} pixels, which no raster has; it is damaged."
            )
        if any(dtype.startswith("complex") for dtype in source.dtypes):
            raise InputError(f"{path} holds complex numbers; write amplitude or intensity to a real band first.")
        # A damaged header may carry bytes that are no text; the tags are only hints.
        try:
            tags = {**source.tags(), **source.tags(ns="IMD")}
        except UnicodeDecodeError:
            tags = {}
        gcps = source.crs is None and bool(source.gcps[0])
        geobox = GeoBox(source.shape, source.transform, _crs(source))
        return Raster(
            path=path,
            count=source.count,
            dtypes=tuple(source.dtypes),
            nodata=tuple(source.nodatavals),
            colours=tuple(source.colorinterp),
            descriptions=tuple(source.descriptions),
            scales=tuple(source.scales),
            offsets=tuple(source.offsets),
            tags=tags,
            geobox=geobox,
            gcps=gcps,
            block_shape=tuple(source.block_shapes[0]),
            overviews=tuple(source.overviews(1)),
            own_masks=own_masks(path, source),
            parts=tuple(source.subdatasets),
        )


def own_masks(path: str, source: DatasetReader) -> tuple[OwnMask, ...]:
    """The alpha bands of an open file, whatever their type and beside a nodata value too, and its mask.

    GDAL's own mask leaves alpha out where a nodata value is stated, and where alpha has not 8 or 16 bits.
    """
    with reading(path):
        colours, flags = source.colorinterp, source.mask_flag_enums[0]
    found = [OwnMask(path, index) for index, colour in enumerate(colours, 1) if colour == ColorInterp.alpha]
    if MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags:
        found.append(OwnMask(path, 0))
    return tuple(found)


def read_shown(path: str, source: DatasetReader, index: int, **how: Any) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of a band, and True where no other alpha band or mask of the file hides them, nodata or not.

    Args:
        path: The file, for errors.
        source: The file, opened.
        index: Number of the band.
        how: Window, or shape and resampling, as rasterio's ``read`` takes them.
    """
    with reading(path):
        values = source.read(index, **how)
        covered = np.ones(values.shape, bool)
        for mask in own_masks(path, source):
            if mask.index != index:
                covered &= opaque(source.read(mask.index, **how) if mask.index else source.read_masks(1, **how))
    return values, covered


def placed(raster: Raster, gsd_m: float | None, notes: list[str]) -> GeoBox:
    """The grid of a raster; one without a CRS keeps its transform, else it needs a pixel size.

    Raises:
        InputError: Where nothing places the raster on the ground.
    """
    if abs(raster.geobox.affine.determinant) == 0:
        raise InputError(f"{raster.path} has pixels without area; its georeference is damaged.")
    if raster.geobox.crs is not None:
        return raster.geobox
    side = ground_sample_distance_m(raster.geobox)
    if not raster.gcps and raster.geobox.affine != Affine.identity():
        if gsd_m is None and side < _LEAST_SIDE:
            raise InputError(
                f"{raster.path} has no coordinate reference system, and pixels of {side:g} units, which are no metres; "
                "give their size in metres with --gsd."
            )
        notes.append(
            f"no coordinate reference system: its transform is kept, pixels taken as squares of {gsd_m or side:g} m"
        )
        return raster.geobox
    if gsd_m is not None:
        notes.append(f"no coordinate reference system: pixels taken as squares of {gsd_m:g} m")
        return GeoBox(raster.geobox.shape, Affine.scale(gsd_m, -gsd_m), None)
    if raster.gcps:
        raise InputError(
            f"{raster.path} is placed by ground control points only; warp it first (`gdalwarp {raster.path} OUT.tif`) "
            "or give its pixel size with --gsd."
        )
    raise InputError(f"{raster.path} has no coordinate reference system; give its pixel size in metres with --gsd.")


def _crs(source: DatasetReader) -> str | None:
    if source.crs is None:
        return None
    code = source.crs.to_epsg(confidence_threshold=100)
    return f"EPSG:{code}" if code else source.crs.to_wkt()
