"""What a token looks at: attention weights, which fused kernels never hold."""

from typing import Any

import torch
from torch import Tensor

from geodino.backbones.backbone import Backbone
from tiles.errors import InputError


def blocks_of(backbone: Backbone) -> Any:
    """The blocks of a vision transformer.

    Raises:
        InputError: When the backbone has no attention.
    """
    blocks = getattr(backbone.module, "blocks", None)
    if blocks is None or not hasattr(blocks[-1], "attn"):
        raise InputError(f"{backbone.name} has no attention to draw: it is no vision transformer")
    return blocks


@torch.inference_mode()
def attention_maps(backbone: Backbone, x: Tensor, *, block: int = -1, token: int = 0) -> Tensor:
    """Attention of a token to the patches in a block, a map a head (DINO, section 4.2.2).

    The block computes without its fused kernel this once. (timm's ``AttentionExtract`` has no way to take its hooks out
    of the model again.) Register and class columns are dropped, so a map may sum to less than 1.

    Args:
        backbone: A ViT.
        x: As for ``Backbone.encode``, ``[B, C, H, W]``.
        block: Number of the block; negative ones count from the end.
        token: Number of the token, prefix tokens first: 0 is the class token.

    Returns:
        ``[B, heads, H/p, W/p]`` float32, each value the weight of one patch.

    Raises:
        InputError: When the backbone has no attention.
    """
    attention, weights = blocks_of(backbone)[block].attn, []
    fused, attention.fused_attn = attention.fused_attn, False
    hook = attention.attn_drop.register_forward_pre_hook(lambda _, args: weights.append(args[0]))
    try:
        backbone.encode(x)
    finally:
        hook.remove()
        attention.fused_attn = fused
    rows = weights[0][:, :, token, backbone.prefix_tokens :].float()  # [B, heads, N]
    return rows.reshape(*rows.shape[:2], x.shape[-2] // backbone.patch_size, x.shape[-1] // backbone.patch_size)
