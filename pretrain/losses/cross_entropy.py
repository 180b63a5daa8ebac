"""DINO and iBOT: cross-entropies between the prototypes that the teacher chooses and the student's."""

from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Numbers in a few rows of logits that are turned over at a time: 2 MB of float32.
_CACHED = 2**19


def cross_entropies(targets: Tensor, logits: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of each row.

    Args:
        targets: ``[N, K]`` float32 distributions (constants).
        logits: ``[N, K]`` of the student, any float dtype.
        temperature: Student temperature, > 0.

    Returns:
        ``[N]`` in nats and in the targets' dtype, computed a few rows at a time: nothing of the arguments' size is ever
        in memory but the gradient, in the logits' dtype.
    """
    return cast(Tensor, _CrossEntropies.apply(targets, logits, temperature))


class _CrossEntropies(torch.autograd.Function):
    """:func:`cross_entropies`, whose gradient is (softmax(logits / T) * sum(targets) - targets) / T a row."""

    @staticmethod
    def forward(ctx: Any, targets: Tensor, logits: Tensor, temperature: float) -> Tensor:
        masses = targets.sum(-1)
        logs, products = torch.empty_like(masses), torch.empty_like(masses)
        for at, scaled in _scaled(logits, temperature, targets.dtype):
            products[at] = torch.linalg.vecdot(targets[at], scaled)
            top = scaled.amax(-1, keepdim=True)
            logs[at] = scaled.sub_(top).exp_().sum(-1).log_().add_(top[:, 0])
        ctx.save_for_backward(targets, logits, logs, masses)
        ctx.temperature = temperature
        return logs * masses - products

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor, None]:
        targets, logits, logs, masses = ctx.saved_tensors
        factors = gradients[0] / ctx.temperature
        result = torch.empty_like(logits)
        for at, scaled in _scaled(logits, ctx.temperature, targets.dtype):
            chosen = scaled.sub_(logs[at, None]).exp_().mul_(masses[at, None])
            result[at] = chosen.sub_(targets[at]).mul_(factors[at, None])
        return None, result, None


def _scaled(logits: Tensor, temperature: float, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
    """Logits over the temperature, a few rows at a time, all in one piece of memory."""
    memory: Tensor | None = None
    for at in row_slices(logits):
        rows = logits[at]
        memory = torch.empty_like(rows, dtype=dtype) if memory is None else memory[: len(rows)]
        yield at, memory.copy_(rows).div_(temperature)


def row_slices(matrix: Tensor) -> Iterator[slice]:
    """Rows of ``[N, K]``, so many at a time that what is made of them stays in a processor's cache."""
    rows = max(1, (_CACHED if matrix.device.type == "cpu" else 64 * _CACHED) // max(1, matrix.shape[1]))
    return (slice(start, start + rows) for start in range(0, len(matrix), rows))


def dino_loss(
    targets: Tensor,
    logits: Tensor,
    temperature: float,
    *,
    ignore_diagonal: bool = False,
    target_weights: Tensor | None = None,
    weights: Tensor | None = None,
    total: Tensor | float | None = None,
) -> Tensor:
    """Cross-entropy between every teacher crop and every student crop of the same image.

    Args:
        targets: ``[T, B, K]`` float32 distributions of T teacher crops.
        logits: ``[S, B, K]`` logits of S student crops.
        temperature: Student temperature.
        ignore_diagonal: Leave out pairs of the same crop (t = s): the student would compare a view with itself.
        target_weights: ``[T, B]`` weight of each teacher crop (0 where it shows no valid ground); 1 by default.
        weights: ``[S, B]`` weight of each student crop; 1 by default.
        total: What to divide by, when this is a part of a larger batch; by default :func:`pair_weight`.

    Returns:
        Scalar: the weighted mean over pairs and images.

    Raises:
        ValueError: If the diagonal is ignored and nothing is left.
    """
    crops, batch, _ = logits.shape
    if ignore_diagonal and len(targets) < 2:
        raise ValueError("without the diagonal at least two teacher crops are needed")
    if total is None:
        total = pair_weight(len(targets), crops, batch, ignore_diagonal, target_weights, weights)
    weighted = targets if target_weights is None else targets * target_weights[..., None]
    everyone = weighted.sum(0)
    losses = torch.stack(
        [
            cross_entropies(
                everyone - weighted[crop] if ignore_diagonal and crop < len(targets) else everyone, scores, temperature
            )
            for crop, scores in enumerate(logits)
        ]
    )
    if weights is not None:
        losses = losses * weights
    return losses.sum() / total


def pair_weight(
    teachers: int,
    crops: int,
    batch: int,
    ignore_diagonal: bool,
    target_weights: Tensor | None = None,
    weights: Tensor | None = None,
) -> Tensor | float:
    """Summed weight of the pairs of :func:`dino_loss`, at least a millionth so that an empty batch gives 0."""
    diagonal = min(crops, teachers) if ignore_diagonal else 0
    if target_weights is None and weights is None:
        return float(batch * (crops * teachers - diagonal))
    given = target_weights if target_weights is not None else weights
    ones = torch.ones(max(teachers, crops), batch, device=given.device if given is not None else None)
    of_targets = ones[:teachers] if target_weights is None else target_weights.float()
    of_crops = ones[:crops] if weights is None else weights.float()
    everything = (of_targets.sum(0) * of_crops.sum(0)).sum()
    return (everything - (of_targets[:diagonal] * of_crops[:diagonal]).sum()).clamp(min=1e-6)


def ibot_loss(targets: Tensor, logits: Tensor, temperature: float, weights: Tensor, images: int) -> Tensor:
    """Cross-entropy at the masked patches, averaged within each image and then over all images.

    Args:
        targets: ``[M, K]`` float32 teacher distributions at the M masked patches of the batch.
        logits: ``[M, K]`` student logits there.
        temperature: Student temperature.
        weights: ``[M]`` 1 / (number of masked patches of the patch's image).
        images: Number of crops in the batch, those without a mask included: they count as zero.

    Returns:
        Scalar; 0 when nothing is masked.
    """
    return (cross_entropies(targets, logits, temperature) * weights).sum() / images
