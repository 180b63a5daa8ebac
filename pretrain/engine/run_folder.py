"""``RUN/``: what a training or distillation keeps there, what it goes on from, and what it refuses to go on with."""

import hashlib
import json
import os
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import nn

from geodino.backbones.architecture import patch_size_of
from geodino.backbones.backbone import save_backbone
from geodino.backbones.card import CARD_FILE, BackboneCard, read_card
from geodino.backbones.normalize import Normalization
from pretrain.data.batches import Tiles
from pretrain.engine.checkpoint import save_checkpoint
from pretrain.engine.trainer import NonFiniteLossError
from pretrain.ranks import Ranks
from pretrain.recipes.recipe import ASIDE
from pretrain.recipes.settings import NetworkSettings, Settings
from pretrain.recipes.views import CropSettings
from tiles.errors import InputError, OutputError
from tiles.writing.outputs import check_name, replacing

RECIPE_FILE = "recipe.yaml"


def refuse_other_run(folder: Path, resume: bool) -> None:
    """Refuse a folder that holds a run, unless it is to be resumed; called before processes meet.

    Raises:
        OutputError: Naming the folder.
    """
    check_name(folder)
    if os.path.exists(folder / RECIPE_FILE) and not resume:
        raise OutputError(f"{folder} holds a run already; add --resume to go on with it or choose another folder")


def refuse_other_recipe(folder: Path, recipe: Settings) -> None:
    """Refuse to go on with a run that was started with another recipe; one may be resumed elsewhere or faster.

    Raises:
        InputError: Naming the keys that differ.
    """
    path = folder / RECIPE_FILE
    if not os.path.exists(path):
        return
    before = type(recipe).model_validate(yaml.safe_load(path.read_text()))
    changed = _differences(before.model_dump(mode="json"), recipe.model_dump(mode="json"))
    if changed:
        raise InputError(
            f"{folder} was started with another recipe ({', '.join(changed[:3])} differ); resume it with its own"
        )


def _differences(before: dict[str, Any], now: dict[str, Any], prefix: str = "") -> list[str]:
    found = []
    for key, value in now.items():
        old = before.get(key)
        if not prefix and key in ASIDE:
            continue
        if isinstance(value, dict) and isinstance(old, dict):
            found += _differences(old, value, f"{prefix}{key}.")
        elif old != value:
            found.append(prefix + key)
    return found


def write_recipe(folder: Path, recipe: Settings) -> None:
    """Write the resolved recipe, every key with its value; the folder is made if missing."""
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / RECIPE_FILE) as part:
        part.write_text(recipe.to_yaml())


def fingerprint(tiles: Tiles) -> str:
    """What a resumed run compares a tile set by: number, bands and statistics."""
    statistics = [np.asarray(getattr(tiles, name)).tolist() for name in ("mean", "std") if hasattr(tiles, name)]
    return hashlib.sha256(json.dumps([len(tiles), list(tiles.bands), statistics]).encode()).hexdigest()[:16]


def keep_nonfinite(folder: Path, error: NonFiniteLossError, ranks: Ranks) -> str:
    """Save this rank's part of the batch in ``folder`` and say what to try."""
    path = folder / ("nonfinite.pt" if ranks.world == 1 else f"nonfinite-{ranks.rank}.pt")
    torch.save({"step": error.step, "losses": error.losses, "batches": [vars(batch) for batch in error.batches]}, path)
    bad = ", ".join(name for name, value in error.losses.items() if value != value or abs(value) == float("inf"))
    return (
        f"the loss {bad} stopped being finite at step {error.step}; the batch is in {path}; start a new run "
        "after halving optimizer.lr, or with --set precision=fp32; --init takes the backbone of the last checkpoint"
    )


class BackboneFolder:
    """Where one trained backbone goes, with its card and checkpoints: ``RUN/``, or ``RUN/STUDENT``.

    Args:
        path: The folder.
        tiles: The tile set.
        step: Optimiser steps done; the hours until then are those of the card there.
        keep: Last checkpoints kept.
        milestone_every: Steps whose multiples are never dropped; 0 for none.
    """

    def __init__(self, path: Path, tiles: Tiles, step: int, *, keep: int, milestone_every: int = 0) -> None:
        self.path, self.tiles, self.keep, self.milestone_every = path, tiles, keep, milestone_every
        card = path / CARD_FILE
        self._earlier = (read_card(card).hours or 0.0) if step and card.exists() else 0.0
        self._started = time.perf_counter()

    def save(
        self, step: int, state: dict[str, Any], backbone: nn.Module, card: BackboneCard, metrics: dict[str, float]
    ) -> None:
        """Write a checkpoint, then the backbone with the hours and numbers of this step on its card."""
        state = state | {"tiles": fingerprint(self.tiles)}
        save_checkpoint(self.path / "checkpoints", step, state, keep=self.keep, milestone_every=self.milestone_every)
        hours = round(self._earlier + (time.perf_counter() - self._started) / 3600, 3)
        numbers = {"step": step} | {name: round(value, 6) for name, value in metrics.items()}
        save_backbone(backbone, card.model_copy(update={"hours": hours, "metrics": numbers}), self.path)


def check_same_tiles(state: dict[str, Any], tiles: Tiles, source: str, folder: Path) -> None:
    """Refuse to resume on another tile set.

    Raises:
        InputError: Naming it.
    """
    if state["tiles"] != fingerprint(tiles):
        raise InputError(f"{source} is not the tile set that {folder} was started on; give that one to resume")


def card_of(
    settings: NetworkSettings,
    backbone: nn.Module,
    tiles: Tiles,
    crops: CropSettings,
    normalization: Normalization,
    device: torch.device,
    **more: Any,
) -> BackboneCard:
    """The card of a backbone in training, without its hours and numbers.

    Args:
        settings: What it was made by.
        backbone: The model.
        tiles: What it sees.
        crops: How it sees them.
        normalization: Of its bands.
        device: Where it is trained.
        **more: Further entries of the card.
    """
    from geodino import __version__

    column = getattr(tiles, "column", None)
    gsd = None
    if column is not None:
        values = column("gsd_m")
        size = int(getattr(tiles, "size", crops.global_size))
        gsd = crops.gsd_range_m(size, (float(values.min()), float(values.max())))
    cpu = f"{platform.machine()}, {torch.get_num_threads()} threads"
    return BackboneCard(
        architecture=settings.architecture.split(".")[0],
        model_args=json.loads(json.dumps(settings.timm_arguments)),
        mean=normalization.mean,
        std=normalization.std,
        patch_size=patch_size_of(backbone),
        gsd_range_m=gsd,
        crop_px=crops.global_size,
        version=__version__,
        hardware=cpu if device.type == "cpu" else torch.cuda.get_device_name(device),
        **more,
    )
