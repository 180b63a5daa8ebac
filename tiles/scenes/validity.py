"""Which pixels were measured: the one place that decides, from digital numbers, alpha, masks and fill.

Whoever reads a raster hands its arrays to these functions; nothing here opens a file.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

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
    """Whether bands of these types, read from one file, are an 8-bit picture.

    A picture clips dark water to the nodata value band by band: two thirds of a Landsat scene of San Francisco Bay have
    a 0 in some band, a tenth has it in all. There only a pixel without any band is nodata, elsewhere one that lacks a
    band.
    """
    return all(dtype == "uint8" for dtype in dtypes)


def measured(missing: np.ndarray, *, picture: bool) -> np.ndarray:
    """True where a pixel counts, given which bands are ``missing`` there; bool ``[C, H, W]`` to ``[H, W]``."""
    return ~np.asarray(missing.all(axis=0) if picture else missing.any(axis=0))


@dataclass(frozen=True)
class Nodata:
    """Which digital numbers of the bands of one file mean "no measurement".

    Attributes:
        values: One number a band, or None.
        picture: See `is_picture`.
    """

    values: tuple[float | None, ...]
    picture: bool

    @classmethod
    def of(cls, bands: Sequence[Band]) -> Self:
        """What the bands state."""
        return cls(tuple(band.nodata for band in bands), is_picture(band.dtype for band in bands))

    def valid(self, values: np.ndarray) -> np.ndarray:
        """True where digital numbers ``[C, H, W]`` were measured; bool ``[H, W]``. NaN and infinity never are."""
        if self.picture:
            stated = [value for value in self.values if value is not None and fits(value, values.dtype)]
            if len(stated) < len(values):
                return np.ones(values.shape[1:], bool)
            return (values != np.array(stated, values.dtype)[:, None, None]).any(axis=0)
        valid = np.ones(values.shape[1:], bool)
        for plane, nodata in zip(values, self.values, strict=True):
            if plane.dtype.kind == "f":
                valid &= np.isfinite(plane)
            if nodata is not None and nodata == nodata and fits(nodata, plane.dtype):
                valid &= plane != plane.dtype.type(nodata)
        return valid


def fits(value: float, dtype: np.dtype) -> bool:
    """Whether a value can occur among digital numbers of a type; one that cannot means nothing."""
    if dtype.kind == "f":
        return True
    limits = np.iinfo(dtype)
    return float(value).is_integer() and limits.min <= value <= limits.max


@dataclass(frozen=True)
class Fill:
    """A digital number that stands for "no measurement" where the witness and all bands read have it.

    Attributes:
        value: The number.
        witness: The band that has it least often elsewhere.
    """

    value: float
    witness: Band

    def covers(self, witness: np.ndarray, values: np.ndarray, *, resampled: bool) -> np.ndarray:
        """True where undeclared fill lies; bool ``[H, W]``.

        Args:
            witness: Digital numbers of the witness, ``[H, W]``.
            values: Digital numbers of the bands read, ``[C, H, W]``.
            resampled: The bands are not on their own grid.
        """
        covered: np.ndarray = witness == self.value
        if not covered.any():
            return covered
        if resampled:
            from scipy.ndimage import binary_dilation  # a third of a second that most scenes need not spend

            # Resampling mixes fill into the pixels beside it.
            return binary_dilation(covered, np.ones((3, 3), bool))
        for plane in values:
            covered &= plane == self.value
        return covered
