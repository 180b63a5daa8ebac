"""Labelled images on which a run's nearest-neighbour accuracy is measured: a tile set, or a folder of images."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tiles.archive.dataset import TileDataset
from tiles.errors import InputError

_SUFFIXES = (".jpg", ".jpeg", ".png")


def spread(count: int, limit: int) -> np.ndarray:
    """At most ``limit`` of ``range(count)``, evenly spread, in order."""
    return np.unique(np.linspace(0, count - 1, min(count, limit)).round().astype(np.int64))


class Labelled(Protocol):
    """Images with classes."""

    labels: Tensor

    def read(self, places: np.ndarray) -> tuple[Tensor, Tensor]:
        """Values float32 [N, C, S, S] in [0, 1] and validity bool [N, S, S]."""


class LabelledTiles:
    """The labelled tiles of a tile set that ``geodino tile`` cut from a folder of classes.

    Args:
        path: Tile set whose index has labels.
        bands: Bands wanted, in order.
        limit: Tiles taken at most, spread over the set.

    Raises:
        InputError: When it has no labels or lacks a band.
    """

    def __init__(self, path: Path, bands: Sequence[str], limit: int) -> None:
        self.tiles = TileDataset(path)
        missing = [band for band in bands if band not in self.tiles.bands]
        if missing:
            raise InputError(f"{path} lacks the band {missing[0]}, so its labels cannot measure this run")
        self.channels = [self.tiles.bands.index(band) for band in bands]
        names = self.tiles.column("label")
        labelled = np.flatnonzero([isinstance(name, str) for name in names])
        if len(labelled) < 2:
            raise InputError(
                f"{path} has no labels; cut it from a folder with one folder a class, or unset monitor.knn"
            )
        self.index = labelled[spread(len(labelled), limit)]
        self.labels = torch.from_numpy(np.unique(names[self.index].astype(str), return_inverse=True)[1])

    def read(self, places: np.ndarray) -> tuple[Tensor, Tensor]:
        """Read tiles by their place among the chosen ones."""
        batch = self.tiles.read_batch(self.index[places])
        return torch.from_numpy(batch.values[:, self.channels]), torch.from_numpy(batch.valid)


class LabelledImages:
    """A folder ``CLASS/NAME.jpg`` of 8-bit images of one size, for runs on red, green and blue.

    Args:
        path: The folder.
        bands: Bands wanted, a choice of red, green and blue.
        limit: Images taken at most, spread over the folder.

    Raises:
        InputError: When it holds too few images, or the run has other bands.
    """

    def __init__(self, path: Path, bands: Sequence[str], limit: int) -> None:
        rgb = ("red", "green", "blue")
        if not set(bands) <= set(rgb):
            raise InputError(f"{path} holds plain images; a run on {', '.join(bands)} needs a labelled tile set")
        files = sorted(file for file in path.glob("*/*") if file.suffix.lower() in _SUFFIXES)
        if len(files) < 2:
            raise InputError(
                f"{path} holds no images as CLASS/NAME.png or .jpg; unset monitor.knn or name another folder"
            )
        self.channels = [rgb.index(band) for band in bands]
        self.files = [files[place] for place in spread(len(files), limit)]
        classes = sorted({file.parent.name for file in self.files})
        self.labels = torch.tensor([classes.index(file.parent.name) for file in self.files])

    def read(self, places: np.ndarray) -> tuple[Tensor, Tensor]:
        """Read images by their place among the chosen ones."""
        images = [np.asarray(Image.open(self.files[place]).convert("RGB")) for place in places]
        if len({image.shape for image in images}) > 1:
            raise InputError(
                f"{self.files[0].parent.parent} holds images of different sizes; cut tiles from it instead"
            )
        values = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)[:, self.channels].float() / 255
        return values, torch.ones(len(values), *values.shape[2:], dtype=torch.bool)


def labelled(path: str, bands: Sequence[str], limit: int) -> Labelled:
    """Open a labelled tile set, or a folder of images by class."""
    folder = Path(path)
    if not os.path.isdir(folder):
        raise InputError(f"monitor.knn names {path}, which is no folder")
    kind = LabelledTiles if (folder / "tiles.json").exists() else LabelledImages
    found = kind(folder, bands, limit)
    if bool((found.labels == found.labels[0]).all()):
        raise InputError(f"{path} has one class only, which every image has right; unset monitor.knn or add a class")
    return found
