"""The network that is trained: a backbone that takes masks, and its two heads."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from pretrain.data.sampling import stream_seed
from pretrain.network.encode import TokenBatch, encode, is_convnext, untrained
from pretrain.network.projection_head import ProjectionHead
from pretrain.recipes.recipe import Recipe
from pretrain.recipes.settings import HeadSettings
from tiles.errors import InputError

_WEIGHTS_STREAM = 1


@dataclass
class Scores:
    """What the student says about a batch.

    Attributes:
        cls_global: ``[G, B, D]`` CLS tokens of the global crops, before the head.
        patches_global: ``[G*B, P, D]`` patch tokens of the global crops, masked ones included.
        dino_global: ``[G, B, K]`` logits of the global crops.
        dino_local: ``[L, B, K]`` logits of the local crops; None without any.
        ibot: ``[M, K']`` logits at the masked patches; None without masks.
    """

    cls_global: Tensor
    patches_global: Tensor
    dino_global: Tensor
    dino_local: Tensor | None
    ibot: Tensor | None


class Network(nn.Module):
    """A backbone with mask token, DINO head and iBOT head; student and EMA teacher are two of these.

    Args:
        backbone: Model of :func:`~pretrain.network.encode.create_backbone`.
        dino: Size of the DINO head.
        ibot: Size of the iBOT head; None without iBOT.
        untie_norms: Give the local crops a last norm of their own, as the released satellite models have.
        drop_path: Stochastic depth while training, uniform over blocks; ViTs only, a ConvNeXt has timm's own.
        checkpointing: Compute block activations again in the backward pass.
        compiled: Run blocks through ``torch.compile``; ViTs only.
    """

    def __init__(
        self,
        backbone: nn.Module,
        dino: HeadSettings,
        ibot: HeadSettings | None,
        *,
        untie_norms: bool = False,
        drop_path: float = 0.0,
        checkpointing: bool = False,
        compiled: bool = False,
    ) -> None:
        super().__init__()
        dim = int(cast(Any, backbone).num_features)
        self.backbone = backbone
        self.drop_path, self.checkpointing, self.compiled = drop_path, checkpointing, compiled
        self.mask_token = nn.Parameter(torch.zeros(dim)) if ibot and not is_convnext(backbone) else None
        self.dino_head = ProjectionHead(dim, dino)
        self.ibot_head = ProjectionHead(dim, ibot) if ibot else None
        self.local_norm: nn.Module | None = None
        if untie_norms:
            if is_convnext(backbone):
                raise InputError("backbone.untie_norms needs a ViT; leave it off for a ConvNeXt")
            self.local_norm = nn.LayerNorm(dim, eps=float(cast(Any, backbone).norm.eps))

    def tokens(self, pixels: Tensor, masks: Tensor | None = None, *, local: bool = False) -> TokenBatch:
        """Encode crops of one size; ``local`` takes the norm of the local crops where norms are untied."""
        return encode(
            self.backbone,
            pixels,
            masks,
            self.mask_token,
            norm=self.local_norm if local else None,
            drop_path=self.drop_path if self.training else 0.0,
            checkpointing=self.checkpointing and self.training,
            compiled=self.compiled,
        )

    def forward(
        self,
        globals_: Sequence[Tensor],
        locals_: Sequence[Tensor],
        masks: Tensor | None,
        masked: Tensor | None,
    ) -> Scores:
        """Score all crops of a batch, crops of one size in one pass.

        Args:
            globals_: G tensors ``[B, C, S, S]``.
            locals_: L tensors ``[B, C, s, s]``.
            masks: ``[G*B, P]`` bool; None leaves the crops whole.
            masked: ``[M]`` flat indices of the patches to score for iBOT.
        """
        batch = len(globals_[0])
        whole = self.tokens(torch.cat(tuple(globals_)), masks if self.mask_token is not None else None)
        cls = [whole.cls]
        if locals_:
            cls.append(self.tokens(torch.cat(tuple(locals_)), local=True).cls)
        logits = self.dino_head(torch.cat(cls))
        count = len(globals_) * batch
        ibot = None
        if self.ibot_head is not None and masked is not None:
            ibot = self.ibot_head(whole.patches.flatten(0, 1)[masked])
        return Scores(
            whole.cls.view(len(globals_), batch, -1),
            whole.patches,
            logits[:count].view(len(globals_), batch, -1),
            logits[count:].view(len(locals_), batch, -1) if locals_ else None,
            ibot,
        )


def build_network(recipe: Recipe, bands: int) -> Network:
    """The student of a recipe with seeded random weights in float32."""
    settings = recipe.backbone
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(recipe.seed, _WEIGHTS_STREAM))
        backbone = untrained(settings, bands)
        rope = getattr(backbone, "rope", None)
        if settings.rope_rescale is not None and rope is not None:
            rope.rescale_coords, rope.aug_active = settings.rope_rescale, settings.rope_rescale > 1
        return Network(
            backbone,
            recipe.dino.head,
            recipe.ibot.head if recipe.ibot.weight > 0 and not settings.is_convnext else None,
            untie_norms=settings.untie_norms,
            drop_path=0.0 if settings.is_convnext else settings.drop_path,
            checkpointing=settings.activation_checkpointing,
            compiled=settings.compile,
        )
