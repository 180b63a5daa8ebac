"""Labelled images of any kind behind one face: class folders, zips of them, folders of images and masks.

A data set is a list of images with labels; where it lies on disk ends here. Pixels are read one image at a time, as
values in [0, 1] with their validity, by the same code that reads scenes where an image is a raster.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from tiles.errors import InputError
from tiles.scenes.band import Pixels

IGNORE = -1
"""Label of pixels that have none."""

MIN_IMAGES = 5
"""Images that a class needs, so that each of the five folds of a split can have one."""


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Labelled images.

    Attributes:
        name: Short name for tables.
        keys: One stable name an image; with ``fingerprint`` it says which images these are.
        classes: Names of the classes, in the order of their numbers.
        read: Reads image ``i``: values ``[C, H, W]`` float32 in [0, 1] and validity ``[H, W]``. Safe in threads. Change
            data sets read both dates, ``[2, C, H, W]``.
        fingerprint: Hex digest that changes when images or labels do.
        labels: Class of each image ``[N]``, int64; None for masks.
        read_mask: Reads the classes ``[H, W]`` of image ``i``'s pixels, ``IGNORE`` where there is none; None where
            images have classes.
        positions: Longitude and latitude of each image ``[N, 2]`` in degrees, NaN where unknown; None when all are.
        official: The authors' own split, ``train``, ``val`` or ``test`` of each image; None to make one.
        notes: What was decided in opening it, to be printed.
    """

    name: str
    keys: tuple[str, ...]
    classes: tuple[str, ...]
    read: Callable[[int], Pixels]
    fingerprint: str
    labels: np.ndarray | None = None
    read_mask: Callable[[int], np.ndarray] | None = None
    positions: np.ndarray | None = None
    official: np.ndarray | None = None
    notes: tuple[str, ...] = field(default=())

    def __len__(self) -> int:
        return len(self.keys)


def check_classes(name: str, classes: tuple[str, ...], labels: np.ndarray) -> None:
    """Refuse a data set that no classifier can be measured on.

    Raises:
        InputError: When there is one class, an empty one, or one too small to be split.
    """
    if len(classes) < 2:
        what = f"one class ({classes[0]})" if classes else "no class"
        raise InputError(f"{name} has {what}; a data set needs at least two folders of images, one a class")
    for number, count in enumerate(np.bincount(labels, minlength=len(classes))):
        if count == 0:
            raise InputError(f"class '{classes[number]}' of {name} is empty; fill its folder or remove it")
        if count < MIN_IMAGES:
            raise InputError(
                f"class '{classes[number]}' of {name} has {count} images; it needs {MIN_IMAGES} to be split"
            )
