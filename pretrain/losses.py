"""The losses of the DINO family, as functions of arrays.

Which loss pulls which way:

- **DINO cross-entropy** makes the CLS tokens of two views of one place choose the same prototypes;
- **iBOT** makes the student name, at a patch it cannot see, the prototypes that the teacher chooses there;
- **KoLeo** pushes every CLS token away from its nearest neighbour, so that the batch fills the sphere;
- **Gram anchoring** holds the pairwise similarities of the patches to those of a better teacher.

The teacher's logits become targets by :func:`sinkhorn_knopp` (balanced over prototypes) or by :func:`softmax_center`.
Wherever a statistic of the whole batch enters, a :class:`Ranks` says how to sum it over processes, so that a batch
cut over ranks gives the numbers of the uncut one.

Sources: Caron et al. 2021 (DINO), Zhou et al. 2022 (iBOT), Sablayrolles et al. 2019 (KoLeo), Caron et al. 2020
(Sinkhorn-Knopp on prototypes), Oquab et al. 2023 (DINOv2), Siméoni et al. 2025 (DINOv3, Gram anchoring).
"""

from collections.abc import Iterator
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from pretrain.engine.ranks import ALONE, Ranks

# exp(-60) beside the largest entry is nothing in float32, and its inverse still is a number.
_SMALLEST_LOG = -60.0
_KOLEO_EPS = 1e-8
# Numbers in a few rows of logits that are turned over at a time: 2 MB of float32.
_CACHED = 2**19


@torch.no_grad()
def sinkhorn_knopp(logits: Tensor, temperature: float, iterations: int = 3, ranks: Ranks = ALONE) -> Tensor:
    """Turn teacher logits into targets that use all prototypes equally.

    The matrix exp(logits / temperature) is scaled by one factor a row and one a column, alternately, towards rows that
    sum to 1 and columns that sum to N / K. Only the factors are updated, so an iteration reads the matrix twice and
    writes nothing. Adding a constant to all logits changes nothing.

    Args:
        logits: ``[N, K]`` N samples on this rank (N may differ between ranks), K prototypes, any float dtype.
        temperature: Teacher temperature, > 0.
        iterations: Number of alternations; the family uses 3.
        ranks: Processes that share the batch.

    Returns:
        ``[N, K]`` float32, each row a distribution.
    """
    top = logits.max().float() if logits.numel() else logits.new_tensor(-torch.inf, dtype=torch.float32)
    top = ranks.max(top)
    matrix = torch.empty_like(logits, dtype=torch.float32)
    for rows_at in _slices(matrix):
        matrix[rows_at].copy_(logits[rows_at]).sub_(top).div_(temperature).clamp_(min=_SMALLEST_LOG).exp_()
    samples = ranks.sum(matrix.new_tensor(float(len(matrix))))
    rows = matrix.new_ones(len(matrix))
    columns = matrix.new_ones(matrix.shape[1])
    for _ in range(iterations):
        columns = samples / (matrix.shape[1] * ranks.sum(matrix.T @ rows))
        rows = 1 / (matrix @ columns)
    for rows_at in _slices(matrix):
        matrix[rows_at].mul_(columns).mul_(rows[rows_at, None])
    return matrix


@torch.no_grad()
def softmax_center(logits: Tensor, center: Tensor, temperature: float) -> Tensor:
    """Turn teacher logits into targets by centring and sharpening (DINO, section 3.1).

    Args:
        logits: ``[N, K]`` of any float dtype.
        center: ``[K]`` float32, the running mean of the logits.
        temperature: Teacher temperature, > 0.

    Returns:
        ``[N, K]`` float32, each row a distribution.
    """
    result = torch.empty_like(logits, dtype=torch.float32)
    for at in _slices(result):
        result[at] = logits[at].to(torch.float32, copy=True).sub_(center).div_(temperature).softmax(-1)
    return result


@torch.no_grad()
def updated_center(center: Tensor, logits: Tensor, momentum: float, ranks: Ranks = ALONE) -> Tensor:
    """Move the centre ``[K]`` towards the mean of the batch's teacher logits ``[N, K]`` of all ranks."""
    total = ranks.sum(logits.sum(0, dtype=torch.float32))
    count = ranks.sum(total.new_tensor(float(len(logits)))).clamp(min=1)
    return torch.lerp(total / count, center, momentum)


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
    for at in _slices(logits):
        rows = logits[at]
        memory = torch.empty_like(rows, dtype=dtype) if memory is None else memory[: len(rows)]
        yield at, memory.copy_(rows).div_(temperature)


def _slices(matrix: Tensor) -> Iterator[slice]:
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


def koleo_loss(
    features: Tensor,
    group: int | None = None,
    ranks: Ranks = ALONE,
    *,
    keep: Tensor | None = None,
    total: Tensor | float | None = None,
) -> Tensor:
    """Kozachenko-Leonenko regulariser: minus the mean log distance to the nearest neighbour.

    Args:
        features: ``[B, D]`` CLS tokens of one crop on this rank, before the head; normalised here.
        group: Neighbours are searched among that many consecutive samples of the whole batch (rank after rank);
            None searches the whole batch of all ranks.
        ranks: Processes that share the batch.
        keep: ``[B]`` bool, samples that take part; the others are nobody's neighbour. All by default.
        total: Number of samples to divide by, when this is a part of a larger batch; see :func:`neighboured`.

    Returns:
        Scalar, to be averaged over ranks; 0 when no sample has a neighbour.

    Raises:
        ValueError: If the batch is no multiple of the group.
    """
    everything = F.normalize(ranks.gather(features.float()), dim=-1)
    size = group or len(everything)
    if len(everything) % size:
        raise ValueError(f"{len(everything)} samples do not make groups of {size}")
    groups = everything.view(-1, size, everything.shape[-1])
    with torch.no_grad():
        similarity = groups @ groups.mT
        similarity.diagonal(dim1=-2, dim2=-1).fill_(-2)
        if keep is not None:
            kept = ranks.gather(keep.float()).view(-1, size) > 0
            similarity.masked_fill_(~(kept[:, :, None] & kept[:, None, :]), -2)
        closest, nearest = similarity.max(-1)
        counted = (closest > -2).float()
    neighbours = torch.gather(groups, 1, nearest[..., None].expand_as(groups))
    # The small shift keeps the gradient of the norm finite for two identical samples.
    distance = torch.linalg.vector_norm(groups - neighbours + _KOLEO_EPS, dim=-1)
    if total is None:
        total = counted.sum().clamp(min=1)
    return -(torch.log(distance + _KOLEO_EPS) * counted).sum() / total


def neighboured(keep: Tensor, group: int | None = None) -> Tensor:
    """Number of samples of ``keep [B, ...]`` that have a kept neighbour in their group, float32 ``[...]``."""
    counts = keep.float().reshape(-1, group or len(keep), *keep.shape[1:]).sum(1)
    return torch.where(counts > 1, counts, 0).sum(0)


def gram_loss(
    student: Tensor,
    teacher: Tensor,
    *,
    keep: Tensor | None = None,
    remove_neg: bool = False,
    remove_only_teacher_neg: bool = False,
    normalized: bool = True,
    total: Tensor | float | None = None,
) -> Tensor:
    """Mean squared difference of the patch similarities of student and Gram teacher, image by image.

    Args:
        student: ``[B, P, D]`` final-norm patch tokens of the global crops.
        teacher: ``[B, P, D']`` tokens of the Gram teacher on the same grid (see :func:`downsampled_tokens`).
        keep: ``[B, P]`` bool, tokens that take part (masked, unmasked, valid ones); all by default.
        remove_neg: Set negative similarities to zero on both sides.
        remove_only_teacher_neg: Set the teacher's negative similarities to zero, and the student's where both are
            negative, so that a pair both call unlike costs nothing.
        normalized: Compare cosines rather than products.
        total: Number of pairs to divide by, when this is a part of a larger batch.

    Returns:
        Scalar: the mean over all pairs of kept tokens.

    Raises:
        ValueError: If both ways of removing negatives are asked for.
    """
    if remove_neg and remove_only_teacher_neg:
        raise ValueError("remove_neg and remove_only_teacher_neg exclude each other")
    student, teacher = student.float(), teacher.detach().float()
    if normalized:
        student, teacher = F.normalize(student, dim=-1), F.normalize(teacher, dim=-1)
    similarity, target = student @ student.mT, teacher @ teacher.mT
    if remove_neg:
        similarity, target = similarity.clamp(min=0), target.clamp(min=0)
    elif remove_only_teacher_neg:
        negative = target < 0  # taken before the teacher's side is cleared
        similarity = similarity.masked_fill(negative & (similarity < 0), 0)
        target = target.masked_fill(negative, 0)
    squared = (similarity - target).square()
    if keep is not None:
        squared = squared * (keep[:, :, None] & keep[:, None, :])
    if total is None:
        total = squared.numel() if keep is None else kept_pairs(keep).clamp(min=1)
    return squared.sum() / total


def kept_pairs(keep: Tensor) -> Tensor:
    """Number of pairs of kept tokens of ``keep [B, P]`` within each image, summed, float32."""
    return keep.sum(-1).float().square().sum()


def downsampled_tokens(tokens: Tensor, grid: tuple[int, int], target: tuple[int, int]) -> Tensor:
    """Bring patch tokens ``[B, h*w, D]`` of a higher-resolution teacher to the student's grid, bicubically.

    Args:
        tokens: ``[B, h*w, D]`` row-major tokens.
        grid: Their (h, w).
        target: The student's (h, w).

    Returns:
        ``[B, target_h*target_w, D]`` float32, or the tokens themselves when the grids agree.
    """
    if grid == target:
        return tokens
    maps = tokens.float().mT.reshape(len(tokens), -1, *grid)
    return F.interpolate(maps, size=target, mode="bicubic", align_corners=False, antialias=False).flatten(2).mT
