"""One band of a raster file, the masks beside it, and the pixels that reading them gives."""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np


@dataclass(frozen=True)
class Band:
    """One band of one file, with the linear map that takes its digital numbers into [0, 1].

    Attributes:
        name: Common name (``coastal``, ``blue``, ``green``, ``red``, ``rededge071``, ``nir``, ``swir16``, …), else
            the source's own name in lower case.
        path: What GDAL opens.
        index: Number of the band in the file, from 1.
        dtype: NumPy name of the digital numbers' type.
        nodata: Digital number that means "no measurement", or None.
        scale: Unit value = ``clip(dn * scale + offset, 0, 1)``.
        offset: See ``scale``.
    """

    name: str
    path: str
    index: int
    dtype: str
    nodata: float | None
    scale: float
    offset: float


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
class Pixels:
    """A window of a scene.

    Attributes:
        values: ``[C, H, W]``; float32 in [0, 1], 0 where invalid, or native digital numbers when read as such.
        valid: bool ``[H, W]``; True where every band has a measurement (in 8-bit pictures: any band).
    """

    values: np.ndarray
    valid: np.ndarray


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
    return mask != 0


def cloudy(mask: np.ndarray, kind: MaskKind) -> np.ndarray:
    """True where a mask's raw values ``[H, W]`` say cloud, cirrus or cloud shadow; bool ``[H, W]``."""
    if kind is MaskKind.scl:
        return np.isin(mask, _SCL_CLOUD)
    if kind is MaskKind.qa_pixel:
        return (mask.astype(np.int64) & _QA_CLOUD) != 0
    return np.zeros(mask.shape, dtype=bool)


def to_unit(values: np.ndarray, valid: np.ndarray, bands: tuple[Band, ...]) -> np.ndarray:
    """Digital numbers ``[C, H, W]`` into float32 in [0, 1], 0 where ``valid`` ``[H, W]`` is False."""
    unit = values.astype(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):  # nodata may be the largest float there is
        for plane, band in zip(unit, bands, strict=True):
            plane *= np.float32(band.scale)
            if band.offset:
                plane += np.float32(band.offset)
    np.clip(unit, 0, 1, out=unit)
    if not valid.all():
        unit *= valid  # keeps 0 where invalid …
        np.nan_to_num(unit, copy=False, nan=0.0)  # … also where the digital number was NaN
    return unit
