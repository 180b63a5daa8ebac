"""A backbone: a frozen model with everything its input must go through and everything its output means.

timm makes the models; this module gives them one face. Whatever the family, ``Backbone.encode`` turns standardised
pixels into one class token an image and one patch token a grid cell, prefix tokens (class and registers) removed.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from geodino.backbones.architecture import create_module, hash_tensors, patch_size_of, place, weights_hash
from geodino.backbones.card import CARD_FILE, PACKAGED, RGB, WEIGHTS_FILE, BackboneCard
from geodino.backbones.cpu_forward import forward_features
from geodino.backbones.hardware import pick_device, pick_dtype
from geodino.backbones.load import resolve
from geodino.backbones.memory import check_fits
from geodino.backbones.normalize import SATELLITE, Normalization
from tiles.errors import InputError, OutputError
from tiles.writing.outputs import replacing


@dataclass(frozen=True)
class Tokens:
    """What a backbone says about a batch of images.

    Attributes:
        cls: One token an image ``[B, D]``, float32. The class token after the final norm; the normed mean of the
            map for models without a class token (ConvNeXt), as DINOv3 does.
        patches: One token a grid cell ``[B, D, H/p, W/p]``, float32, after the final norm.
    """

    cls: Tensor
    patches: Tensor


@dataclass(frozen=True, eq=False)
class Backbone:
    """A frozen model and the facts about it.

    Attributes:
        module: The timm module, in evaluation mode, without gradients.
        name: Name to show and to write in outputs.
        architecture: timm name of the architecture.
        patch_size: Side of a token in pixels; 32 for ConvNeXt, whose last map has stride 32.
        embed_dim: Channels ``D`` of a token.
        bands: Common names of the input bands in order.
        normalization: Statistics that ``geodino.backbones.normalize.standardize`` needs.
        prefix_tokens: Class and register tokens in front of the patch tokens.
        hash: SHA-256 of the weights.
        gsd_range_m: Ground sample distances in metres seen in training, if known.
        licence: Licence of the weights, empty if unknown.
        device: Where the module is.
        dtype: What it computes in.
        card: The card it was loaded with, None for models that have none.
    """

    module: Any
    name: str
    architecture: str
    patch_size: int
    embed_dim: int
    bands: tuple[str, ...]
    normalization: Normalization
    prefix_tokens: int
    hash: str
    gsd_range_m: tuple[float, float] | None = None
    licence: str = ""
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    dtype: torch.dtype = torch.float32
    card: BackboneCard | None = None

    @cached_property
    def depth(self) -> int:
        """Number of layers that ``encode_layers`` can index: blocks of a ViT, stages of a ConvNeXt."""
        blocks = getattr(self.module, "blocks", None)
        return len(self.module.stages if blocks is None else blocks)

    @torch.inference_mode()
    def encode(self, x: Tensor) -> Tokens:
        """Encode a batch of standardised images.

        Args:
            x: Standardised float32 values ``[B, C, H, W]``, ``H`` and ``W`` multiples of ``patch_size``.

        Returns:
            Final tokens, float32, on this backbone's device.

        Raises:
            ValueError: When bands, height or width do not fit.
        """
        features = forward_features(self.module, self._input(x))
        if features.ndim == 4:  # ConvNeXt: [B, D, h, w], not yet normed
            return self._norm_map(features)
        return self._split(features, x.shape[-2] // self.patch_size)

    @torch.inference_mode()
    def encode_layers(self, x: Tensor, layers: Sequence[int], *, norm: bool = True) -> list[Tokens]:
        """Encode a batch and keep the tokens of several layers.

        Args:
            x: As for ``encode``.
            layers: Indices of layers; negative ones count from the end.
            norm: Pass every layer through the final norm, as DINOv3's ``get_intermediate_layers`` does. False gives
                the raw residual stream, whose feature outliers want a batch norm or PCA (DINOv3, appendix A.2).

        Returns:
            One ``Tokens`` a layer, in the order asked for. A ConvNeXt's earlier stages have their own, finer stride and
            width and no norm.

        Raises:
            ValueError: When bands, height, width or a layer do not fit.
        """
        wanted = [layer + self.depth if layer < 0 else layer for layer in layers]
        if not wanted or not all(0 <= layer < self.depth for layer in wanted):
            raise ValueError(f"layers {list(layers)} are not among the {self.depth} of {self.name}")
        unique = sorted(set(wanted))
        batch = self._input(x)
        if not hasattr(self.module, "blocks"):
            maps = self.module.forward_intermediates(batch, indices=unique, intermediates_only=True)
            last = self.depth - 1
            found = {
                layer: self._norm_map(m) if norm and layer == last else Tokens(m.mean((-2, -1)).float(), m.float())
                for layer, m in zip(unique, maps, strict=True)
            }
        else:
            pairs = self.module.forward_intermediates(
                batch, indices=unique, return_prefix_tokens=True, norm=norm, stop_early=True, intermediates_only=True
            )
            found = {
                layer: Tokens(prefix[:, 0].float(), patches.float())
                for layer, (patches, prefix) in zip(unique, pairs, strict=True)
            }
        return [found[layer] for layer in wanted]

    def _input(self, x: Tensor) -> Tensor:
        bands, height, width = x.shape[-3:]
        if x.ndim != 4 or bands != len(self.bands):
            raise ValueError(f"{self.name} takes [B, {len(self.bands)}, H, W], not {list(x.shape)}")
        if height % self.patch_size or width % self.patch_size or not height or not width:
            raise ValueError(f"{height} × {width} pixels are not whole patches of {self.patch_size}")
        return x.to(self.device, self.dtype)

    def _split(self, tokens: Tensor, rows: int) -> Tokens:
        patches = tokens[:, self.prefix_tokens :].transpose(1, 2)  # [B, D, N]
        return Tokens(tokens[:, 0].float(), patches.reshape(*patches.shape[:2], rows, -1).float())

    def _norm_map(self, features: Tensor) -> Tokens:
        norm = self.module.head.norm  # LayerNorm over channels, for [B, D, h, w]
        return Tokens(norm(features.mean((-2, -1), keepdim=True)).flatten(1).float(), norm(features).float())


def untrained_backbone(
    architecture: str,
    bands: Sequence[str] = RGB,
    *,
    normalization: Normalization | None = None,
    seed: int = 0,
    device: str = "auto",
    precision: str = "auto",
    **model_args: Any,
) -> Backbone:
    """Make a backbone with random weights: a floor to compare with, and a stand-in for tests.

    Args:
        architecture: timm name.
        bands: Common names of the input bands.
        normalization: Statistics of the bands; SAT-493M's for three bands, mean 0.5 and std 0.25 for others.
        seed: Seed of the weights; the same seed gives the same weights, whatever ran before.
        device: ``auto``, ``cpu`` or ``cuda``.
        precision: ``auto``, ``fp32`` or ``bf16``.
        **model_args: Further arguments of ``timm.create_model``.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = create_module(architecture, len(bands), **model_args)
    if normalization is None:
        normalization = SATELLITE if len(bands) == 3 else Normalization((0.5,) * len(bands), (0.25,) * len(bands))
    card = BackboneCard(
        architecture=architecture.split(".")[0],
        model_args=model_args,
        bands=tuple(bands),
        mean=normalization.mean,
        std=normalization.std,
        patch_size=patch_size_of(module),
        name=f"{architecture} (untrained, seed {seed})",
        seed=seed,
    )
    return wrap(module, card, device=device, precision=precision)


def wrap(module: Any, card: BackboneCard, *, device: str = "auto", precision: str = "auto") -> Backbone:
    """Freeze a module and put it where it computes.

    Args:
        module: A timm module that fits ``card``; it is moved and cast, not copied.
        card: Facts about it; a hash of weights is that of the module, as reading a file makes sure.
        device: ``auto``, ``cpu`` or ``cuda``.
        precision: ``auto``, ``fp32`` or ``bf16``.
    """
    where = pick_device(device)
    dtype = pick_dtype(precision, where)
    check_fits(module, where, dtype, card.name or card.architecture)
    digest = card.weights_hash or weights_hash(module)
    module = place(module.eval().requires_grad_(False), where, dtype)
    return Backbone(
        module=module,
        name=card.name or card.architecture,
        architecture=card.architecture,
        patch_size=patch_size_of(module),
        embed_dim=int(module.num_features),
        bands=card.bands,
        normalization=Normalization(card.mean, card.std),
        prefix_tokens=int(getattr(module, "num_prefix_tokens", 0)),
        hash=digest,
        gsd_range_m=card.gsd_range_m,
        licence=card.licence,
        device=where,
        dtype=dtype,
        card=card,
    )


def load_backbone(spec: str | Path | None = None, *, device: str = "auto", precision: str = "auto") -> Backbone:
    """Load a backbone.

    Args:
        spec: None or ``packaged`` for the one inside the package; a folder or file that ``geodino pretrain`` wrote; a
            timm name whose weights are on this machine; a checkpoint in the original layout of dino, dinov2 or dinov3
            (``.pth``).
        device: ``auto`` (a GPU when there is one), ``cpu`` or ``cuda``.
        precision: ``auto`` (bf16 where the processor or GPU computes in it), ``fp32`` or ``bf16``.

    Raises:
        InputError: One sentence when it cannot be found, read or does not fit.
    """
    if spec is None or spec == "packaged":
        if not (PACKAGED / WEIGHTS_FILE).exists():
            raise InputError(
                "this installation has no packaged backbone: name one with --backbone (a timm name, or a folder that "
                "`geodino pretrain` wrote)"
            )
        spec = PACKAGED
    module, card = resolve(spec)
    return wrap(module, card, device=device, precision=precision)


def save_backbone(module: nn.Module, card: BackboneCard, folder: Path, *, dtype: torch.dtype | None = None) -> None:
    """Write ``backbone.safetensors`` and ``backbone.json``, each whole or not at all.

    Args:
        module: The timm module that ``card`` describes.
        card: Its card; the hash of the weights is filled in.
        folder: Where to write; made if absent.
        dtype: Type of the tensors on disk; their own when None.

    Raises:
        OutputError: When the folder cannot be written.
    """
    tensors = {
        # rotary periods stay as they are: rounding them would move every position
        key: value.detach()
        .to("cpu", dtype if value.is_floating_point() and key != "rope.periods" else None)
        .contiguous()
        for key, value in module.state_dict().items()
    }
    card = card.model_copy(update={"weights_hash": hash_tensors(tensors)})
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(folder / WEIGHTS_FILE) as part:
            save_file(tensors, part, metadata={"format": "pt"})
            part.chmod(0o644)  # safetensors lets its owner alone read it
        with replacing(folder / CARD_FILE) as part:
            part.write_text(card.model_dump_json(indent=2) + "\n")
    except OSError as error:
        raise OutputError(f"{folder} cannot be written: {os.strerror(error.errno or 0)}") from error
