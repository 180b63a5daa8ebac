"""Any torchgeo data set by name, as ``torchgeo:NAME:FOLDER``.

Data sets of georeferenced rasters stand for their files; data sets of chips are cut like images. torchgeo (and with it
torch) is imported when such a source is opened and at no other time.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from tiles.errors import InputError
from tiles.scenes.band import Band
from tiles.scenes.images import DecodedImage, ImageSet
from tiles.scenes.sensor import SENSORS, named
from tiles.scenes.validity import measured

TORCHGEO = "torchgeo:"
# So many chips tell in which units a data set is.
_LOOKED_AT = 16


def _parts(source: str) -> tuple[str, str]:
    name, _, root = source.removeprefix(TORCHGEO).partition(":")
    if not name or not root:
        raise InputError(f"{source} names no torchgeo data set and folder; write torchgeo:NAME:FOLDER.")
    return name, root


def _load(source: str) -> Any:
    name, root = _parts(source)
    if not os.path.exists(root):
        raise InputError(f"{root} does not exist; download {name} there first.")
    try:
        import torchgeo.datasets as available
    except ImportError as error:
        raise InputError(f"{source} needs torchgeo, which is not installed ({error}).") from error
    kind = getattr(available, name, None)
    if not isinstance(kind, type):
        raise InputError(f"torchgeo has no data set called {name}.")
    try:
        return kind(root)
    except (TypeError, ValueError, OSError, RuntimeError, AssertionError, LookupError) as error:
        raise InputError(
            f"torchgeo's {name} cannot be opened in {root} ({' '.join(str(error).split())[:200]})."
        ) from error


def torchgeo_sources(source: str) -> Iterator[str]:
    """The files of a data set of rasters, or the data set itself where it holds chips."""
    dataset = _load(source)
    files = getattr(dataset, "files", None)
    if isinstance(files, list) and files and all(isinstance(file, str) and os.path.exists(file) for file in files):
        yield from sorted(files)
    else:
        yield source


@dataclass(frozen=True)
class TorchgeoSet(ImageSet):
    """Chips of a torchgeo data set; members are their numbers."""

    @property
    def name(self) -> str:
        """Name of the data set."""
        return _parts(self.source)[0]

    def state(self) -> list[object]:
        """Name, folder and number of chips."""
        return [self.source, len(self.members)]

    def open(self) -> "TorchgeoReader":  # type: ignore[override]
        """Open for reading in one thread, as a context manager."""
        return TorchgeoReader(self)


class TorchgeoReader:
    """Reads the chips of a set."""

    def __init__(self, images: TorchgeoSet) -> None:
        self.images = images
        self._dataset = _load(images.source)

    def read(self, member: str) -> DecodedImage:
        """One chip in the set's type, NaN invalid, with its class where the data set tells."""
        try:
            sample = self._dataset[int(member)]
        except (OSError, ValueError, RuntimeError, LookupError) as error:
            raise InputError(f"{self.images.source}:{member} cannot be read ({error}).") from error
        values = _image(sample, self.images.source)[[band.index - 1 for band in self.images.bands]]
        valid = measured(values, (None,) * len(values))
        label, classes = sample.get("label"), getattr(self._dataset, "classes", None)
        text = None
        if label is not None and getattr(label, "ndim", 1) == 0:
            text = str(classes[int(label)] if classes else int(label))
        typed = np.ascontiguousarray(values.astype(self.images.dtype))
        return DecodedImage(typed, None if valid.all() else valid, text)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._dataset = None


def _image(sample: dict[str, Any], source: str) -> np.ndarray:
    for key in ("image", "image1"):
        if key in sample:
            values = np.asarray(sample[key])
            return values if values.ndim == 3 else values.reshape(-1, *values.shape[-2:])
    raise InputError(f"The samples of {source} hold no image, only {', '.join(sample)}.")


def open_torchgeo(source: str, gsd_m: float | None, bands: tuple[str, ...] | None) -> TorchgeoSet:
    """Open a data set of chips.

    Raises:
        InputError: Without torchgeo, the data set, its folder, a pixel size or the bands asked for.
    """
    dataset = _load(source)
    if gsd_m is None:
        raise InputError(f"The chips of {source} have no georeference; give their pixel size in metres with --gsd.")
    count = len(dataset)
    picked = np.unique(np.linspace(0, count - 1, min(count, _LOOKED_AT)).astype(np.int64))
    chips = [_image(dataset[int(i)], source) for i in picked]
    channels = chips[0].shape[0]
    names = _names(dataset, channels)
    missing = [name for name in bands or () if name not in names]
    if missing:
        raise InputError(f"{source} has no band called {', '.join(missing)}; it has {', '.join(names)}.")
    top = max(float(np.nanmax(chip)) for chip in chips)
    whole = all(np.array_equal(chip, np.round(chip)) for chip in chips)
    if top <= 1.0:
        sensor, dtype, unit = "reflectance", "float32", "values taken as they are, 0 to 1"
    elif top <= 255:
        sensor, dtype, unit = "8bit", "uint8" if whole else "float32", "divided by 255"
    else:
        sensor, dtype, unit = "sentinel-2-l1c", "uint16" if whole else "float32", "ten-thousandths of reflectance"
    made = []
    for name in bands or names:
        scale, offset = (1.0, 0.0) if top <= 1.0 else SENSORS[sensor].to_unit(name)
        made.append(Band(name, source, names.index(name) + 1, dtype, None, scale, offset))
    notes = (
        f"{count} chips of torchgeo's {_parts(source)[0]}: pixels taken as squares of {gsd_m:g} m",
        f"sensor {sensor}: the largest of {len(picked)} chips' values is {top:g}, {unit}",
        f"bands {', '.join(names)}: {'as the data set names them' if _named(dataset, channels) else 'assumed'}",
    )
    members = tuple(f"{i:07d}" for i in range(count))
    return TorchgeoSet(source, members, gsd_m, tuple(made), notes, sensor, dtype)


def _named(dataset: Any, channels: int) -> list[str] | None:
    for key in ("bands", "all_bands", "rgb_bands"):
        found = getattr(dataset, key, None)
        if isinstance(found, list | tuple) and len(found) == channels and all(isinstance(name, str) for name in found):
            return list(found)
    return None


def _names(dataset: Any, channels: int) -> list[str]:
    found = _named(dataset, channels)
    if found:
        return [named(name, SENSORS["sentinel-2-l1c"]) for name in found]
    usual = {1: ["gray"], 3: ["red", "green", "blue"], 4: ["red", "green", "blue", "nir"]}
    return usual.get(channels, [f"b{i + 1}" for i in range(channels)])
