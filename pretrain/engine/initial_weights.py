"""What a run starts from: the weights of a trained backbone, or the last checkpoint of the phase before."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
import yaml

from geodino.backbones.backbone import Backbone, load_backbone
from pretrain.engine.checkpoint import checkpoints
from pretrain.engine.run_folder import RECIPE_FILE
from pretrain.engine.trainer import Trainer
from pretrain.network.encode import is_convnext
from pretrain.network.network import Network
from pretrain.network.patch_embedding import expand_patch_embedding
from pretrain.recipes.recipe import PHASE_BEFORE, Recipe
from tiles.errors import InputError

# Names of LayerScale's first value, which a student takes from its recipe.
_LAYER_SCALES = ("init_values", "ls_init_value")


def adopt_architecture(recipe: Recipe, backbone: Backbone | None) -> Recipe:
    """Resolve ``backbone.architecture: init`` to the architecture of the backbone that the run starts from.

    Raises:
        InputError: When the recipe asks for it and there is no such backbone.
    """
    if recipe.backbone.architecture != "init":
        return recipe
    if backbone is None:
        raise InputError(
            f"recipe {recipe.name} goes on from trained weights: give them as --init BACKBONE, or set "
            "backbone.architecture to start from random ones"
        )
    card = backbone.card
    arguments = {} if card is None else {k: v for k, v in card.model_args.items() if k not in _LAYER_SCALES}
    scaled = any(name.endswith(("gamma_1", "ls1.gamma", ".gamma")) for name in backbone.module.state_dict())
    settings = recipe.backbone.model_copy(
        update={
            "architecture": backbone.architecture,
            "arguments": arguments | recipe.backbone.arguments,
            # the first value is overwritten by the trained one; what counts is that the parameter exists
            "layer_scale": (recipe.backbone.layer_scale or 1e-5) if scaled else None,
        }
    )
    return recipe.model_copy(update={"backbone": settings})


@torch.no_grad()
def initialize(network: Network, backbone: Backbone, bands: Sequence[str], source: str) -> None:
    """Copy a backbone's weights into the student.

    Args:
        network: The student; its heads stay random, since no released backbone brings heads.
        backbone: Where to start.
        bands: Bands of the student. Bands that the backbone does not know need ``pretrain.network.patch_embedding``.
        source: Name of the backbone in messages.

    Raises:
        InputError: When the architectures differ, or the backbone shares no band with the tiles.
    """
    given = backbone.module.state_dict()
    target = network.backbone.state_dict()
    key = "stem.0.weight" if is_convnext(network.backbone) else "patch_embed.proj.weight"
    if tuple(backbone.bands) != tuple(bands):
        if not set(backbone.bands) & set(bands):
            raise InputError(
                f"{source} was trained on {', '.join(backbone.bands)} and the tiles hold {', '.join(bands)}: no "
                "band in common, so there is nothing to start from; train without --init or cut tiles with its bands"
            )
        given[key] = expand_patch_embedding(given[key], backbone.bands, bands)
    different = [name for name in target if name not in given or given[name].shape != target[name].shape]
    if different:
        shape = tuple(given[different[0]].shape) if different[0] in given else "absent"
        raise InputError(
            f"{source} is a {backbone.architecture}, which does not fit the recipe's "
            f"{different[0]} {tuple(target[different[0]].shape)} (there it is {shape}); set backbone.architecture"
        )
    network.backbone.load_state_dict({name: given[name] for name in target})
    if network.local_norm is not None:
        network.local_norm.load_state_dict(cast(Any, network.backbone).norm.state_dict())


def last_of_previous(phase: str, previous: Path) -> Path:
    """The last checkpoint of the run that a phase goes on from.

    Raises:
        InputError: When that run is none, is of another phase than the one before, or has not finished.
    """
    found = checkpoints(previous / "checkpoints")
    if not found:
        raise InputError(
            f"phase {phase} goes on from {previous}, which holds no checkpoint of `geodino pretrain`; name the folder "
            "of the finished run before it with --set previous=RUN"
        )
    path = previous / RECIPE_FILE
    try:
        recipe = yaml.safe_load(path.read_text())
        before, steps = recipe["phase"], int(recipe["max_steps"])
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError):
        raise InputError(
            f"{path} does not tell the phase and max_steps of the run that phase {phase} goes on from; give the folder "
            "as `geodino pretrain` wrote it"
        ) from None
    expected = PHASE_BEFORE.get(phase, before)
    if before != expected:
        raise InputError(
            f"phase {phase} goes on from a finished {expected} run, and {previous} is a {before} run; name a "
            f"{expected} run with --set previous=RUN"
        )
    last = max(found)
    if last < steps:
        raise InputError(
            f"{previous} has come to step {last} of {steps}, and phase {phase} goes on from a finished run; finish it "
            "with --resume first"
        )
    return found[last]


def check_state(network: Network, state: dict[str, Any], source: str) -> None:
    """Refuse a checkpoint of another architecture, before anything is overwritten.

    Raises:
        InputError: Naming the first tensor that differs.
    """
    expected = {name: tuple(p.shape) for name, p in network.named_parameters()}
    found = {name: tuple(value.shape) for name, value in state["student"].items()}
    different = [name for name in sorted({*expected, *found}) if expected.get(name) != found.get(name)]
    if different:
        name = different[0]
        raise InputError(
            f"{source} comes from another architecture: {name} is {found.get(name, 'absent')} there and "
            f"{expected.get(name, 'absent')} in this recipe; use the recipe that it was trained with"
        )


def set_gram_teacher(trainer: Trainer, source: str) -> None:
    """Make the backbone of a run, or any other of the same architecture, the Gram teacher.

    Raises:
        InputError: When its tensors do not fit.
    """
    given = load_backbone(source, device="cpu", precision="fp32").module.state_dict()
    trainer.update_gram()
    own = trainer.gram.state_dict() if trainer.gram is not None else {}
    different = [name for name, value in own.items() if name not in given or given[name].shape != value.shape]
    if different or trainer.gram is None:
        raise InputError(f"gram.teacher {source} is of another architecture: {different[0]} does not fit")
    trainer.gram.load_state_dict(given)
