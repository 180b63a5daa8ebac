"""Which pixels were measured: the one place that decides, from digital numbers, alpha, masks and fill.

Whoever reads a raster hands its arrays to these functions; nothing here opens a file.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np

from tiles.scenes.band import Band


class MaskKind(StrEnum):
    """How the values of a mask file are to be read."""

    scl = "scl"  # Sentinel-2 scene classification
    qa_pixel = "qa_pixel"  # Landsat Collection 2 bit field
    explicit = "explicit"  # 0 invalid, anything else valid, as in GDAL's mask bands


@dataclass(frozen=True)
class Mask:
    """A file beside the bands that says which pixels are usable."""

    path: str
    index: int
    kind: MaskKind


@dataclass(frozen=True)
class OwnMask:
    """What a raster file says of all its pixels beside their nodata values: an alpha band, or GDAL's mask.

    Attributes:
        path: The file.
        index: Number of the alpha band, or 0 for the file's mask, inside it or beside it as ``.msk``.
    """

    path: str
    index: int


_PICTURE_BANDS = 2  # a lone band has nothing to be nodata together with

# Sentinel-2 L2A scene classification: 0 no data, 1 saturated or defective, 3 cloud shadow, 8 and 9 cloud, 10 cirrus
# (Sen2Cor configuration and user manual, ref. S2-PDGS-MPC-L2A-SUM, table of SCL labels).
_SCL_UNUSABLE = (0, 1, 3, 8, 9, 10)
_SCL_CLOUD = (3, 8, 9, 10)

# Landsat Collection 2 QA_PIXEL bits: 0 fill, 1 dilated cloud, 2 cirrus, 3 cloud, 4 cloud shadow
# (Landsat 8-9 Collection 2 Level 2 Science Product Guide, LSDS-1619, table 6-3).
_QA_FILL = 0b00001
_QA_CLOUD = 0b11110


def usable(mask: np.ndarray, kind: MaskKind) -> np.ndarray:
    """True where a mask's raw values ``[H, W]`` say that the surface was measured; bool ``[H, W]``."""
    if kind is MaskKind.scl:
        return ~np.isin(mask, _SCL_UNUSABLE)
    if kind is MaskKind.qa_pixel:
        return (mask.astype(np.int64) & (_QA_FILL | _QA_CLOUD)) == 0
    return opaque(mask)


def cloudy(mask: np.ndarray, kind: MaskKind) -> np.ndarray:
    """True where a mask's raw values ``[H, W]`` say cloud, cirrus or cloud shadow; bool ``[H, W]``."""
    if kind is MaskKind.scl:
        return np.isin(mask, _SCL_CLOUD)
    if kind is MaskKind.qa_pixel:
        return (mask.astype(np.int64) & _QA_CLOUD) != 0
    return np.zeros(mask.shape, dtype=bool)


def opaque(alpha: np.ndarray) -> np.ndarray:
    """True where alpha, or a mask as GDAL writes it, is not 0; bool of the same shape."""
    return alpha != 0


def is_picture(dtypes: Iterable[str]) -> bool:
    """Whether the bands of a scene are an 8-bit picture, given the types of all of them.

    A picture clips dark water to the nodata value band by band: two thirds of a Landsat scene of San Francisco Bay have
    a 0 in some band, a tenth has it in all. There only a pixel without any band is nodata, elsewhere one that lacks a
    band.
    """
    return all(dtype == "uint8" for dtype in dtypes)


def measured(values: np.ndarray, nodata: Sequence[float | None]) -> np.ndarray:
    """True where every band has a measurement; bool ``[H, W]``. NaN and infinity never are one.

    Args:
        values: Digital numbers ``[C, H, W]``.
        nodata: One number a band, or None.
    """
    valid = np.ones(values.shape[1:], bool)
    for plane, number in zip(values, nodata, strict=True):
        if plane.dtype.kind == "f":
            valid &= np.isfinite(plane)
        if number is not None and number == number and fits(number, plane.dtype):
            valid &= plane != plane.dtype.type(number)
    return valid


def fits(value: float, dtype: np.dtype) -> bool:
    """Whether a value can occur among digital numbers of a type; one that cannot means nothing."""
    if dtype.kind == "f":
        return True
    limits = np.iinfo(dtype)
    return float(value).is_integer() and limits.min <= value <= limits.max


@dataclass(frozen=True)
class Blank:
    """Bands that are nodata only together: a pixel was not measured where each of them has its number.

    They are bands of the whole scene, on one grid, whichever of its bands are read: choosing bands does not change what
    is valid.

    Attributes:
        bands: The bands.
        values: The number of each.
    """

    bands: tuple[Band, ...]
    values: tuple[float, ...]


def settle_picture(
    bands: Sequence[Band], on_grid: Sequence[bool], notes: list[str]
) -> tuple[tuple[Band, ...], Blank | None]:
    """Decide how the nodata of a scene's bands counts: band by band, or in an 8-bit picture only together.

    Args:
        bands: All bands of the scene.
        on_grid: Which of them lie on the scene's own grid; they are asked.
        notes: What was decided is said here.

    Returns:
        The bands, those of a picture without nodata values of their own, and what is nodata together in them.
    """
    if not is_picture(band.dtype for band in bands) or len(bands) < _PICTURE_BANDS:
        return tuple(bands), None
    plain = tuple(replace(band, nodata=None) for band in bands)
    asked = [band for band, on in zip(bands, on_grid, strict=True) if on]
    stated = [band.nodata for band in asked if band.nodata is not None and fits(band.nodata, np.dtype(band.dtype))]
    if len(stated) == len(asked):
        return plain, Blank(tuple(replace(band, nodata=None) for band in asked), tuple(map(float, stated)))
    if stated:
        notes.append("only some bands of this 8-bit picture have a nodata value: every pixel counts")
    return plain, None
