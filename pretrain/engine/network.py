"""The network that is trained: a timm backbone that takes masks, and its two heads.

Every ViT of the DINO family in timm (``Eva`` for DINOv3, ``VisionTransformer`` for DINO and DINOv2) and every
ConvNeXt goes through :func:`encode`. timm's own ``forward_features`` takes no mask, so the transformer's steps are
walked here: patch embedding, mask token, position, blocks, norm.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

from geodino.backbones.architecture import create_module
from geodino.backbones.cpu_forward import compiled_block, embed_patches, is_plain, position, run_block
from pretrain.engine.projection_head import ProjectionHead
from tiles.errors import InputError

# Up to so many tokens the processor's flash attention loses more in its backward pass than the plain product costs.
SHORT_SEQUENCE = 512


@dataclass(frozen=True)
class TokenBatch:
    """Final-norm tokens of a batch of crops: ``cls [B, D]`` and row-major ``patches [B, P, D]``."""

    cls: Tensor
    patches: Tensor


def create_backbone(architecture: str, bands: int, **arguments: Any) -> nn.Module:
    """Create an untrained timm model without a classifier.

    Args:
        architecture: timm name; DINO-family ViTs and ConvNeXts.
        bands: Number of input bands.
        **arguments: Passed to timm, for example ``init_values`` or ``drop_path_rate``.

    Returns:
        The module, in training mode.

    Raises:
        InputError: If timm knows no such model or the model is of another family.
    """
    module = create_module(architecture, bands, **arguments)
    blocks = getattr(module, "blocks", None)
    known = hasattr(module, "_pos_embed") and blocks is not None and all(is_plain(block) for block in blocks)
    if not is_convnext(module) and not known:
        raise InputError(f"{architecture} is neither a ViT of the DINO family nor a ConvNeXt; choose one of those")
    return module


def is_convnext(module: nn.Module) -> bool:
    """Whether the module is a timm ConvNeXt, which has stages in place of blocks and no CLS token."""
    return hasattr(module, "stages") and hasattr(module, "stem")


def encode(
    module: nn.Module,
    pixels: Tensor,
    masks: Tensor | None = None,
    mask_token: Tensor | None = None,
    *,
    norm: nn.Module | None = None,
    drop_path: float = 0.0,
    checkpointing: bool = False,
    compiled: bool = False,
) -> TokenBatch:
    """Run a backbone on crops of one size.

    Args:
        module: A model of :func:`create_backbone`.
        pixels: ``[B, C, S, S]`` standardised, S a multiple of the patch size.
        masks: ``[B, P]`` bool, patches whose embedding is replaced; ViTs only.
        mask_token: ``[D]`` what replaces them.
        norm: Used in place of the model's last norm; ViTs only.
        drop_path: Share of samples that skip each branch of a ViT's blocks.
        checkpointing: Keep only block inputs for the backward pass and compute the rest again.
        compiled: Run blocks through ``torch.compile``.

    Returns:
        The tokens in the model's dtype; a ConvNeXt's CLS is the mean of its last map.
    """
    model = cast(Any, module)
    if is_convnext(module):
        features = model.stem(pixels)
        for stage in model.stages:
            features = checkpoint(stage, features, use_reentrant=False) if checkpointing else stage(features)
        patches = features.flatten(2).mT
        together = torch.cat([patches.mean(1, keepdim=True), patches], 1)
        normed = model.head.norm(together.mT.unsqueeze(-1)).squeeze(-1).mT
        return TokenBatch(normed[:, 0], normed[:, 1:])
    embedded = embed_patches(model.patch_embed, pixels)
    if masks is not None:
        flat = embedded.flatten(1, -2)
        embedded = torch.where(masks[..., None], cast(Tensor, mask_token).to(flat.dtype), flat).view_as(embedded)
    tokens, rotary = position(model, embedded)
    run = compiled_block() if compiled else run_block
    with attention_kernel(tokens):
        for block in model.blocks:
            if checkpointing:
                tokens = checkpoint(run, block, tokens, rotary, drop_path, use_reentrant=False)
            else:
                tokens = run(block, tokens, rotary, drop_path)
    prefix = int(model.num_prefix_tokens)
    normed = model.norm(tokens) if norm is None else norm(tokens)
    return TokenBatch(normed[:, 0], normed[:, prefix:])


@contextmanager
def attention_kernel(tokens: Tensor) -> Iterator[None]:
    """For attention that ``run_block`` leaves to timm: the plain product on a processor at short sequences."""
    if tokens.device.type == "cpu" and tokens.shape[1] <= SHORT_SEQUENCE:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    else:
        yield


@dataclass(frozen=True)
class HeadSize:
    """Arguments of a :class:`~pretrain.engine.projection_head.ProjectionHead`."""

    hidden: int
    bottleneck: int
    prototypes: int
    unit_prototypes: bool = False

    def head(self, dim: int) -> ProjectionHead:
        """A head for tokens of this width."""
        return ProjectionHead(dim, self.hidden, self.bottleneck, self.prototypes, unit_prototypes=self.unit_prototypes)


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
        backbone: Model of :func:`create_backbone`.
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
        dino: HeadSize,
        ibot: HeadSize | None,
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
        self.dino_head = dino.head(dim)
        self.ibot_head = ibot.head(dim) if ibot else None
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
