"""Where backbones come from: a folder that `pretrain` wrote, a checkpoint file, a timm name in the local cache.

Each source ends in the same pair: a module with its weights, and the card that says what goes in and comes out.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from geodino.backbones.architecture import build_from_tensors, hash_tensors, patch_size_of
from geodino.backbones.card import CARD_FILE, WEIGHTS_FILE, BackboneCard, read_card
from geodino.backbones.checkpoint_files import read_tensors
from geodino.backbones.checkpoint_layouts import Converted, convert
from geodino.backbones.normalize import IMAGENET, SATELLITE, Normalization
from geodino.backbones.published import cached_weights
from geodino.backbones.timm_import import timm
from tiles.errors import InputError

CHECKPOINT_SUFFIXES = (".pth", ".pt", ".ckpt", ".bin", ".safetensors")
# The names of Meta's files end in the first eight digits of their SHA-256; these are the two trained on SAT-493M.
SAT493M_DIGESTS = ("eadcf0ff", "a6675841")


def resolve(spec: str | Path) -> tuple[Any, BackboneCard]:
    """Make the module and the card of what a user named.

    Raises:
        InputError: One sentence when it cannot be found, read or does not fit.
    """
    path = Path(spec)
    if os.path.isdir(path):
        return from_folder(path)
    if os.path.isfile(path):
        return from_file(path)
    if "/" not in str(spec) and timm.is_model(str(spec).split(".")[0]):
        return from_name(str(spec))
    raise InputError(f"'{spec}' is neither a file or folder nor a timm model; `geodino models` lists the names")


def from_folder(folder: Path) -> tuple[Any, BackboneCard]:
    """Load the two files that ``save_backbone`` writes.

    Raises:
        InputError: When one is missing, unreadable, or they do not belong together.
    """
    file = folder / WEIGHTS_FILE
    if not os.path.exists(file):
        raise InputError(f"{folder} holds no {WEIGHTS_FILE}; give the folder that `geodino pretrain` wrote")
    return _with_card(file, read_card(folder / CARD_FILE), folder.name)


def _with_card(file: Path, card: BackboneCard, name: str) -> tuple[Any, BackboneCard]:
    try:
        tensors = load_file(file)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{file} cannot be read ({error}); copy it again") from None
    if card.weights_hash and hash_tensors(tensors) != card.weights_hash:
        raise InputError(f"{file} and the card beside it do not belong together; copy both files again")
    module = build_from_tensors(card.architecture, len(card.bands), tensors, str(file), card.model_args)
    if patch_size_of(module) != card.patch_size:
        raise InputError(f"the card of {file} says patches of {card.patch_size}, its model {patch_size_of(module)}")
    return module, card if card.name else card.model_copy(update={"name": name})


def from_file(path: Path) -> tuple[Any, BackboneCard]:
    """Load one file: weights with their card beside them, or a checkpoint in an original layout.

    Raises:
        InputError: When it is neither, or a tensor of it has no place.
    """
    if path.name in (WEIGHTS_FILE, CARD_FILE):
        return from_folder(path.parent)
    beside = path.with_suffix(".json")
    if path.suffix == ".safetensors" and os.path.exists(beside):
        return _with_card(path, read_card(beside), path.stem)
    if path.suffix not in CHECKPOINT_SUFFIXES:
        raise InputError(f"{path} is not a backbone: its name ends in none of {', '.join(CHECKPOINT_SUFFIXES)}")
    tensors = read_tensors(path)
    converted = convert(tensors, str(path))
    if converted is not None:
        module = build_from_tensors(
            converted.architecture, _bands(converted.tensors), converted.tensors, str(path), converted.model_args
        )
        return module, _card(module, converted, path)
    run = path.parent.parent / CARD_FILE  # RUN/checkpoints/FILE
    if not os.path.exists(run):
        raise InputError(
            f"{path} has timm's layout, which does not say which model it is; give the folder of the run that wrote it"
        )
    card = read_card(run)
    module = build_from_tensors(card.architecture, len(card.bands), tensors, str(path), card.model_args)
    return module, card.model_copy(update={"name": f"{run.parent.name}/{path.name}", "weights_hash": ""})


def from_name(name: str) -> tuple[Any, BackboneCard]:
    """Load a timm name from the local Hugging Face cache; nothing is ever downloaded here.

    Raises:
        InputError: When the weights are not on this machine.
    """
    settings = timm.get_pretrained_cfg(name)
    if settings is None or not settings.hf_hub_id:
        raise InputError(f"'{name}' names no weights; `geodino models` lists the names that do")
    full = f"{settings.architecture}.{settings.tag}"
    file = cached_weights(full)
    if file is None:
        raise InputError(
            f"the weights of '{full}' are not on this machine: run `hf download timm/{full}` where there is "
            "internet and copy the Hugging Face cache (HF_HOME) here, or give an original .pth file"
        )
    tensors = _load_sharded(file) if file.suffix == ".json" else load_file(file)
    heads = (settings.classifier,) if isinstance(settings.classifier, str) else tuple(settings.classifier or ())
    tensors = {key: value for key, value in tensors.items() if not key.startswith(tuple(f"{head}." for head in heads))}
    module = build_from_tensors(settings.architecture, 3, tensors, full, {})
    card = BackboneCard(
        architecture=settings.architecture,
        mean=settings.mean,
        std=settings.std,
        patch_size=patch_size_of(module),
        gsd_range_m=(0.6, 0.6) if settings.tag == "sat493m" else None,
        data=settings.tag or "",
        licence=settings.license or "",
        name=full,
    )
    return module, card


def _load_sharded(index: Path) -> dict[str, Tensor]:
    """Read weights that are spread over several files, named by an index beside them."""
    files = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    tensors: dict[str, Tensor] = {}
    for file in files:
        if not (index.parent / file).exists():
            raise InputError(f"{index.parent / file} is missing beside its index; download the model again")
        tensors |= load_file(index.parent / file)
    return tensors


def _bands(tensors: dict[str, Tensor]) -> int:
    stem = "patch_embed.proj.weight" if "patch_embed.proj.weight" in tensors else "stem.0.weight"
    return int(tensors[stem].shape[1])


def _card(module: Any, converted: Converted, path: Path) -> BackboneCard:
    """A card for a file that has none: an original checkpoint is RGB, and says its normalisation by its name alone."""
    bands = _bands(converted.tensors)
    if bands != 3:
        raise InputError(f"{path} takes {bands} bands and does not say which; only red, green, blue files need no card")
    statistics = _normalization(converted, path)
    return BackboneCard(
        architecture=converted.architecture,
        model_args=converted.model_args,
        mean=statistics.mean,
        std=statistics.std,
        patch_size=patch_size_of(module),
        gsd_range_m=(0.6, 0.6) if statistics == SATELLITE else None,
        data="SAT-493M" if statistics == SATELLITE else "",
        name=path.stem,
    )


def _normalization(converted: Converted, path: Path) -> Normalization:
    """SAT-493M's statistics for DINOv3's two satellite models, ImageNet's for all others.

    The tensors do not say what a model was trained on, a renamed file no longer does: so the file's own digest is asked
    as well, for the two sizes that exist in both kinds.
    """
    if converted.layout != "dinov3" or not converted.architecture.startswith(("vit_large", "vit_7b")):
        return IMAGENET
    if "sat493m" in path.name or any(digest in path.name for digest in SAT493M_DIGESTS):
        return SATELLITE
    if "lvd1689m" in path.name:
        return IMAGENET
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return SATELLITE if digest.startswith(SAT493M_DIGESTS) else IMAGENET
