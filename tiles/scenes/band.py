"""One band of a raster file, and the pixels that reading bands gives."""

from dataclasses import dataclass

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
        nodata: Digital number that means "no measurement" in this band alone, or None.
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

    @property
    def unmeasured(self) -> float | None:
        """The number that resampling leaves out: nodata where it can occur, NaN among floats without one."""
        dtype = np.dtype(self.dtype)
        if self.nodata is None:
            return float("nan") if dtype.kind == "f" else None
        if dtype.kind == "f":
            return self.nodata
        limits = np.iinfo(dtype)
        return self.nodata if float(self.nodata).is_integer() and limits.min <= self.nodata <= limits.max else None


@dataclass(frozen=True)
class Pixels:
    """A window of a scene.

    Attributes:
        values: ``[C, H, W]``; float32 in [0, 1], 0 where invalid, or native digital numbers when read as such.
        valid: bool ``[H, W]``; True where every band has a measurement (in 8-bit pictures: any band of the scene).
    """

    values: np.ndarray
    valid: np.ndarray


def to_unit(
    values: np.ndarray, valid: np.ndarray, scale: np.ndarray, offset: np.ndarray, out: np.ndarray | None = None
) -> np.ndarray:
    """Digital numbers ``[C, H, W]`` into float32 in [0, 1], 0 where ``valid`` ``[H, W]`` is False.

    Args:
        values: Digital numbers.
        valid: Where they were measured.
        scale: See `Band`; float32 ``[C]``.
        offset: See `Band`; float32 ``[C]``.
        out: Array to fill, float32 ``[C, H, W]``; None makes one.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # nodata may be the largest float there is
        unit = np.multiply(values, scale[:, None, None], out=out, dtype=np.float32, casting="unsafe")
        if offset.any():
            unit += offset[:, None, None]
    np.clip(unit, 0, 1, out=unit)
    if not valid.all():
        unit *= valid  # keeps 0 where invalid …
        np.nan_to_num(unit, copy=False, nan=0.0)  # … also where the digital number was NaN
    return unit
