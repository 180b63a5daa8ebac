"""A second date made from a first, with its truth known: transplanted patches, other light, a sub-pixel shift.

Real pairs with a trustworthy truth cannot be had offline, so the demo and the tests of very high resolution
make theirs. Whatever is shown of such a pair must call it semi-synthetic.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage


@dataclass(frozen=True)
class SecondDate:
    """A made second date.

    Attributes:
        values: ``[C, H, W]``, dtype and units of the first date.
        truth: ``[H, W]`` uint8, 1 where a patch was transplanted, else 0.
    """

    values: NDArray
    truth: NDArray[np.uint8]


def make_second_date(
    values: NDArray,
    valid: NDArray[np.bool_],
    rng: np.random.Generator,
    *,
    patches: int = 12,
    radius_px: tuple[float, float] = (12.0, 40.0),
    shift_px: tuple[float, float] = (0.4, -0.3),
    gain: tuple[float, float] = (0.92, 1.08),
    offset: tuple[float, float] = (-0.015, 0.015),
) -> SecondDate:
    """Transplant patches of other ground into a scene, then change its light and shift it.

    Each patch is a ragged blob whose ground comes from the one of 16 random places that looks least like what
    it covers, so that what the truth calls changed did change. Gain and offset are drawn for each band.

    Args:
        values: First date, ``[C, H, W]``, any real dtype; larger than twice the largest radius.
        valid: ``[H, W]``; nothing is transplanted from or onto invalid pixels.
        rng: Source of all randomness.
        patches: How many blobs to transplant.
        radius_px: Smallest and largest mean radius of a blob, in pixels.
        shift_px: Shift of the second date's content in rows and columns, in pixels.
        gain: Range of the factor on each band.
        offset: Range of the term on each band, as a share of the band's 2nd to 98th percentile range.

    Returns:
        The second date and where it differs.
    """
    bands, height, width = values.shape
    image = values.astype(np.float32)
    truth = np.zeros((height, width), np.uint8)
    for _ in range(patches):
        blob = _blob(rng, rng.uniform(*radius_px))
        size = blob.shape[0]
        if size >= min(height, width):
            continue
        places = np.stack([rng.integers(0, height - size, 17), rng.integers(0, width - size, 17)], axis=1)
        target, donors = places[0], places[1:]
        under = _cut(values, target, size)
        if truth[_window(target, size)].any() or not valid[_window(target, size)].all():
            continue
        unlike = [
            np.abs(_cut(values, d, size) - under).mean() if valid[_window(d, size)].all() else -1.0 for d in donors
        ]
        if max(unlike) <= 0:
            continue
        donor = donors[int(np.argmax(unlike))]
        region = (slice(None), *_window(target, size))
        image[region] = np.where(blob, _cut(values, donor, size), image[region])
        truth[_window(target, size)] |= blob.astype(np.uint8)
    low, high = np.percentile(values[:, valid], [2, 98], axis=1)
    gains = np.asarray(rng.uniform(*gain, size=bands), np.float32)
    offsets = np.asarray(rng.uniform(*offset, size=bands) * (high - low), np.float32)
    image = ndimage.shift(image, (0, *shift_px), order=3, mode="nearest") * gains[:, None, None]
    image += offsets[:, None, None]
    if np.issubdtype(values.dtype, np.integer):
        limits = np.iinfo(values.dtype)
        image = np.clip(np.rint(image), limits.min, limits.max)
    return SecondDate(np.where(valid, image, values).astype(values.dtype), truth)


def _blob(rng: np.random.Generator, radius: float) -> NDArray[np.bool_]:
    """A ragged disc ``[S, S]`` whose edge wavers by a third of its radius."""
    reach = int(np.ceil(radius * 1.4))
    rows, columns = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    angle = np.arctan2(rows, columns)
    edge = np.full(angle.shape, radius)
    for harmonic in (2, 3, 5):
        edge += radius / 9 * np.cos(harmonic * angle + rng.uniform(0, 2 * np.pi))
    return np.hypot(rows, columns) <= edge


def _window(corner: NDArray, size: int) -> tuple[slice, slice]:
    row, column = int(corner[0]), int(corner[1])
    return slice(row, row + size), slice(column, column + size)


def _cut(values: NDArray, corner: NDArray, size: int) -> NDArray[np.float32]:
    return values[(slice(None), *_window(corner, size))].astype(np.float32)
