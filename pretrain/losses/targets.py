"""Teacher logits become targets: balanced over prototypes by Sinkhorn-Knopp, or centred and sharpened."""

import torch
from torch import Tensor

from pretrain.losses.cross_entropy import row_slices
from pretrain.ranks import ALONE, Ranks

# exp(-60) beside the largest entry is nothing in float32, and its inverse still is a number.
_SMALLEST_LOG = -60.0


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
    for rows_at in row_slices(matrix):
        matrix[rows_at].copy_(logits[rows_at]).sub_(top).div_(temperature).clamp_(min=_SMALLEST_LOG).exp_()
    samples = ranks.sum(matrix.new_tensor(float(len(matrix))))
    rows = matrix.new_ones(len(matrix))
    columns = matrix.new_ones(matrix.shape[1])
    for _ in range(iterations):
        columns = samples / (matrix.shape[1] * ranks.sum(matrix.T @ rows))
        rows = 1 / (matrix @ columns)
    for rows_at in row_slices(matrix):
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
    for at in row_slices(result):
        result[at] = logits[at].to(torch.float32, copy=True).sub_(center).div_(temperature).softmax(-1)
    return result


@torch.no_grad()
def updated_center(center: Tensor, logits: Tensor, momentum: float, ranks: Ranks = ALONE) -> Tensor:
    """Move the centre ``[K]`` towards the mean of the batch's teacher logits ``[N, K]`` of all ranks."""
    total = ranks.sum(logits.sum(0, dtype=torch.float32))
    count = ranks.sum(total.new_tensor(float(len(logits)))).clamp(min=1)
    return torch.lerp(total / count, center, momentum)
