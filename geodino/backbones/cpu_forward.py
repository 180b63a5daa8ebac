"""A vision transformer on a processor: the same function as timm's, with fewer passes over the activations.

Four things differ from calling the block:

- LayerScale multiplies the last weights of a branch instead of its output, where they are fewer: a product over a
  matrix of weights in place of one over all tokens, forward and backward;
- on a processor, attention is two products and a softmax (PyTorch's flash kernel there spends 14 times its forward pass
  on the backward one at these short sequences, its MATH kernel guards each softmax by extra passes);
- on a processor, rotary coordinates have rows for prefix tokens too, so that a query is rotated whole, and where blocks
  are compiled the loops that write their copies do it on the way;
- stochastic depth leaves samples out of a branch instead of multiplying their result by zero (DINOv2), so the branch
  costs less by the same share.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from timm.layers import Format, Mlp, PatchEmbed
from timm.models.eva import EvaAttention
from timm.models.vision_transformer import Attention
from torch import Tensor, nn

# Beyond so many tokens the processor's flash attention is faster than plain products, without a backward pass.
_LONG_SEQUENCE = 192


class Rotary(NamedTuple):
    """Rotary coordinates of a grid of patches.

    Attributes:
        rope: ``[P, 2*d]`` as timm's blocks take it: sine and cosine of the patches, half layout.
        sine: ``[N, d]`` of all tokens, its first half negative; 0 at prefix tokens, which are not rotated.
        cosine: ``[N, d]``; 1 at prefix tokens.
    """

    rope: Tensor
    sine: Tensor
    cosine: Tensor

    @classmethod
    def of(cls, rope: Tensor, prefix: int) -> "Rotary":
        """Of timm's angles of the patches, behind so many prefix tokens."""
        sine, cosine = rope.chunk(2, dim=-1)
        half = sine.shape[-1] // 2
        signed = torch.cat([-sine[:, :half], sine[:, half:]], dim=-1)
        return cls(rope, F.pad(signed, (0, 0, prefix, 0)), F.pad(cosine, (0, 0, prefix, 0), value=1.0))


def embed_patches(patch_embed: PatchEmbed, pixels: Tensor) -> Tensor:
    """Embed the patches of ``[B, C, S, S]``; on a processor by one product of matrices in place of a convolution.

    Returns:
        What the module itself gives: ``[B, S/p, S/p, D]`` in the models of the DINO family.
    """
    projection = patch_embed.proj
    plain = patch_embed.output_fmt is Format.NHWC and projection.kernel_size == projection.stride
    if pixels.device.type != "cpu" or not plain or patch_embed.dynamic_img_pad:
        return cast(Tensor, patch_embed(pixels))
    down, across = projection.kernel_size
    batch, bands, height, width = pixels.shape
    pieces = pixels.reshape(batch, bands, height // down, down, width // across, across)
    rows = pieces.permute(0, 2, 4, 1, 3, 5).flatten(3)
    return cast(Tensor, patch_embed.norm(F.linear(rows, projection.weight.flatten(1), projection.bias)))


def position(module: Any, embedded: Tensor) -> tuple[Tensor, Rotary | None]:
    """Tokens ``[B, P + N, D]`` of embedded patches ``[B, h, w, D]``, prefix tokens first, and their coordinates."""
    positioned = module._pos_embed(embedded)
    tokens, rope = positioned if isinstance(positioned, tuple) else (positioned, None)
    tokens = module.norm_pre(tokens)
    return tokens, None if rope is None else Rotary.of(rope.to(tokens.dtype), int(module.num_prefix_tokens))


def forward_features(module: Any, pixels: Tensor) -> Tensor:
    """What a timm model's ``forward_features`` gives, in evaluation mode.

    Args:
        module: Any model; one that is no plain ViT, that is elsewhere than on a processor, or that something has hooks
            on (sharding, pictures of attention) runs as it is.
        pixels: ``[B, C, H, W]`` standardised, whole patches, in the model's dtype.

    Returns:
        ``[B, P + N, D]`` of a ViT, ``[B, D, h, w]`` of a ConvNeXt.
    """
    blocks = getattr(module, "blocks", ())
    known = blocks and all(is_plain(block) for block in blocks) and not getattr(module, "rope_mixed", False)
    hooked = any(part._forward_pre_hooks or part._forward_hooks for part in module.modules())
    if pixels.device.type != "cpu" or not known or hooked:
        return cast(Tensor, module.forward_features(pixels))
    tokens, rotary = position(module, embed_patches(module.patch_embed, pixels))
    for block in blocks:
        tokens = run_block(block, tokens, rotary, 0.0, flash=tokens.shape[1] > _LONG_SEQUENCE)
    return cast(Tensor, module.norm(tokens))


def run_block(
    block: nn.Module, tokens: Tensor, rotary: Rotary | None, drop_path: float, *, flash: bool = False
) -> Tensor:
    """Run one pre-norm block of a timm ``Eva`` or ``VisionTransformer``.

    Args:
        block: The block.
        tokens: ``[B, N, D]``.
        rotary: Of the tokens, or None.
        drop_path: Share of samples that skip each branch; 0 outside training.
        flash: Let PyTorch choose the attention kernel, also on a processor.

    Returns:
        ``[B, N, D]``.
    """
    tokens = _residual(tokens, drop_path, lambda part: _attention_branch(block, part, rotary, flash))
    return _residual(tokens, drop_path, lambda part: _mlp_branch(block, part))


@cache
def compiled_block() -> Callable[..., Tensor]:
    """:func:`run_block` compiled; blocks share their code, so one compilation serves all of one shape."""
    return torch.compile(run_block)


def is_plain(block: nn.Module) -> bool:
    """Whether :func:`run_block` knows how to run the block."""
    return all(hasattr(block, name) for name in ("norm1", "attn", "norm2", "mlp"))


def _residual(tokens: Tensor, drop_path: float, branch: Any) -> Tensor:
    if drop_path == 0:
        return cast(Tensor, tokens + branch(tokens))
    batch = len(tokens)
    kept = max(1, round(batch * (1 - drop_path)))
    chosen = torch.randperm(batch)[:kept].to(tokens.device)
    return tokens.index_add(0, chosen, branch(tokens[chosen]), alpha=batch / kept)


def _gamma(block: Any, number: int) -> Tensor | None:
    gamma = getattr(block, f"gamma_{number}", None)
    return gamma if gamma is not None else getattr(getattr(block, f"ls{number}", None), "gamma", None)


def _scaled_linear(linear: nn.Linear, gamma: Tensor | None, value: Tensor) -> Tensor:
    if gamma is None:
        return _linear(value, linear.weight, linear.bias)
    if linear.weight.numel() > value.numel():  # a large model and few tokens
        return _linear(value, linear.weight, linear.bias) * gamma
    bias = None if linear.bias is None else linear.bias * gamma
    return _linear(value, linear.weight * gamma[:, None], bias)


def _linear(value: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A linear layer; where it is compiled the bias is added by what comes next, not by a pass of its own."""
    if bias is None or not torch.compiler.is_compiling():
        return F.linear(value, weight, bias)
    return F.linear(value, weight) + bias


def _mlp_branch(block: Any, tokens: Tensor) -> Tensor:
    gamma, mlp, value = _gamma(block, 2), block.mlp, block.norm2(tokens)
    if type(mlp) is Mlp and isinstance(mlp.norm, nn.Identity):
        return _scaled_linear(mlp.fc2, gamma, mlp.act(_linear(value, mlp.fc1.weight, mlp.fc1.bias)))
    result = mlp(value)
    return cast(Tensor, result if gamma is None else result * gamma)


def _attention_branch(block: Any, tokens: Tensor, rotary: Rotary | None, flash: bool) -> Tensor:
    gamma, attention, value = _gamma(block, 1), block.attn, block.norm1(tokens)
    if tokens.device.type == "cpu" and _is_plain_attention(attention, rotary):
        return _scaled_linear(attention.proj, gamma, _attend(attention, value, rotary, flash))
    result = attention(value) if rotary is None else attention(value, rope=rotary.rope)
    return cast(Tensor, result if gamma is None else result * gamma)


def _is_plain_attention(attention: Any, rotary: Rotary | None) -> bool:
    return (
        type(attention) in (EvaAttention, Attention)
        and attention.qkv is not None
        and attention.gate is None
        and isinstance(attention.q_norm, nn.Identity)
        and isinstance(attention.norm, nn.Identity)
        and (rotary is None or attention.rotate_half)
    )


def _attend(attention: Any, value: Tensor, rotary: Rotary | None, flash: bool) -> Tensor:
    batch, length, _ = value.shape
    bias = attention.qkv.bias
    if getattr(attention, "q_bias", None) is not None:
        bias = torch.cat((attention.q_bias, attention.k_bias.to(attention.q_bias.dtype), attention.v_bias))
    joint = _linear(value, attention.qkv.weight, bias).view(batch, length, 3 * attention.num_heads, -1)
    query, key, content = joint.chunk(3, dim=2)
    if flash:  # reads heads strided, without copies
        if rotary is not None:
            query, key = _rotated(joint[:, :, : 2 * attention.num_heads], rotary).chunk(2, dim=2)
        query, key, content = (part.transpose(1, 2) for part in (query, key, content))
        mixed = F.scaled_dot_product_attention(query, key, content, scale=attention.scale)
        return mixed.transpose(1, 2).flatten(2)
    if rotary is not None:
        query, key = _rotated(query, rotary), _rotated(key, rotary)
    query, key, content = (part.transpose(1, 2).flatten(0, 1) for part in (query * attention.scale, key, content))
    mixed = torch.bmm(torch.bmm(query, key.mT).softmax(-1), content)
    return mixed.view(batch, attention.num_heads, length, -1).transpose(1, 2).flatten(2)


def _rotated(part: Tensor, rotary: Rotary) -> Tensor:
    """Rotate ``[B, N, H, d]``, queries or keys."""
    if torch.compiler.is_compiling():  # a concatenation would keep the loop it becomes part of from being vectorised
        swapped = part.reshape(*part.shape[:-1], 2, -1).flip(-2).flatten(-2)
    else:
        swapped = torch.cat(part.chunk(2, dim=-1)[::-1], dim=-1)
    return (part * rotary.cosine[:, None]).addcmul(swapped, rotary.sine[:, None])
