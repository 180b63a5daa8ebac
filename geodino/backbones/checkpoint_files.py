"""Checkpoint files: from a ``.pth``, ``.ckpt`` or ``.safetensors`` on disk to the named tensors of one backbone.

Only tensors are ever read. A pickle that wants to run code is refused: PyTorch's ``weights_only`` reader builds
nothing but tensors and plain containers, and the one class added here, ``argparse.Namespace``, holds values only
(dino's full checkpoints keep their command line in one).
"""

import argparse
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from tiles.errors import InputError

# Containers that training scripts put a state dict into, the better model first.
CONTAINERS = ("teacher", "model_ema", "model", "state_dict", "student")
# Where a backbone lives inside a state dict, the better model first; the last is the bare backbone.
PREFIXES = (
    "teacher.backbone.",
    "model_ema.backbone.",
    "ema.backbone.",
    "student.backbone.",
    "model.backbone.",
    "module.backbone.",
    "backbone.",
    "module.",
    "model.",
    "",
)
# A tensor that every backbone of a family has, whatever its size.
LANDMARKS = ("patch_embed.proj.weight", "downsample_layers.0.0.weight", "stem.0.weight")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read the backbone's tensors of a checkpoint file under their own names, without the training's prefixes.

    Heads, optimiser state and the student beside a teacher are not the backbone's and are left out; every tensor under
    the backbone's own prefix is kept.

    Args:
        path: A ``.safetensors`` file, or a PyTorch file of tensors (``.pth``, ``.pt``, ``.ckpt``, ``.bin``).

    Raises:
        InputError: When the file cannot be read, wants to run code, or holds no backbone.
    """
    return strip_prefix(state_dict_of(read_file(path), path), path)


def read_file(path: Path) -> Any:
    """Read a file of tensors without running anything that is in it."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with torch.serialization.safe_globals([argparse.Namespace]):
            # mmap: 7B parameters are not read twice into memory; only zip files (PyTorch ≥ 1.6) can be mapped
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        wanted = re.search(r"GLOBAL ([\w.]+)", str(error))
        if wanted or "Unsupported global" in str(error) or "Unsupported class" in str(error):
            what = f" ({wanted[1]})" if wanted else ""
            raise InputError(
                f"{path} wants to run code when it is opened{what}, so it was not; save its tensors alone with "
                "safetensors.torch.save_file where you trust it"
            ) from None
        raise InputError(f"{path} is not a PyTorch checkpoint, or is damaged; download it again") from None
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path} cannot be read as a checkpoint ({first}); download or copy it again") from None


def state_dict_of(content: Any, path: Path) -> dict[str, Tensor]:
    """Find the mapping of names to tensors inside what a training script saved."""
    while isinstance(content, Mapping):
        tensors = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
        inner = [key for key in CONTAINERS if isinstance(content.get(key), Mapping)]
        if tensors and not inner:
            return tensors
        if not inner:
            break
        content = content[inner[0]]
    raise InputError(f"{path} holds no named tensors; give a checkpoint of a backbone")


def strip_prefix(tensors: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Keep the tensors of the best backbone among them, under the backbone's own names."""
    tensors = {key.replace("_orig_mod.", ""): value for key, value in tensors.items()}  # torch.compile's wrapper
    for prefix in PREFIXES:
        if any(prefix + landmark in tensors for landmark in LANDMARKS):
            return {key[len(prefix) :]: value for key, value in tensors.items() if key.startswith(prefix)}
    some = ", ".join(sorted(tensors)[:3])
    raise InputError(
        f"{path} has an unknown layout (it starts with {some}); known are dino, dinov2, dinov3, timm's own and what "
        "`geodino pretrain` writes"
    )
