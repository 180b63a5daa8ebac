"""From what a user names to a data set: a folder, a zip, or a torchgeo data set with its folder."""

import os
from pathlib import Path

from geodino.evaluation.dataset import ImageSet
from geodino.evaluation.folders import Reading, open_folder
from tiles.errors import InputError


def open_data(spec: str, reading: Reading | None = None) -> ImageSet:
    """Open labelled images.

    Args:
        spec: A folder or zip of ``CLASS/IMAGE`` or of ``images/`` and ``labels/``; or ``NAME=FOLDER`` for a torchgeo
            data set whose files are in ``FOLDER``.
        reading: The bands that the backbone takes, and what rasters do not say; red, green, blue when None.

    Raises:
        InputError: When it is none of these, or cannot be measured on.
    """
    path, reading = Path(spec), reading or Reading()
    if os.path.exists(path):
        return open_folder(path, reading)
    from geodino.evaluation import torchgeo_sets

    name, _, folder = spec.partition("=")
    if name in torchgeo_sets.SETS:
        return torchgeo_sets.open_set(name, Path(folder or "."), reading.bands)
    known = ", ".join(torchgeo_sets.SETS)
    raise InputError(f"'{spec}' is no folder or zip, nor a torchgeo data set with its folder ({known}; as NAME=FOLDER)")
