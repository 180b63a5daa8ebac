"""The drift monitor: what is looked at beside the losses, on the same tiles all through a run.

``RUN/drift.csv`` gets one row a measurement and ``RUN/pictures/`` one PNG: the fixed tiles above their patch features.
The cost is a forward pass of the teacher over the fixed tiles (and over the labelled ones, where given) every so many
steps.
"""

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from geodino.backbones.normalize import Normalization
from geodino.evaluation.knn import knn_accuracy
from pretrain.data.batches import Tiles
from pretrain.data.crops import Boxes, Resampler, View
from pretrain.data.masking import valid_tokens
from pretrain.engine.network import Network, TokenBatch
from pretrain.losses import sinkhorn_knopp
from pretrain.monitor.drift import (
    cls_patch_cosine,
    locality,
    nearest_distance,
    pca_colours,
    prototype_balance,
    similarity_by_distance,
    teacher_entropy,
)
from pretrain.recipes.recipe import MonitorSettings
from tiles.archive.dataset import TileDataset
from tiles.errors import InputError

DRIFT_FILE = "drift.csv"
# Enough tiles that the numbers move with the model and not with the choice, few enough to cost less than a step.
FIXED_TILES = 128
_BATCH = 64
_NEIGHBOURS = 5
_SUFFIXES = (".jpg", ".jpeg", ".png")


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
        self.index = labelled[_spread(len(labelled), limit)]
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
        self.files = [files[place] for place in _spread(len(files), limit)]
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
    if not folder.is_dir():
        raise InputError(f"monitor.knn names {path}, which is no folder")
    kind = LabelledTiles if (folder / "tiles.json").exists() else LabelledImages
    found = kind(folder, bands, limit)
    if bool((found.labels == found.labels[0]).all()):
        raise InputError(f"{path} has one class only, which every image has right; unset monitor.knn or add a class")
    return found


class DriftMonitor:
    """Measures the teacher on fixed tiles every ``settings.every`` steps.

    Args:
        settings: Of the recipe.
        tiles: The tile set; fixed tiles are spread over it.
        bands: Bands of the run.
        normalization: Of these bands.
        size: Pixels along the side that tiles are resampled to: the global crops' own.
        patch: Pixels along a token's side.
        run: Folder of the run.
        step: Optimiser steps done; rows of ``drift.csv`` after it are dropped.
    """

    def __init__(
        self,
        settings: MonitorSettings,
        tiles: Tiles,
        bands: Sequence[str],
        normalization: Normalization,
        *,
        size: int,
        patch: int,
        run: Path,
        step: int = 0,
    ) -> None:
        self.settings, self.normalization, self.size, self.patch, self.run = settings, normalization, size, patch, run
        self.labelled = labelled(settings.knn, bands, settings.knn_images) if settings.knn and settings.every else None
        self.fixed = _spread(len(tiles), FIXED_TILES)
        self.tiles = tiles
        self.channels = [tiles.bands.index(band) for band in bands]
        self.shown = [bands.index(band) for band in ("red", "green", "blue") if band in bands]
        self.rows = [row for row in _rows(run / DRIFT_FILE) if int(row["step"]) <= step]

    def due(self, step: int) -> bool:
        """Whether to measure after ``step`` optimiser steps."""
        return self.settings.every > 0 and step % self.settings.every == 0

    @torch.no_grad()
    def measure(self, teacher: Network, step: int, temperature: float) -> dict[str, float]:
        """Measure, append the row and draw the pictures.

        Args:
            teacher: The EMA teacher, in evaluation mode.
            step: Optimiser steps done.
            temperature: Teacher temperature of the step.

        Returns:
            What was measured, by name; each name begins with ``drift_``.
        """
        device = next(teacher.parameters()).device
        views, tokens = [], []
        for places in np.array_split(self.fixed, math.ceil(len(self.fixed) / _BATCH)):
            batch = self.tiles.read_batch(places)
            values, valid = torch.from_numpy(batch.values)[:, self.channels], torch.from_numpy(batch.valid)
            views.append(self._whole(values, valid))
            tokens.append(_encoded(teacher, views[-1]))
        cls = torch.cat([token.cls for token in tokens])
        side = self.size // self.patch
        patches = torch.cat([token.patches for token in tokens])
        grid = patches.view(len(patches), side, side, -1)
        valid = torch.cat([valid_tokens(view.valid, self.patch) for view in views]).to(device)
        shown = valid.flatten(1).any(1)
        logits = teacher.dino_head(cls[shown].to(next(teacher.dino_head.parameters()).dtype)).float()
        similarity = similarity_by_distance(grid, valid).cpu()
        far = similarity[max(2, math.ceil(side / 2)) :]
        found = {
            "drift_cls_patch_cosine": cls_patch_cosine(cls, patches, valid.flatten(1)),
            "drift_similarity_near": float(similarity[1]) if side > 1 else math.nan,
            "drift_similarity_far": float(far[~far.isnan()].mean()) if len(far) else math.nan,
            "drift_locality": locality(similarity, side),
            "drift_teacher_entropy": teacher_entropy(sinkhorn_knopp(logits, temperature)),
            "drift_prototype_balance": prototype_balance(logits),
            "drift_nearest_distance": nearest_distance(cls[shown]),
        }
        if self.labelled is not None:
            found["drift_knn"] = self._knn(teacher, self.labelled)
        self._record(step, found)
        if self.settings.pictures:
            self._draw(step, views, grid, valid)
        return found

    def _whole(self, values: Tensor, valid: Tensor) -> View:
        """Whole tiles, undistorted, at the size of the global crops."""
        zero = torch.zeros(len(values), dtype=torch.float64)
        side = torch.full_like(zero, values.shape[-1])
        boxes = Boxes(zero, zero, side, side, torch.zeros(len(values), dtype=torch.long))
        return Resampler(values, valid, self.normalization).undistorted(boxes, self.size)

    def _knn(self, teacher: Network, images: Labelled) -> float:
        """Accuracy when one half of the labelled images votes on the other."""
        order = np.random.default_rng(0).permutation(len(images.labels))
        features = [
            _encoded(teacher, self._whole(*images.read(places))).cls.float().cpu()
            for places in np.array_split(order, math.ceil(len(order) / _BATCH))
        ]
        cls, labels = torch.cat(features), images.labels[torch.from_numpy(order)]
        half = len(cls) // 2
        return knn_accuracy(cls[:half], labels[:half], cls[half:], labels[half:], k=min(_NEIGHBOURS, half))

    def _record(self, step: int, found: dict[str, float]) -> None:
        self.rows = [row for row in self.rows if int(row["step"]) < step]
        self.rows.append({"step": str(step)} | {name: f"{value:.6g}" for name, value in found.items()})
        part = self.run / f"{DRIFT_FILE}.part"
        with part.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(self.rows[-1]), extrasaction="ignore")
            writer.writeheader()
            writer.writerows(self.rows)
        part.replace(self.run / DRIFT_FILE)

    def _draw(self, step: int, views: Sequence[View], grid: Tensor, valid: Tensor) -> None:
        places = torch.from_numpy(_spread(len(grid), self.settings.pictures))
        count = len(places)
        pixels = torch.cat([view.pixels for view in views])[places]
        seen = torch.cat([view.valid for view in views])[places]
        where = places.to(grid.device)
        colours = pca_colours(grid[where], valid[where]).permute(0, 3, 1, 2).cpu()
        colours = interpolate(colours, size=(self.size, self.size), mode="nearest")
        picked = (self.shown * 3)[:3] or [0, 0, 0]
        # Two standard deviations about the mean are the range of grey that a tile gets.
        images = (pixels[:, picked] / 4 + 0.5).clamp(0, 1) * seen.unsqueeze(1)
        sheet = torch.stack([images, colours])  # [2, count, 3, S, S]
        sheet = sheet.permute(0, 3, 1, 4, 2).reshape(2 * self.size, count * self.size, 3)
        folder = self.run / "pictures"
        folder.mkdir(exist_ok=True)
        path = folder / f"step-{step:08d}.png"
        part = path.with_suffix(".png.part")
        Image.fromarray((sheet * 255).round().byte().numpy()).save(part, format="PNG")
        part.replace(path)


def _encoded(teacher: Network, view: View) -> TokenBatch:
    parameter = next(teacher.backbone.parameters())
    return teacher.tokens(view.pixels.to(parameter.device, parameter.dtype))


def _spread(count: int, limit: int) -> np.ndarray:
    """At most ``limit`` of ``range(count)``, evenly spread, in order."""
    return np.unique(np.linspace(0, count - 1, min(count, limit)).round().astype(np.int64))


def _rows(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))
