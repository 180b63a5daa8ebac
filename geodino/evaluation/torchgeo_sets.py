"""torchgeo's benchmark data sets by name, when their files are on this machine; nothing is downloaded.

torchgeo reads the files and knows the official splits; this module adds what it leaves to the user: the units of the
values, the bands by their common names, and which mask values are classes.
"""

import hashlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import ConcatDataset

from geodino.backbones.card import RGB
from geodino.evaluation.dataset import IGNORE, ImageSet
from tiles.errors import InputError
from tiles.scenes.band import Pixels
from tiles.scenes.sensor import SENSORS

CHANGE = ("no change", "change")


@dataclass(frozen=True)
class Benchmark:
    """What torchgeo does not say about one of its data sets.

    Attributes:
        sensor: Row of the sensor table that gives the units.
        splits: torchgeo's split for each of ours; masks of LoveDA's own test part are not public.
        classes: Names of the mask classes, None where images have one class each.
        first_class: Mask value of the first class; values outside the classes are no label.
    """

    sensor: str
    splits: tuple[tuple[str, str], ...] = (("train", "train"), ("val", "val"), ("test", "test"))
    classes: tuple[str, ...] | None = None
    first_class: int = 0


_LOVEDA = ("background", "building", "road", "water", "barren", "forest", "agriculture")
_TWO_PARTS = (("train", "train"), ("test", "test"))

SETS = {
    "EuroSAT": Benchmark("sentinel-2-l1c"),
    "EuroSATSpatial": Benchmark("sentinel-2-l1c"),
    "EuroSAT100": Benchmark("sentinel-2-l1c"),
    "RESISC45": Benchmark("8bit"),
    "UCMerced": Benchmark("8bit"),
    "LoveDA": Benchmark("8bit", (("train", "train"), ("test", "val")), _LOVEDA, first_class=1),
    "OSCD": Benchmark("sentinel-2-l1c", _TWO_PARTS, CHANGE),
    "LEVIRCD": Benchmark("8bit", classes=CHANGE),
    "LEVIRCDPlus": Benchmark("8bit", _TWO_PARTS, CHANGE),
}


def open_set(name: str, root: Path, bands: tuple[str, ...]) -> ImageSet:
    """Open a torchgeo data set whose files are in ``root``.

    Args:
        name: Its class name in ``torchgeo.datasets``.
        root: Where its files are, as torchgeo expects them.
        bands: Common names of the bands to read.

    Raises:
        InputError: When files or bands are missing.
    """
    import torchgeo.datasets

    facts = SETS[name]
    kind = getattr(torchgeo.datasets, name)
    sensor = SENSORS[facts.sensor]
    arguments: dict[str, Any] = {"root": str(root)}
    if facts.sensor == "8bit":
        if missing := [band for band in bands if band not in RGB]:
            raise InputError(f"{name} is red, green, blue; the backbone also wants {', '.join(missing)}")
        order = [RGB.index(band) for band in bands]
    else:
        identifiers = {common: identifier for identifier, common in sensor.bands.items()}
        if missing := [band for band in bands if band not in identifiers]:
            raise InputError(f"{name} has no band {', '.join(missing)}; it has {', '.join(identifiers)}")
        arguments["bands"] = tuple(identifiers[band] for band in bands)
        order = list(range(len(bands)))
    parts: list[Any] = []
    official: list[str] = []
    for ours, theirs in facts.splits:
        try:
            dataset = kind(split=theirs, **arguments)
        except (torchgeo.datasets.DatasetNotFoundError, FileNotFoundError) as error:
            raise InputError(
                f"the files of {name} are not in {root}; put them there as torchgeo expects them "
                f"({str(error).splitlines()[0]})"
            ) from None
        parts.append(dataset)
        official += [ours] * len(dataset)
    maps = np.array([sensor.to_unit(band) for band in bands], np.float32)
    labels = None if facts.classes else np.concatenate([_labels(part) for part in parts])
    samples: ConcatDataset[dict[str, Any]] = ConcatDataset(parts)
    digest = hashlib.sha256(f"{name} {official} {None if labels is None else labels.tolist()}".encode()).hexdigest()
    return ImageSet(
        name=name,
        keys=tuple(f"{split}/{i}" for i, split in enumerate(official)),
        classes=facts.classes or tuple(parts[0].classes),
        read=partial(_read, samples, order, maps),
        fingerprint=digest,
        labels=labels,
        read_mask=partial(_read_mask, samples, facts) if facts.classes else None,
        official=np.array(official),
    )


def _labels(dataset: Any) -> np.ndarray:
    """Class of every image, from torchvision's list of files rather than by reading the images."""
    return np.array([target for _, target in dataset.samples], np.int64)


def _read(samples: ConcatDataset[dict[str, Any]], order: list[int], maps: np.ndarray, i: int) -> Pixels:
    """Values ``[C, H, W]``, or ``[2, C, H, W]`` where a sample is two dates."""
    image = samples[i]["image"].numpy()[..., order, :, :]
    scale, offset = maps[:, 0, None, None], maps[:, 1, None, None]
    return Pixels(np.clip(image * scale + offset, 0, 1), np.ones(image.shape[-2:], bool))


def _read_mask(samples: ConcatDataset[dict[str, Any]], facts: Benchmark, i: int) -> np.ndarray:
    mask = samples[i]["mask"].numpy().astype(np.int64)
    mask = mask.reshape(mask.shape[-2:]) - facts.first_class
    inside = (mask >= 0) & (mask < len(facts.classes or ()))
    return np.where(inside, mask, IGNORE)
