"""What a single pixel and its nearest neighbours say: the sharp half of a segmentation head's input.

A token of a vision transformer covers 16 by 16 pixels. It knows what surrounds a pixel and not where the shore is.
The bands do, also those the backbone was not trained on. In the logarithm of the values a linear head weighs ratios
of bands, as every normalised-difference index does.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter

from tiles.scenes.band import Pixels

# Rows and columns a pixel's features reach beyond it.
HALO = 2
# Keeps the logarithm of dark pixels above the noise of eight-bit data (1/255).
_DARK = 0.01
FEATURES_PER_BAND = 4


def spectral_features(pixels: Pixels) -> NDArray[np.float32]:
    """Value, log value, and the mean and deviation of the log value over 5 by 5 valid pixels, of every band.

    Args:
        pixels: values `[C, H, W]` in [0, 1]; read them with ``HALO`` more pixels on every side and cut that off after.

    Returns:
        `[4 C, H, W]`, 0 where invalid.
    """
    size = 2 * HALO + 1
    valid = pixels.valid.astype(np.float32)
    share = np.maximum(uniform_filter(valid, size, mode="constant"), 1e-6)
    out = np.empty((FEATURES_PER_BAND, *pixels.values.shape), dtype=np.float32)
    out[0] = pixels.values
    np.log(pixels.values + _DARK, out=out[1])
    out[1] *= valid
    for band in range(pixels.values.shape[0]):
        mean = uniform_filter(out[1, band], size, mode="constant") / share
        square = uniform_filter(out[1, band] ** 2, size, mode="constant") / share
        out[2, band] = mean
        out[3, band] = np.sqrt(np.maximum(square - mean**2, 0))
    out *= valid
    return out.reshape(-1, *pixels.valid.shape)
