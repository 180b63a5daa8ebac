"""Feature values in one byte each: the signed square root code of AlphaEarth's embedding rasters.

A component ``v`` in [-1, 1] of a unit vector is kept as ``q = round(127.5 * sign(v) * sqrt(|v|))``, an integer from
-127 to 127, and read back as ``sign(q) * (q / 127.5)²``; -128 means nodata. This is the code of AlphaEarth's Satellite
Embedding rasters (the notes on its Cloud Storage copy give the formula), so their readers read these files.

The square root spends the codes where components of unit vectors are: near zero. Rounding moves ``127.5 sqrt(|v|)`` by
at most one half, hence

    |v - v'| <= (sqrt(|v|) + 1 / 510) / 127.5,

and for a unit vector of ``D`` components the error vector is no longer than ``D**0.25 / 127.5 + sqrt(D) / 65025``:
below 0.036 for 384 components, an angle of two degrees in the worst case.
"""

import numpy as np
import numpy.typing as npt

CODE_NODATA = -128
CODE_FORMULA = "value = sign(q) * (q / 127.5)**2; nodata -128"


def encode_int8(features: npt.NDArray[np.float32], valid: npt.NDArray[np.bool_]) -> npt.NDArray[np.int8]:
    """Encode unit features.

    Args:
        features: ``[D, h, w]`` float32 in [-1, 1].
        valid: bool ``[h, w]``.

    Returns:
        int8 ``[D, h, w]``, -128 where not valid.
    """
    root = np.sqrt(np.abs(features))
    root *= 127.5
    np.copysign(root, features, out=root)
    codes = np.clip(np.rint(root, out=root), -127, 127).astype(np.int8)
    return codes if valid.all() else np.where(valid, codes, np.int8(CODE_NODATA))


def decode_int8(codes: npt.NDArray[np.int8]) -> npt.NDArray[np.float32]:
    """Decode into float32 in [-1, 1]; NaN where nodata. Vectors come back nearly, not exactly, of unit length."""
    table = np.arange(-128, 128, dtype=np.float32) / 127.5
    table = np.sign(table) * table**2
    table[0] = np.nan
    return table[codes.astype(np.int16) + 128]
