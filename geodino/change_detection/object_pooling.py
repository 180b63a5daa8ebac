"""Scores of pixels pooled over small image objects: a roof changes as a whole.

The objects are the basins of the two dates' colour gradient, so their borders follow what either date shows: a pixel
goes a given number of steps downhill to the lowest of its neighbours, and then some to the lowest pixel around. An
object is all pixels that end in one place. Which object a pixel belongs to thus depends on what lies within ``REACH``
of it, wherever a block of rows ends. Pooling helps where objects are many pixels wide and hurts where they are one or
two, as at 10 to 30 m.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, gaussian_gradient_magnitude

# Side in pixels of the neighbourhood in which one basin begins: objects come out about this wide.
BASIN = 9
# Steps to a neighbour, then to the lowest pixel of the neighbourhood: 2 to these powers.
_NEAR, _FAR = 3, 2
REACH = 2**_NEAR + 2**_FAR * (BASIN // 2)
# Deviation in pixels of the two Gaussian filters, and how far both together read.
_BLUR, _BLURRED = 0.7, 2 * 3
# Rows around a block that decide its pooled scores: the pixels of an object are within twice the reach of each other,
# which of those around belong to it is decided within the reach of these, by gradients that read what they do.
HALO = 3 * REACH + BASIN // 2 + _BLURRED
# Odd, so that products with it are a permutation of 32 bits: pixels of equal gradient come in an order of no direction.
_SHUFFLE = 0x6A099E3B
_LOW = np.uint64(0xFFFFFFFF)


def image_objects(before: NDArray, after: NDArray, valid: NDArray[np.bool_], row: int = 0) -> NDArray[np.intp]:
    """Number of the object each pixel belongs to: the flat index of the pixel it ends in, `[H, W]`.

    Args:
        before: values of the first date, `[C, H, W]`.
        after: values of the second date, same shape.
        valid: pixels that both dates have, `[H, W]`.
        row: row of the whole scene that the first one is.
    """
    strength = np.zeros(valid.shape)
    for band in np.concatenate([before, after]):
        smooth = gaussian_filter(np.where(valid, band, 0).astype(np.float64), _BLUR)
        strength += gaussian_gradient_magnitude(smooth, _BLUR) ** 2
    height, width = valid.shape
    rows, columns = np.mgrid[row : row + height, :width].astype(np.uint64)
    place = (rows & np.uint64(0xFFFF)) << np.uint64(16) | columns & np.uint64(0xFFFF)
    # What is compared: the gradient, a positive number whose bits are in its order, and then the shuffled place.
    keys = np.sqrt(strength).astype(np.float32).view(np.uint32).astype(np.uint64) << np.uint64(32)
    keys |= place * np.uint64(_SHUFFLE) & _LOW
    around = _lowest(keys, place, BASIN // 2)
    beside = _lowest(keys, place, 1)
    for _ in range(_NEAR):
        beside = beside[beside]
    for _ in range(_FAR):
        around = around[around]
    return around[beside].reshape(valid.shape)


def _lowest(keys: NDArray[np.uint64], place: NDArray[np.uint64], radius: int) -> NDArray[np.intp]:
    """Flat index of the lowest key within ``radius`` rows and columns of each pixel, `[H * W]`."""
    lowest = keys
    for axis in (0, 1):
        edge = [(radius, radius) if axis == other else (0, 0) for other in (0, 1)]
        padded = np.pad(lowest, edge, constant_values=np.iinfo(np.uint64).max)
        pieces = (np.take(padded, range(shift, shift + keys.shape[axis]), axis) for shift in range(2 * radius + 1))
        lowest = next(pieces)
        for piece in pieces:
            lowest = np.minimum(lowest, piece)
    found = (lowest & _LOW) * np.uint64(pow(_SHUFFLE, -1, 1 << 32)) & _LOW
    down = _step(found >> np.uint64(16), place >> np.uint64(16))
    right = _step(found & np.uint64(0xFFFF), place & np.uint64(0xFFFF))
    return np.arange(keys.size) + (down * keys.shape[1] + right).ravel()


def _step(found: NDArray[np.uint64], here: NDArray[np.uint64]) -> NDArray[np.intp]:
    """Difference of two rows or columns that are near each other and known by their low 16 bits."""
    return (found.astype(np.intp) - here.astype(np.intp) + 0x8000) % 0x10000 - 0x8000


def pool(scores: NDArray[np.float32], objects: NDArray[np.intp]) -> NDArray[np.float32]:
    """Mean score of each pixel's object `[H, W]`; NaN stays NaN and takes no part."""
    known = np.isfinite(scores)
    numbers = objects[known]
    totals = np.bincount(numbers, weights=scores[known], minlength=objects.size)
    pooled = np.full(scores.shape, np.nan, np.float32)
    pooled[known] = totals[numbers] / np.bincount(numbers, minlength=objects.size)[numbers]
    return pooled
