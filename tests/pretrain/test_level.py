"""Levelled tokens: the old ones up to one affine map, along their own axes, each direction as loud as its root."""

import pytest
import torch

from geodino.architecture import create_module
from pretrain.level import level_tokens, principal_rotation
from pretrain.network import create_backbone

SIZE = {"patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 2, "num_reg_tokens": 0, "init_values": 0.5}


@pytest.fixture
def module() -> torch.nn.Module:
    """A small DINOv3 whose norms, biases and LayerScale are all of use."""
    torch.manual_seed(0)
    module = create_module("vit_tiny_patch16_dinov3_qkvb", 3, **SIZE).eval()
    with torch.no_grad():
        for name, value in module.named_parameters():
            if "norm" in name or "gamma" in name or name.endswith("bias"):
                value.add_(0.2 * torch.randn_like(value))
    return module


@torch.no_grad()
def tokens(module: torch.nn.Module, images: int = 40) -> torch.Tensor:
    pixels = torch.randn(images, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    return module.forward_features(pixels).flatten(0, 1)


def test_a_rotation_keeps_lengths_and_equal_components() -> None:
    sample = torch.randn(300, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * torch.arange(1, 13)
    rotation = principal_rotation(sample - sample.mean(1, keepdim=True))
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(12, dtype=torch.float64))
    ones = torch.ones(12, dtype=torch.float64)
    torch.testing.assert_close(rotation @ ones, ones)


def test_new_tokens_are_an_affine_map_of_the_old(module: torch.nn.Module) -> None:
    before = tokens(module)
    level_tokens(module, before[:400])
    after = tokens(module)
    assert (after - before).abs().max() > 0.1
    known = torch.cat([before, torch.ones(len(before), 1)], 1).double()
    found = torch.linalg.lstsq(known[:400], after[:400].double()).solution
    torch.testing.assert_close(known[400:] @ found, after[400:].double(), atol=1e-4, rtol=1e-4)


def test_directions_are_apart_and_as_loud_as_the_roots_of_what_they_were(module: torch.nn.Module) -> None:
    before = tokens(module, 200)
    normed = (before - module.norm.bias) / module.norm.weight
    strongest = torch.linalg.eigvalsh(torch.cov(normed.double().T)).flip(0)[:8].detach()
    level_tokens(module, before)
    after = tokens(module, 200).double()
    torch.testing.assert_close(after.mean(0), torch.zeros(64, dtype=torch.float64), atol=1e-3, rtol=0)
    torch.testing.assert_close(after.std(0)[:8], strongest**0.25, rtol=0.1, atol=0)
    assert (torch.corrcoef(after[:, :8].T) - torch.eye(8)).abs().max() < 0.15


@pytest.mark.parametrize("architecture", ["convnext_atto", "vit_small_patch16_dinov3", "vit_tiny_patch16_224"])
def test_other_architectures_are_refused(architecture: str) -> None:
    backbone = create_backbone(architecture, 3)
    with pytest.raises(ValueError, match="only a DINOv3 ViT"):
        level_tokens(backbone, torch.randn(10, 192))


def test_a_norm_that_drops_a_channel_is_refused(module: torch.nn.Module) -> None:
    with torch.no_grad():
        module.blocks[1].norm2.weight[3] = 0
    with pytest.raises(ValueError, match="weight of zero"):
        level_tokens(module, torch.randn(10, 64))
