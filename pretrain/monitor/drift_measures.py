"""How dense features drift while the losses go down: a few numbers from the teacher's tokens on fixed tiles.

In long runs the CLS token leaks into the patches: their cosine to it rises and their similarity to each other stops
falling with distance, though the losses look well (DINOv3, arXiv 2508.10104, section 4.1). The other numbers tell a
collapse from slow progress: a healthy teacher has low entropy, many prototypes in use and CLS tokens apart.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import normalize


def cls_patch_cosine(cls: Tensor, patches: Tensor, valid: Tensor) -> float:
    """Mean cosine between each image's CLS token and its patches; rising means that patches lose their place.

    Args:
        cls: float [B, D].
        patches: float [B, P, D].
        valid: bool [B, P], tokens that show data.

    Returns:
        In [-1, 1]; nan without a valid token.
    """
    cosine = (normalize(patches.float(), dim=-1) @ normalize(cls.float(), dim=-1).unsqueeze(-1)).squeeze(-1)
    return float(cosine[valid].mean())


def similarity_by_distance(patches: Tensor, valid: Tensor) -> Tensor:
    """Mean cosine between two patches of one image as a function of their distance.

    Args:
        patches: float [B, h, w, D].
        valid: bool [B, h, w].

    Returns:
        float32 [R]; entry r is the mean over pairs whose Euclidean distance rounds to r tokens (entry 0 is 1), nan
        where no valid pair has this distance.
    """
    _, height, width, dim = patches.shape
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    place = torch.stack([rows.flatten(), columns.flatten()], 1).float()
    distance = torch.cdist(place, place).round().long().flatten().to(patches.device)  # [P * P]
    reach = int(distance.max()) + 1
    total = torch.zeros(reach, dtype=torch.float64, device=patches.device)
    count = torch.zeros_like(total)
    for tokens, seen in zip(patches.reshape(-1, height * width, dim), valid.flatten(1), strict=True):
        unit = normalize(tokens.float(), dim=-1)
        pair = (seen.unsqueeze(0) & seen.unsqueeze(1)).flatten().double()
        total += torch.bincount(distance, weights=(unit @ unit.T).flatten().double() * pair, minlength=reach)
        count += torch.bincount(distance, weights=pair, minlength=reach)
    return (total / count).float()


def far_similarity(similarity: Tensor, side: int) -> Tensor:
    """Mean of the cosines of :func:`similarity_by_distance` from half a side on; nan where there are none."""
    far = similarity[max(2, math.ceil(side / 2)) :]
    return far[~far.isnan()].mean()


def locality(similarity: Tensor, side: int) -> float:
    """How much more alike neighbours are than far patches.

    Args:
        similarity: float [R] of `similarity_by_distance`.
        side: Tokens along the shorter side of the grid.

    Returns:
        Mean cosine at one token minus the mean of the cosines from half a side on; about 0 when every patch says the
        same or when they are noise.
    """
    return float(similarity[1] - far_similarity(similarity, side)) if len(similarity) > 1 else math.nan


def teacher_entropy(targets: Tensor) -> float:
    """Mean entropy of the teacher's targets, relative to the uniform distribution.

    Args:
        targets: float [N, K], rows are distributions.

    Returns:
        In [0, 1]: 1 is a teacher that says nothing, as at the very start and after a collapse.
    """
    rows = targets.float()
    return float(-torch.xlogy(rows, rows).sum(1).mean() / math.log(rows.shape[1]))


def prototype_balance(logits: Tensor) -> float:
    """How evenly images choose their best prototypes, before any centring.

    Args:
        logits: float [N, K] of N different images.

    Returns:
        In [0, 1]: entropy of the histogram of choices, relative to the most even one; 0 when all choose the same.
    """
    counts = torch.bincount(logits.argmax(1), minlength=logits.shape[1]).double()
    share = counts / counts.sum()
    return float(-torch.xlogy(share, share).sum() / math.log(min(logits.shape)))


def nearest_distance(cls: Tensor) -> float:
    """Mean distance of each CLS token to its nearest neighbour on the unit sphere: what KoLeo spreads.

    Args:
        cls: float [N, D] of N different images.

    Returns:
        In [0, 2].
    """
    unit = normalize(cls.float(), dim=1)
    similarity = unit @ unit.T
    similarity.fill_diagonal_(-1)
    return float((2 - 2 * similarity.amax(1)).clamp(min=0).sqrt().mean())


def pca_colours(patches: Tensor, valid: Tensor) -> Tensor:
    """Colour patches by their first three principal components, shared by all images.

    Args:
        patches: float [B, h, w, D].
        valid: bool [B, h, w].

    Returns:
        float32 [B, h, w, 3] in [0, 1], between the 2nd and 98th percentile of each component; 0 where invalid. The
        sign of a component is fixed by its largest loading, so that a picture can be compared with the one before.
    """
    tokens = normalize(patches.float(), dim=-1)
    seen = tokens[valid].double()
    colours = tokens.new_zeros(*valid.shape, 3)
    if len(seen) < 4:
        return colours
    centre = seen.mean(0)
    seen = seen - centre
    axes = torch.linalg.eigh(seen.T @ seen).eigenvectors[:, -3:].flip(1)  # [D, 3]
    axes = axes * axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign()
    scores = seen @ axes
    low, high = scores.quantile(torch.tensor([0.02, 0.98], dtype=scores.dtype, device=scores.device), dim=0)
    colours[valid] = ((scores - low) / (high - low).clamp(min=1e-12)).clamp(0, 1).float()
    return colours
