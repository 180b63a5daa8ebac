"""The drift monitor: what is looked at beside the losses, on the same tiles all through a run.

``RUN/drift.csv`` gets one row a measurement and ``RUN/pictures/`` one PNG: the fixed tiles above their patch features.
The cost is a forward pass of the teacher over the fixed tiles (and over the labelled ones, where given) every so many
steps.
"""

import math
from collections.abc import Sequence
from pathlib import Path

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
from pretrain.losses.targets import sinkhorn_knopp
from pretrain.monitor.drift_measures import (
    cls_patch_cosine,
    far_similarity,
    locality,
    nearest_distance,
    pca_colours,
    prototype_balance,
    similarity_by_distance,
    teacher_entropy,
)
from pretrain.monitor.labelled import Labelled, labelled, spread
from pretrain.monitor.metrics import StepTable
from pretrain.network.encode import TokenBatch
from pretrain.network.network import Network
from pretrain.recipes.settings import MonitorSettings
from tiles.writing.outputs import replacing

DRIFT_FILE = "drift.csv"
# Enough tiles that the numbers move with the model and not with the choice, few enough to cost less than a step.
FIXED_TILES = 128
_BATCH = 64
_NEIGHBOURS = 5


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
        self.labelled = labelled(settings.knn, bands, settings.knn_images) if settings.knn else None
        self.fixed = spread(len(tiles), FIXED_TILES)
        self.tiles = tiles
        self.channels = [tiles.bands.index(band) for band in bands]
        self.shown = [bands.index(band) for band in ("red", "green", "blue") if band in bands]
        self.table = StepTable(run / DRIFT_FILE, step)

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
        found = {
            "drift_cls_patch_cosine": cls_patch_cosine(cls, patches, valid.flatten(1)),
            "drift_similarity_near": float(similarity[1]) if side > 1 else math.nan,
            "drift_similarity_far": float(far_similarity(similarity, side)),
            "drift_locality": locality(similarity, side),
            "drift_teacher_entropy": teacher_entropy(sinkhorn_knopp(logits, temperature)),
            "drift_prototype_balance": prototype_balance(logits),
            "drift_nearest_distance": nearest_distance(cls[shown]),
        }
        if self.labelled is not None:
            found["drift_knn"] = self._knn(teacher, self.labelled)
        self.table.append(step, found)
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

    def _draw(self, step: int, views: Sequence[View], grid: Tensor, valid: Tensor) -> None:
        places = torch.from_numpy(spread(len(grid), self.settings.pictures))
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
        with replacing(folder / f"step-{step:08d}.png") as part:
            Image.fromarray((sheet * 255).round().byte().numpy()).save(part, format="PNG")


def _encoded(teacher: Network, view: View) -> TokenBatch:
    parameter = next(teacher.backbone.parameters())
    return teacher.tokens(view.pixels.to(parameter.device, parameter.dtype))
