"""Distillation: what a small student learns from a large frozen teacher, as functions of tokens.

Released backbones come without the heads of their training, so a student learns the teacher's tokens themselves: a
linear map of its own CLS and patch tokens points where the teacher's standardised tokens point. Standardising (per
channel, by statistics of the first batches) keeps the few outlier channels of DINO features from being all that a
student copies (compare AM-RADIO, arXiv 2312.06709, and DINOv3, arXiv 2508.10104, appendix A.2). Local crops learn the
CLS token of the whole, as in DINO.
"""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from pretrain.network.encode import TokenBatch, downsampled_tokens, encode
from pretrain.ranks import ALONE, Ranks


@dataclass(frozen=True)
class Standardization:
    """Per-channel statistics of a teacher's tokens, float32 ``[D]`` each.

    Attributes:
        cls_mean, cls_std: Of CLS tokens.
        patch_mean, patch_std: Of patch tokens.
    """

    cls_mean: Tensor
    cls_std: Tensor
    patch_mean: Tensor
    patch_std: Tensor

    @classmethod
    def of(cls, cls_tokens: Tensor, patches: Tensor, valid: Tensor, ranks: Ranks = ALONE) -> "Standardization":
        """Measure it.

        Args:
            cls_tokens: float ``[N, D]``.
            patches: float ``[N, P, D]``.
            valid: bool ``[N, P]``, patches that show data.
            ranks: Processes that each hold a part.
        """
        return cls(*_moments(cls_tokens, ranks), *_moments(patches[valid], ranks))

    def __call__(self, tokens: TokenBatch) -> TokenBatch:
        """Standardise tokens; float32."""
        return TokenBatch(
            (tokens.cls.float() - self.cls_mean) / self.cls_std,
            (tokens.patches.float() - self.patch_mean) / self.patch_std,
        )

    def state(self) -> list[Tensor]:
        """The four statistics, for a checkpoint."""
        return [self.cls_mean, self.cls_std, self.patch_mean, self.patch_std]


def _moments(values: Tensor, ranks: Ranks) -> tuple[Tensor, Tensor]:
    wide = values.double()
    count = ranks.sum(wide.new_tensor(float(len(wide)))).clamp(min=1)
    mean = ranks.sum(wide.sum(0)) / count
    variance = ranks.sum((wide - mean).square().sum(0)) / count
    # A channel that hardly moves carries nothing, and must not be blown up to the size of the others.
    std = variance.sqrt()
    return mean.float(), std.clamp(min=0.01 * float(std.mean()) + 1e-6).float()


class Student(nn.Module):
    """A backbone and two linear maps from its tokens to the teacher's.

    Args:
        backbone: Model of :func:`pretrain.network.encode.create_backbone`.
        dim: Width of the teacher's tokens.
        drop_path: Stochastic depth while training; ViTs only, a ConvNeXt has timm's own.
    """

    def __init__(self, backbone: nn.Module, dim: int, *, drop_path: float = 0.0) -> None:
        super().__init__()
        width = int(backbone.num_features)  # type: ignore[arg-type]
        self.backbone, self.drop_path = backbone, drop_path
        self.cls_head = nn.Linear(width, dim)
        self.patch_head = nn.Linear(width, dim)

    def forward(self, pixels: Tensor, side: int | None) -> TokenBatch:
        """Tokens in the teacher's space.

        Args:
            pixels: ``[B, C, S, S]`` standardised.
            side: Tokens along the teacher's grid, to which patch tokens are brought; None leaves patch tokens out.

        Returns:
            ``cls [B, D]`` and ``patches [B, side * side, D]`` (``[B, 0, D]`` without).
        """
        tokens = encode(self.backbone, pixels, drop_path=self.drop_path if self.training else 0.0)
        cls = self.cls_head(tokens.cls)
        if side is None:
            return TokenBatch(cls, cls.new_zeros(len(cls), 0, cls.shape[1]))
        own = round(tokens.patches.shape[1] ** 0.5)
        patches = downsampled_tokens(self.patch_head(tokens.patches), (own, own), (side, side))
        return TokenBatch(cls, patches)


def direction_loss(student: Tensor, teacher: Tensor, weights: Tensor, total: Tensor | float) -> Tensor:
    """Weighted mean of ``1 - cosine``.

    Args:
        student: float ``[..., D]``.
        teacher: float ``[..., D]``, constant.
        weights: float ``[...]``, 0 where nothing is to be learnt.
        total: Sum of the weights over the whole batch.

    Returns:
        Scalar float32 in [0, 2].
    """
    cosine = F.cosine_similarity(student.float(), teacher.float(), dim=-1, eps=1e-6)
    return ((1 - cosine) * weights).sum() / total


def distillation_losses(
    students: tuple[TokenBatch, Tensor],
    teacher: TokenBatch,
    valid: Tensor,
    global_weights: Tensor,
    local_weights: Tensor,
    ranks: Ranks = ALONE,
) -> dict[str, Tensor]:
    """Losses of one student on one batch.

    Args:
        students: The student's tokens of the global crops (``cls [G*B, D]``, ``patches [G*B, P, D]``), and its CLS
            tokens of the local crops ``[L*B, D]``.
        teacher: Standardised tokens of the same global crops.
        valid: bool ``[G*B, P]``, the teacher's patches that show data.
        global_weights: ``[G, B]``, 0 where a crop shows too little data.
        local_weights: ``[L, B]``.
        ranks: Processes that share the batch; losses are divided so that their gradients averaged over ranks are those
            of the whole batch.

    Returns:
        ``cls``, ``patches`` and, with local crops, ``local``: scalars.
    """
    whole, local = students
    seen = global_weights.flatten()
    patch_weights = valid.float() * seen[:, None]

    def total(weights: Tensor) -> Tensor:
        return ranks.mean(weights.sum()).clamp(min=1e-6)

    found = {
        "cls": direction_loss(whole.cls, teacher.cls, seen, total(seen)),
        "patches": direction_loss(whole.patches, teacher.patches, patch_weights, total(patch_weights)),
    }
    if len(local_weights):
        crops, batch = global_weights.shape
        unit = F.normalize(teacher.cls.float(), dim=-1).view(crops, batch, -1) * global_weights[..., None]
        aim = unit.sum(0).repeat(len(local_weights), 1)  # [L*B, D]
        known = local_weights.flatten() * (global_weights.sum(0) > 0).float().repeat(len(local_weights))
        found["local"] = direction_loss(local, aim, known, total(known))
    return found
