"""The projection head: where tokens become scores over prototypes."""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ProjectionHead(nn.Module):
    """Three-layer perceptron, L2 normalisation, linear prototypes (DINO, section 3).

    Args:
        dim: Width of the tokens.
        hidden: Width of the two hidden layers.
        bottleneck: Width of the normalised vector.
        prototypes: Number of prototypes K.
        unit_prototypes: Keep prototypes at length 1, so that logits are cosines; DINO and DINOv2 do (weight
            normalisation of constant gain), DINOv3 does not.
    """

    def __init__(
        self, dim: int, hidden: int, bottleneck: int, prototypes: int, *, unit_prototypes: bool = False
    ) -> None:
        super().__init__()
        self.unit_prototypes = unit_prototypes
        self.mlp = nn.Sequential(
            nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, bottleneck)
        )
        self.prototypes = nn.Linear(bottleneck, prototypes, bias=False)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def bottleneck(self, tokens: Tensor) -> Tensor:
        """Unit vectors ``[..., bottleneck]`` of tokens ``[..., dim]``, in the tokens' dtype; normalised in float32."""
        projected = self.mlp(tokens)
        return F.normalize(projected.float(), dim=-1, eps=1e-6).to(projected.dtype)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits ``[..., K]`` of tokens ``[..., dim]``."""
        return self._scored(self.bottleneck(tokens))

    @torch.no_grad()
    def scores(self, bottlenecks: Tensor) -> Tensor:
        """Logits of ready bottleneck vectors, for targets whose statistics span several micro-batches."""
        return self._scored(bottlenecks)

    def _scored(self, bottlenecks: Tensor) -> Tensor:
        if not self.unit_prototypes:
            return cast(Tensor, self.prototypes(bottlenecks))
        weight = self.prototypes.weight
        return F.linear(bottlenecks, F.normalize(weight.float(), dim=-1, eps=1e-6).to(weight.dtype))
