"""What can be known to fail before the first step is said before the first step."""

import os
import shutil
import sys

import torch

from geodino.backbones.architecture import patch_size_of
from pretrain.data.batches import Tiles
from pretrain.network.encode import create_backbone, is_convnext
from pretrain.recipes.recipe import Recipe
from pretrain.recipes.views import CropSettings
from tiles.errors import InputError

# Prototypes for each teacher row of a step. DINOv2 and DINOv3 run at 16 to 64; at 500 and more the targets stay
# uniform and the loss stays at ln(K) (users' reports on both repositories).
MAX_PROTOTYPES_PER_ROW = 64


def check_tiles(tiles: Tiles, source: str, recipe: Recipe) -> None:
    """Refuse a tile set that cannot feed the recipe.

    Raises:
        InputError: When it is empty, smaller than a batch, or lacks a band.
    """
    if len(tiles) == 0:
        raise InputError(f"{source} holds no tiles; cut some with `geodino tile SCENE... -o {source}`")
    if len(tiles) < recipe.batch_size:
        raise InputError(
            f"{source} holds {len(tiles)} tiles, fewer than the batch of {recipe.batch_size}; cut more, or train with "
            f"--set batch_size={max(2, len(tiles) // 2)}"
        )
    missing = [band for band in recipe.bands or () if band not in tiles.bands]
    if missing:
        raise InputError(f"{source} has the bands {', '.join(tiles.bands)}, not {', '.join(missing)}; change bands")


def check_crops(crops: CropSettings, patch: int, whose: str = "") -> None:
    """Refuse crops that are no whole patches.

    Raises:
        InputError: Naming the nearest size that is.
    """
    sizes = {"global_size": crops.global_size} | ({"local_size": crops.local_size} if crops.local_count else {})
    for name, size in sizes.items():
        if size % patch:
            near = max(patch, round(size / patch) * patch)
            raise InputError(f"crops.{name} {size} is no multiple of the {patch}-pixel patch{whose}; set it to {near}")


def check_recipe(recipe: Recipe) -> None:
    """Refuse a recipe whose parts do not fit each other.

    Softmax centring sets no limit to prototypes: it sharpens each row by itself, and prototypes that no row chooses
    stay unused. Sinkhorn-Knopp gives every prototype its share of each batch, however few rows there are.

    Raises:
        InputError: When crops are no whole patches, a part would never be trained, or a batch cannot balance the
            prototypes.
    """
    settings = recipe.backbone
    with torch.device("meta"):  # its shape alone: nothing is allocated
        backbone = create_backbone(settings.architecture, 3, **settings.arguments)
    patch = patch_size_of(backbone)
    check_crops(recipe.crops, patch)
    if settings.untie_norms and not recipe.crops.local_count:
        raise InputError(
            "backbone.untie_norms gives local crops a norm of their own, and crops.local_count is 0; change one of them"
        )
    if recipe.uses_gram:
        gram = recipe.crops.gram_size
        if gram is None:
            raise InputError("Gram anchoring needs undistorted crops; set crops.gram_scale to 1, 1.5 or 2")
        if gram % patch:
            raise InputError(f"crops.gram_scale gives crops of {gram} pixels, no multiple of the {patch}-pixel patch")
    if recipe.teacher.centering == "sinkhorn_knopp":
        rows = recipe.batch_size * recipe.crops.global_count
        _balance("dino.head.prototypes", recipe.dino.head.prototypes, rows)
        if recipe.ibot.weight and not is_convnext(backbone):
            tokens = (recipe.crops.global_size // patch) ** 2
            share = recipe.masks.probability * sum(recipe.masks.ratio) / 2
            _balance("ibot.head.prototypes", recipe.ibot.head.prototypes, max(1, int(rows * tokens * share)))


def check_compiler(recipe: Recipe, device: torch.device) -> None:
    """Refuse to compile blocks for a processor where ``torch.compile`` would find no C++ compiler.

    Raises:
        InputError: Naming the program that it looks for.
    """
    if not recipe.backbone.compile or device.type != "cpu":
        return
    compiler = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    if shutil.which(compiler) is None:
        raise InputError(
            f"backbone.compile needs a C++ compiler and there is no {compiler} here; install one, or train with "
            "--set backbone.compile=false"
        )


def _balance(key: str, prototypes: int, rows: int) -> None:
    if prototypes > MAX_PROTOTYPES_PER_ROW * rows:
        most = MAX_PROTOTYPES_PER_ROW * rows
        raise InputError(
            f"{key} {prototypes} cannot be balanced by the {rows} rows of a step, and the loss would stay at "
            f"ln({prototypes}); set it to {most} or less, or raise batch_size"
        )
