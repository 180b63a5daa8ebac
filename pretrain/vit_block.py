"""A transformer block as training wants it: the same function as timm's, with fewer passes over the activations.

Three things differ from calling the block:

- LayerScale multiplies the last weights of a branch instead of its output: a product over a weight matrix in place of
  one over all tokens, forward and backward;
- on a processor, attention is two products and a softmax (PyTorch's flash kernel there spends 14 times its forward pass
  on the backward one at these short sequences, its MATH kernel guards each softmax by extra passes), and rotary
  coordinates are applied by one function with a written-out backward pass;
- stochastic depth leaves samples out of a branch instead of multiplying their result by zero (DINOv2), so the branch
  costs less by the same share.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, cast

import torch
import torch.nn.functional as F
from timm.layers import Mlp
from timm.models.eva import EvaAttention
from timm.models.vision_transformer import Attention
from torch import Tensor, nn


def run_block(block: nn.Module, tokens: Tensor, rope: Tensor | None, drop_path: float) -> Tensor:
    """Run one pre-norm block of a timm ``Eva`` or ``VisionTransformer``.

    Args:
        block: The block.
        tokens: ``[B, N, D]``.
        rope: ``[P, 2*d]`` sine and cosine of the patch tokens, or None.
        drop_path: Share of samples that skip each branch; 0 outside training.

    Returns:
        ``[B, N, D]``.
    """
    tokens = _residual(tokens, drop_path, lambda part: _attention_branch(block, part, rope))
    return _residual(tokens, drop_path, lambda part: _mlp_branch(block, part))


@cache
def compiled_block() -> Callable[[nn.Module, Tensor, Tensor | None, float], Tensor]:
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
        return cast(Tensor, linear(value))
    bias = None if linear.bias is None else linear.bias * gamma
    return F.linear(value, linear.weight * gamma[:, None], bias)


def _mlp_branch(block: Any, tokens: Tensor) -> Tensor:
    gamma, mlp, value = _gamma(block, 2), block.mlp, block.norm2(tokens)
    if type(mlp) is Mlp and isinstance(mlp.norm, nn.Identity):
        return _scaled_linear(mlp.fc2, gamma, mlp.act(mlp.fc1(value)))
    result = mlp(value)
    return cast(Tensor, result if gamma is None else result * gamma)


def _attention_branch(block: Any, tokens: Tensor, rope: Tensor | None) -> Tensor:
    gamma, attention, value = _gamma(block, 1), block.attn, block.norm1(tokens)
    if tokens.device.type == "cpu" and _is_plain_attention(attention, rope):
        return _scaled_linear(attention.proj, gamma, _attend(attention, value, rope))
    result = attention(value) if rope is None else attention(value, rope=rope)
    return cast(Tensor, result if gamma is None else result * gamma)


def _is_plain_attention(attention: Any, rope: Tensor | None) -> bool:
    return (
        type(attention) in (EvaAttention, Attention)
        and attention.qkv is not None
        and attention.gate is None
        and isinstance(attention.q_norm, nn.Identity)
        and isinstance(attention.norm, nn.Identity)
        and (rope is None or attention.rotate_half)
    )


def _attend(attention: Any, value: Tensor, rope: Tensor | None) -> Tensor:
    batch, length, _ = value.shape
    bias = attention.qkv.bias
    if getattr(attention, "q_bias", None) is not None:
        bias = torch.cat((attention.q_bias, attention.k_bias.to(attention.q_bias.dtype), attention.v_bias))
    joint = F.linear(value, attention.qkv.weight, bias)
    heads = attention.num_heads
    parts = joint.view(batch, length, 3, heads, -1)
    if rope is not None:
        parts = _Rotated.apply(parts, rope, attention.num_prefix_tokens)
    # One copy gives the three contiguous operands of the products.
    query, key, content = parts.permute(2, 0, 3, 1, 4).contiguous().flatten(1, 2).unbind(0)
    scores = torch.bmm(query * attention.scale, key.mT)
    mixed = torch.bmm(scores.softmax(-1), content)
    return mixed.view(batch, heads, length, -1).transpose(1, 2).reshape(batch, length, -1)


class _Rotated(torch.autograd.Function):
    """Rotary coordinates on query and key of ``[B, N, 3, H, d]``; rotating back is the gradient."""

    @staticmethod
    def forward(ctx: Any, parts: Tensor, rope: Tensor, prefix: int) -> Tensor:
        ctx.save_for_backward(rope)
        ctx.prefix = prefix
        ctx.mark_dirty(parts)
        _rotate(parts, rope, prefix, 1.0)
        return parts

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (rope,) = ctx.saved_tensors
        result = gradients[0].clone()
        _rotate(result, rope, ctx.prefix, -1.0)
        return result, None, None


def _rotate(parts: Tensor, rope: Tensor, prefix: int, direction: float) -> None:
    """Rotate the patches' query and key in place by the angles of ``rope [P, 2*d]`` (half layout)."""
    width = parts.shape[-1]
    patches = parts[:, prefix:, :2]
    sine = (rope[:, None, None, :width] * direction).contiguous()
    cosine = rope[:, None, None, width:]
    turned = torch.cat([-patches[..., width // 2 :], patches[..., : width // 2]], -1)
    patches.mul_(cosine).addcmul_(turned, sine)
