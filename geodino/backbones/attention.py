"""Who looks at whom: the attention weights of a block, which fused kernels never hold."""

from typing import Any

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


def attention_weights(backbone: Backbone, x: Tensor, block: int) -> Tensor:
    """Attention of every token to every token, a map a head.

    The block computes without its fused kernel this once. (timm's ``AttentionExtract`` has no way to take its hooks out
    of the model again.)

    Args:
        backbone: A ViT.
        x: As for ``Backbone.encode``, ``[B, C, H, W]``.
        block: Number of the block; negative ones count from the end.

    Returns:
        ``[B, heads, N, N]`` float32, rows of sum 1, prefix tokens first.

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
    return weights[0].float()
