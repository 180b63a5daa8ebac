"""Architectures: from a timm name and tensors to a module, without initialising what is about to be replaced."""

import hashlib
from typing import Any

import timm
import torch
from torch import Tensor, nn

from tiles.errors import InputError


def create_module(architecture: str, bands: int, **model_args: Any) -> nn.Module:
    """Make an untrained timm module that any square or oblong of whole patches goes through.

    Args:
        architecture: timm name, with or without a tag.
        bands: Number of input bands.
        **model_args: Further arguments of ``timm.create_model``.

    Raises:
        InputError: When timm has no such model or does not take the arguments.
    """
    name = architecture.split(".")[0]
    if not timm.is_model(name):
        raise InputError(f"timm knows no model called '{architecture}'; `geodino models` lists the DINO family")
    args: dict[str, Any] = {"num_classes": 0, "in_chans": bands}
    if name.startswith("vit_"):
        # the class token, not the mean, is a ViT's summary; it also keeps the final norm on every token
        args |= {"global_pool": "token", "dynamic_img_size": True}
    try:
        return timm.create_model(name, pretrained=False, **(args | model_args))
    except TypeError as error:
        raise InputError(f"'{architecture}' does not take these arguments: {error}") from None


def build_from_tensors(
    architecture: str, bands: int, tensors: dict[str, Tensor], source: str, model_args: dict[str, Any]
) -> nn.Module:
    """Make a module around existing tensors without ever initialising or copying weights.

    The module is made on the meta device, where it costs nothing, and the tensors become its parameters: loading 7B
    parameters takes the memory of the tensors and no more.

    Args:
        architecture: timm name.
        bands: Number of input bands.
        tensors: Every parameter and persistent buffer under timm's names.
        source: What to call the tensors in an error.
        model_args: Further arguments of ``timm.create_model``.

    Raises:
        InputError: When a tensor has no place, is missing or has another shape.
    """
    with torch.device("meta"):
        module = create_module(architecture, bands, **model_args)
    expected = module.state_dict()
    for problem, keys in (
        ("has no place for", sorted(tensors.keys() - expected.keys())),
        ("lacks", sorted(expected.keys() - tensors.keys())),
    ):
        if keys:
            what = f"{', '.join(keys[:3])}{f' and {len(keys) - 3} more' if len(keys) > 3 else ''}"
            subject = f"{architecture}, named for {source}," if problem.startswith("has") else source
            raise InputError(f"{subject} {problem} {what}")
    for key, value in tensors.items():
        if value.shape != expected[key].shape:
            shapes = f"{list(value.shape)} instead of {list(expected[key].shape)}"
            raise InputError(f"{key} of {source} has shape {shapes}, so it is not a {architecture}")
    module.load_state_dict(tensors, assign=True)
    _fill_buffers(module)
    return module


def _fill_buffers(module: Any) -> None:
    """Give the buffers that no file stores (rotary periods, zero key biases) their values after meta creation."""
    for owner in module.modules():
        for name, buffer in owner.named_buffers(recurse=False):
            if buffer.is_meta:
                persistent = name not in owner._non_persistent_buffers_set
                owner.register_buffer(name, torch.empty_like(buffer, device="cpu"), persistent=persistent)
    for owner in module.modules():
        if hasattr(owner, "init_non_persistent_buffers"):
            owner.init_non_persistent_buffers()


def patch_size_of(module: Any) -> int:
    """Side of a token in pixels: the patch of a ViT, the final stride of a ConvNeXt."""
    if hasattr(module, "patch_embed"):
        return int(module.patch_embed.patch_size[0])
    return int(module.feature_info[-1]["reduction"])


def weights_hash(module: nn.Module) -> str:
    """SHA-256 of a module's parameters and persistent buffers; see ``hash_tensors``."""
    return hash_tensors(module.state_dict())


def hash_tensors(tensors: dict[str, Tensor]) -> str:
    """SHA-256 of named tensors, independent of their order and of the float type that holds the same values."""
    digest = hashlib.sha256()
    for key in sorted(tensors):
        value = tensors[key].detach().cpu()
        value = (value.float() if value.is_floating_point() else value).contiguous()
        digest.update(f"{key}{list(value.shape)}".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
