"""Checkpoints: whole or absent, the last few and the milestones kept."""

import re
from pathlib import Path
from typing import Any

import torch

from tiles.errors import InputError
from tiles.writing.outputs import replacing

_NAME = re.compile(r"^step-(\d+)\.ckpt$")


def checkpoint_path(folder: Path, step: int) -> Path:
    """Path of the checkpoint after ``step`` optimiser steps."""
    return folder / f"step-{step:08d}.ckpt"


def checkpoints(folder: Path) -> dict[int, Path]:
    """Whole checkpoints of a folder by step, in order; leftovers of an interrupted write are not among them."""
    found = {int(match[1]): path for path in folder.glob("step-*.ckpt") if (match := _NAME.match(path.name))}
    return dict(sorted(found.items()))


def save_checkpoint(folder: Path, step: int, state: dict[str, Any], *, keep: int, milestone_every: int) -> Path:
    """Write a checkpoint under a temporary name, make it durable, rename it, and drop old ones.

    Args:
        folder: Of checkpoints; created if missing.
        step: Optimiser steps done.
        state: Tensors and plain values.
        keep: Last checkpoints kept.
        milestone_every: Steps whose multiples are never dropped; 0 for none.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = checkpoint_path(folder, step)
    with replacing(path, durable=True) as part, part.open("wb") as file:
        torch.save({"step": step} | state, file)
    passing = [at for at in checkpoints(folder) if not (milestone_every and at % milestone_every == 0)]
    for at in passing[:-keep]:
        checkpoint_path(folder, at).unlink()
    return path


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint into memory.

    Raises:
        InputError: If the file is no checkpoint of ours.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, ValueError, KeyError) as error:
        raise InputError(
            f"{path} is damaged or no checkpoint ({type(error).__name__}); remove it to use the one before"
        ) from None
    if not isinstance(state, dict) or "student" not in state:
        raise InputError(f"{path} is not a checkpoint that `geodino pretrain` wrote")
    return state
