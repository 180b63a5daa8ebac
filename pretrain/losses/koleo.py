"""KoLeo: CLS tokens are pushed away from their nearest neighbours."""

import torch
import torch.nn.functional as F
from torch import Tensor

from pretrain.ranks import ALONE, Ranks

_EPS = 1e-8


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
    distance = torch.linalg.vector_norm(groups - neighbours + _EPS, dim=-1)
    if total is None:
        total = counted.sum().clamp(min=1)
    return -(torch.log(distance + _EPS) * counted).sum() / total


def neighboured(keep: Tensor, group: int | None = None) -> Tensor:
    """Number of samples of ``keep [B, ...]`` that have a kept neighbour in their group, float32 ``[...]``."""
    counts = keep.float().reshape(-1, group or len(keep), *keep.shape[1:]).sum(1)
    return torch.where(counts > 1, counts, 0).sum(0)
