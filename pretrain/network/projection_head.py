"""The projection head: where tokens become scores over prototypes."""

from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from pretrain.recipes.settings import HeadSettings


class ProjectionHead(nn.Module):
    """Three-layer perceptron, L2 normalisation, linear prototypes (DINO, section 3).

    Prototypes may be kept at length 1, so that logits are cosines: DINO and DINOv2 do (weight normalisation of constant
    gain), DINOv3 does not.

    Args:
        dim: Width of the tokens.
        settings: Widths of the two hidden layers and of the normalised vector, number of prototypes K.
    """

    def __init__(self, dim: int, settings: HeadSettings) -> None:
        super().__init__()
        hidden, bottleneck = settings.hidden, settings.bottleneck
        self.unit_prototypes = settings.unit_prototypes
        self.mlp = nn.Sequential(
            nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, bottleneck)
        )
        self.prototypes = nn.Linear(bottleneck, settings.prototypes, bias=False)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits ``[..., K]`` of tokens ``[..., dim]``; normalised in float32."""
        projected = self.mlp(tokens)
        directions = F.normalize(projected.float(), dim=-1, eps=1e-6).to(projected.dtype)
        if not self.unit_prototypes:
            return cast(Tensor, self.prototypes(directions))
        weight = self.prototypes.weight
        return F.linear(directions, F.normalize(weight.float(), dim=-1, eps=1e-6).to(weight.dtype))
