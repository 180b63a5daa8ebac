"""From what a user names to a data set: a folder, a zip, or a torchgeo data set with its folder."""

from collections.abc import Sequence
from pathlib import Path

from geodino.backbones.card import RGB
from geodino.evaluation.dataset import ImageSet
from geodino.evaluation.folders import Reading, open_folder
from tiles.errors import InputError


def open_data(
    spec: str,
    *,
    bands: Sequence[str] = RGB,
    sensor: str | None = None,
    band_names: Sequence[str] | None = None,
    gsd_m: float | None = None,
) -> ImageSet:
    """Open labelled images.

    Args:
        spec: A folder or zip of ``CLASS/IMAGE`` or of ``images/`` and ``labels/``; or ``NAME=FOLDER`` for a torchgeo
            data set whose files are in ``FOLDER``.
        bands: Common names of the bands that the backbone takes.
        sensor: Sensor of rasters that do not say it.
        band_names: Names of the bands of rasters that do not say them.
        gsd_m: Pixel size of rasters without a coordinate reference system.

    Raises:
        InputError: When it is none of these, or cannot be measured on.
    """
    path = Path(spec)
    if path.exists():
        reading = Reading(tuple(bands), sensor, tuple(band_names) if band_names else None, gsd_m)
        return open_folder(path, reading)
    from geodino.evaluation import torchgeo_sets

    name, _, folder = spec.partition("=")
    if name in torchgeo_sets.SETS:
        return torchgeo_sets.open_set(name, Path(folder or "."), tuple(bands))
    known = ", ".join(torchgeo_sets.SETS)
    raise InputError(f"'{spec}' is no folder or zip, nor a torchgeo data set with its folder ({known}; as NAME=FOLDER)")
