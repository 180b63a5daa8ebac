"""Gram anchoring: similarities between patches are held to those of another teacher."""

import torch.nn.functional as F
from torch import Tensor


def gram_loss(
    student: Tensor,
    teacher: Tensor,
    *,
    keep: Tensor | None = None,
    remove_neg: bool = False,
    remove_only_teacher_neg: bool = False,
    total: Tensor | float | None = None,
) -> Tensor:
    """Mean squared difference of the patch similarities of student and Gram teacher, image by image.

    Args:
        student: ``[B, P, D]`` final-norm patch tokens of the global crops.
        teacher: ``[B, P, D']`` tokens of the Gram teacher on the same grid (see
            :func:`~pretrain.network.encode.downsampled_tokens`).
        keep: ``[B, P]`` bool, tokens that take part (masked, unmasked, valid ones); all by default.
        remove_neg: Set negative similarities to zero on both sides.
        remove_only_teacher_neg: Set the teacher's negative similarities to zero, and the student's where both are
            negative, so that a pair both call unlike costs nothing.
        total: Number of pairs to divide by, when this is a part of a larger batch.

    Returns:
        Scalar: the mean over all pairs of kept tokens.

    Raises:
        ValueError: If both ways of removing negatives are asked for.
    """
    if remove_neg and remove_only_teacher_neg:
        raise ValueError("remove_neg and remove_only_teacher_neg exclude each other")
    student, teacher = F.normalize(student.float(), dim=-1), F.normalize(teacher.detach().float(), dim=-1)
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
