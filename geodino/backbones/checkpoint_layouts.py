"""Original layouts of dino, dinov2 and dinov3, renamed to timm's tensors with nothing lost.

Every tensor of the file either gets a place, is a known training-only tensor (``UNUSED``), or stops the loading:
silently dropped weights are how features go wrong without anybody noticing.
"""

import re
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tiles.errors import InputError

# Training-only tensors that the authors' own evaluation does not use either: the token that stands for a masked patch,
# the norm of local crops' class tokens (used by DINOv3 in training mode only).
UNUSED = ("mask_token", "local_cls_norm.weight", "local_cls_norm.bias")

# (width, depth, gated MLP) → size, DINOv3 and DINOv2 alike
DINOV3_SIZES = {
    (384, 12, False): "small",
    (384, 12, True): "small_plus",
    (768, 12, False): "base",
    (1024, 24, False): "large",
    (1280, 32, True): "huge_plus",
    (4096, 40, True): "7b",
}
DINOV2_SIZES = {
    (384, 12, False): "small",
    (768, 12, False): "base",
    (1024, 24, False): "large",
    (1536, 40, True): "giant",
}
DINO_SIZES = {(384, 12, False): "small", (768, 12, False): "base"}
CONVNEXT_SIZES: dict[tuple[tuple[int, ...], int], str] = {
    ((3, 3, 9, 3), 96): "tiny",
    ((3, 3, 27, 3), 96): "small",
    ((3, 3, 27, 3), 128): "base",
    ((3, 3, 27, 3), 192): "large",
}


@dataclass
class Converted:
    """A checkpoint in timm's terms.

    Attributes:
        layout: ``dino``, ``dinov2``, ``dinov3`` or ``dinov3-convnext``.
        architecture: timm name.
        model_args: Arguments of ``timm.create_model`` where the model is not one of the published sizes.
        tensors: Every parameter under timm's name.
    """

    layout: str
    architecture: str
    tensors: dict[str, Tensor]
    model_args: dict[str, Any] = field(default_factory=dict)


def convert(tensors: dict[str, Tensor], source: str) -> Converted | None:
    """Convert a checkpoint in an original layout.

    Args:
        tensors: The backbone's tensors under the authors' names.
        source: What to call the file in an error.

    Returns:
        The converted checkpoint, or None when the layout is none of the four.

    Raises:
        InputError: When a tensor is inconsistent with the layout.
    """
    try:
        return _convert(tensors, source)
    except KeyError as error:
        raise InputError(f"{source} lacks {error.args[0]}, so it is damaged or only looks like its layout") from None


def _convert(tensors: dict[str, Tensor], source: str) -> Converted | None:
    if "downsample_layers.0.0.weight" in tensors:
        return _convnext(tensors, source)
    if "cls_token" not in tensors or "blocks.0.gamma_1" in tensors or "reg_token" in tensors:
        return None
    tensors = {re.sub(r"^blocks\.\d+\.(\d+)\.", r"blocks.\1.", key): value for key, value in tensors.items()}  # chunks
    if "rope_embed.periods" in tensors or "storage_tokens" in tensors:
        return _dinov3(tensors, source)
    if "pos_embed" in tensors and "mask_token" in tensors:
        return _dinov2(tensors, source)
    return _dino(tensors, source) if "pos_embed" in tensors and "blocks.0.ls1.gamma" not in tensors else None


def _shape(tensors: dict[str, Tensor], gate: str) -> tuple[int, int, bool]:
    depth = 1 + max(int(key.split(".")[1]) for key in tensors if key.startswith("blocks."))
    return tensors["cls_token"].shape[-1], depth, f"blocks.0.mlp.{gate}.weight" in tensors


def _heads(width: int, source: str) -> int:
    if width % 64:
        raise InputError(f"{source} has width {width}, not a multiple of the family's 64 channels a head")
    return width // 64


def _custom(tensors: dict[str, Tensor], heads: int) -> dict[str, Any]:
    """Arguments of a model of no published size."""
    width, depth, _ = _shape(tensors, "")
    first = next((name for name in ("w12", "w1") if f"blocks.0.mlp.{name}.weight" in tensors), "fc1")
    hidden = tensors[f"blocks.0.mlp.{first}.weight"].shape[0]
    patch = tensors["patch_embed.proj.weight"].shape[-1]
    # half a unit more, so that timm's int(width × ratio) cannot fall below
    ratio = (hidden + 0.5) / width
    return {"embed_dim": width, "depth": depth, "num_heads": heads, "patch_size": patch, "mlp_ratio": ratio}


def _image_size(tensors: dict[str, Tensor], source: str) -> int:
    """Side in pixels of the images whose grid the learned positions fill."""
    side = round((tensors["pos_embed"].shape[1] - 1) ** 0.5)
    if side * side + 1 != tensors["pos_embed"].shape[1]:
        raise InputError(
            f"{source} has {tensors['pos_embed'].shape[1]} positions, not one class token and a square grid"
        )
    return side * int(tensors["patch_embed.proj.weight"].shape[-1])


def _dino(tensors: dict[str, Tensor], source: str) -> Converted:
    shape = _shape(tensors, "w12")
    patch, size = tensors["patch_embed.proj.weight"].shape[-1], DINO_SIZES.get(shape)
    image = _image_size(tensors, source)
    if size and patch in (8, 16):
        name, args = f"vit_{size}_patch{patch}_224", {} if image == 224 else {"img_size": image}
    else:
        name, args = "vit_small_patch16_224", _custom(tensors, _heads(shape[0], source)) | {"img_size": image}
    return Converted("dino", name, dict(tensors), args)


def _dinov2(tensors: dict[str, Tensor], source: str) -> Converted:
    shape = _shape(tensors, "w12")
    registers = tensors["register_tokens"].shape[1] if "register_tokens" in tensors else 0
    size = DINOV2_SIZES.get(shape)
    patch, image = tensors["patch_embed.proj.weight"].shape[-1], _image_size(tensors, source)
    suffix = "_reg4" if registers else ""
    args: dict[str, Any] = {}
    if not (size and patch == 14 and registers in (0, 4)):
        args = _custom(tensors, _heads(shape[0], source)) | ({"reg_tokens": registers} if registers else {})
        size = "giant" if shape[2] else "small"  # giant is timm's name of the packed SwiGLU
    if args or image != 518:
        args["img_size"] = image
    out = {}
    for key, value in tensors.items():
        if key not in UNUSED:
            out[key.replace("mlp.w12.", "mlp.fc1.").replace("mlp.w3.", "mlp.fc2.")] = value
    if registers:
        # the class token's position is a constant, and registers have none: timm keeps positions of patches only
        out["reg_token"] = out.pop("register_tokens")
        out["cls_token"] = out["cls_token"] + out["pos_embed"][:, :1]
        out["pos_embed"] = out["pos_embed"][:, 1:]
    return Converted("dinov2", f"vit_{size}_patch14{suffix}_dinov2", out, args)


def _dinov3(tensors: dict[str, Tensor], source: str) -> Converted:
    shape = _shape(tensors, "w1")
    out: dict[str, Tensor] = {}
    # what DINOv3's attention really adds: where the mask is 0 the stored value, which may be anything, is never used
    biases = {
        key: value.masked_fill(tensors[f"{key}_mask"] == 0, 0) if f"{key}_mask" in tensors else value
        for key, value in tensors.items()
        if key.endswith("attn.qkv.bias")
    }
    key_bias = any(bool(bias.chunk(3)[1].any()) for bias in biases.values())
    # trained with mask_k_bias off: only timm's other attention has a place for the keys' bias
    args: dict[str, Any] = {"attn_type": "rope"} if key_bias else {}
    for key, value in tensors.items():
        if key in UNUSED or key.endswith(".bias_mask"):
            continue
        if key in biases and not key_bias:
            stem, (query, _, content) = key.removesuffix("qkv.bias"), biases[key].chunk(3)
            out |= {f"{stem}q_bias": query, f"{stem}v_bias": content}
            continue
        name = key
        for old, new in _DINOV3_NAMES.items():
            name = re.sub(old, new, name)
        out[name] = biases.get(key, value)
    registers = tensors["storage_tokens"].shape[1] if "storage_tokens" in tensors else 0
    size, patch = DINOV3_SIZES.get(shape), tensors["patch_embed.proj.weight"].shape[-1]
    if not (size and (patch, registers) == (16, 4)) or (size == "7b" and biases):
        periods = out.get("rope.periods")
        heads = shape[0] // (4 * len(periods)) if periods is not None else _heads(shape[0], source)
        args |= _custom(tensors, heads) | {"num_reg_tokens": registers}
        size = "small_plus" if shape[2] else "small"
        if shape[2]:
            args["swiglu_align_to"] = 1  # the hidden width is given exactly
    return Converted("dinov3", f"vit_{size}_patch16_dinov3{'_qkvb' if biases else ''}", out, args)


_DINOV3_NAMES = {
    r"\.ls1\.gamma$": ".gamma_1",
    r"\.ls2\.gamma$": ".gamma_2",
    r"^storage_tokens$": "reg_token",
    r"^rope_embed\.periods$": "rope.periods",
    r"\.mlp\.w1\.": ".mlp.fc1_g.",
    r"\.mlp\.w2\.": ".mlp.fc1_x.",
    r"\.mlp\.w3\.": ".mlp.fc2.",
    r"^cls_norm\.": "norm.prefix.",
}


def _convnext(tensors: dict[str, Tensor], source: str) -> Converted:
    depths = tuple(
        1 + max(int(key.split(".")[2]) for key in tensors if key.startswith(f"stages.{stage}.")) for stage in range(4)
    )
    dims = tuple(int(tensors[f"stages.{stage}.0.gamma"].shape[0]) for stage in range(4))
    size = CONVNEXT_SIZES.get((depths, dims[0]))
    args = {} if size else {"depths": depths, "dims": dims}
    out = {}
    for key, value in tensors.items():
        if key.startswith("norms."):  # a list that repeats the final norm at its last place
            final = tensors.get("norm." + key.split(".")[-1])
            if final is None or not torch.equal(final, value):
                raise InputError(f"{source} has no place for {key}: it differs from the final norm")
            continue
        key = re.sub(r"^downsample_layers\.0\.", "stem.", key)
        key = re.sub(r"^downsample_layers\.(\d)\.", r"stages.\1.downsample.", key)
        key = re.sub(r"^stages\.(\d)\.(\d+)\.", r"stages.\1.blocks.\2.", key)
        key = key.replace(".dwconv.", ".conv_dw.").replace(".pwconv1.", ".mlp.fc1.").replace(".pwconv2.", ".mlp.fc2.")
        out[re.sub(r"^norm\.", "head.norm.", key)] = value
    return Converted(
        "dinov3-convnext", f"convnext_{size or 'tiny'}", {k: v for k, v in out.items() if k not in UNUSED}, args
    )
