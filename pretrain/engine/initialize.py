"""Starting from a trained backbone: its weights into the student, its bands into the student's bands."""

from collections.abc import Sequence
from typing import Any, cast

import torch

from geodino.backbones.backbone import Backbone
from pretrain.engine.network import Network, is_convnext
from pretrain.recipes.recipe import Recipe
from tiles.errors import InputError

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
        bands: Bands of the student. Bands that the backbone does not know need ``pretrain.engine.patch_embedding``.
        source: Name of the backbone in messages.

    Raises:
        InputError: When the architectures differ, or the backbone shares no band with the tiles.
    """
    from pretrain.engine.patch_embedding import expand_patch_embedding

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
