"""Levelled tokens: the old ones up to one affine map, in which directions count less the more views differ in them."""

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from geodino.backbones.architecture import create_module
from geodino.backbones.backbone import Tokens
from geodino.backbones.normalize import SATELLITE, Normalization
from pretrain.after.level import TokenSample, level_tokens, sample_tokens, turn_and_weigh
from pretrain.network.encode import create_backbone
from pretrain.recipes.views import CropSettings
from tiles.errors import InputError

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


def sample(module: torch.nn.Module, images: int = 200) -> TokenSample:
    """Tokens, and differences of two kinds."""
    own = tokens(module, images)
    noise = torch.randn(len(own), 64, generator=torch.Generator().manual_seed(2)) * torch.linspace(0.05, 2, 64)
    return TokenSample(own, (own[1:] - own[:-1], noise - noise.mean(1, keepdim=True)))


def test_the_rotation_keeps_lengths_and_equal_components() -> None:
    rows = torch.randn(300, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * torch.arange(1, 13)
    rotation, weight = turn_and_weigh(torch.cov((rows - rows.mean(1, keepdim=True)).T))
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(12, dtype=torch.float64))
    ones = torch.ones(12, dtype=torch.float64)
    torch.testing.assert_close(rotation @ ones, ones)
    assert (weight > 0).all()


@given(st.integers(3, 40), st.integers(0, 100))
def test_each_principal_direction_is_divided_by_a_power_of_its_deviation(width: int, seed: int) -> None:
    """Squared factors are within those of the direction's neighbours, and the last is exact."""
    rows = torch.randn(4 * width, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    rows = rows * torch.arange(1, width + 1)
    spread = torch.cov((rows - rows.mean(1, keepdim=True)).T)
    rotation, weight = turn_and_weigh(spread)
    variance, principal = (part.flip(-1)[..., : width - 1] for part in torch.linalg.eigh(spread))
    # Lengths after turning and weighing, which is all that a cosine sees.
    acting = principal.T @ rotation.T @ (weight**2).diag() @ rotation @ principal
    torch.testing.assert_close(acting, acting.diagonal().diag(), atol=1e-8 * float(acting.max()), rtol=0)
    due = (width * variance / variance.sum()).pow(-0.75)
    found = acting.diagonal()
    assert (found >= due * (1 - 1e-6)).all()
    assert (found[:-1] <= due[1:] * (1 + 1e-6)).all()
    torch.testing.assert_close(found[-1], due[-1], rtol=1e-6, atol=0)


def test_new_tokens_are_an_affine_map_of_the_old(module: torch.nn.Module) -> None:
    before = tokens(module)
    level_tokens(module, sample(module))
    after = tokens(module)
    assert (after - before).abs().max() > 0.1
    known = torch.cat([before, torch.ones(len(before), 1)], 1).double()
    found = torch.linalg.lstsq(known[:400], after[:400].double()).solution
    # float32 rounding is divided by the small deviations too.
    torch.testing.assert_close(known[400:] @ found, after[400:].double(), atol=5e-3 * float(after.std()), rtol=0)


def test_directions_in_which_views_differ_count_less(module: torch.nn.Module) -> None:
    before = sample(module)
    apart = torch.zeros(1, 64)
    apart[0, 5], apart[0, 9] = 1, -1
    apart = apart * torch.randn(500, 1, generator=torch.Generator().manual_seed(3)) * module.norm.weight.detach()
    one, other = before.tokens[:500], before.tokens[:500] + apart
    share = apart.norm() / (one - one.mean(0)).norm()
    level_tokens(module, TokenSample(before.tokens, (apart,)))
    # The affine map, found from what the tokens became.
    known = torch.cat([before.tokens, torch.ones(len(before.tokens), 1)], 1).double()
    affine = torch.linalg.lstsq(known, tokens(module, 200).double()).solution
    ones = torch.ones(500, 1)
    new, moved = (torch.cat([x, ones], 1).double() @ affine for x in (one, other))
    assert (moved - new).norm() / (new - new.mean(0)).norm() < 0.5 * share


def test_the_mean_token_becomes_zero(module: torch.nn.Module) -> None:
    level_tokens(module, sample(module))
    torch.testing.assert_close(tokens(module, 200).mean(0), torch.zeros(64), atol=1e-3, rtol=0)


@dataclass
class PatchMeans:
    """Stands for a backbone whose token is its patch's mean, whatever else is in the window."""

    patch_size: int = 4
    normalization: Normalization = SATELLITE

    def encode(self, x: torch.Tensor) -> Tokens:
        patches = torch.nn.functional.avg_pool2d(x, self.patch_size)
        return Tokens(patches.mean((2, 3)), patches)


@dataclass
class Tiles:
    """Tiles in memory."""

    values: np.ndarray
    valid: np.ndarray
    bands: tuple[str, ...] = ("red", "green", "blue")

    def __len__(self) -> int:
        return len(self.values)

    def read_batch(self, indices: np.ndarray) -> SimpleNamespace:
        gsd_m = np.full(len(indices), 10.0, np.float32)
        return SimpleNamespace(values=self.values[indices], valid=self.valid[indices], gsd_m=gsd_m)


@pytest.mark.parametrize("side", [8, 9, 12])
def test_windows_are_compared_at_the_same_places_and_tiles_with_gaps_left_out(side: int) -> None:
    rng = np.random.default_rng(0)
    values = rng.random((130, 3, 4 * side, 4 * side), np.float32)
    valid = np.ones((130, 4 * side, 4 * side), bool)
    valid[3, 0, 0] = False
    crops = CropSettings(global_size=32, local_size=16)
    found = sample_tokens(PatchMeans(), Tiles(values, valid), crops)
    places, views = found.differences
    assert found.tokens.shape == (129 * side**2, 3)
    assert places.shape == (129 * (side - 2 * (side // 4)) ** 2, 3)
    torch.testing.assert_close(places, torch.zeros_like(places), atol=1e-5, rtol=0)
    assert views.shape == (129, 3)
    assert (views.abs().amax(1) > 1e-3).all()


@pytest.mark.parametrize(("side", "gaps", "message"), [(3, False, "hold 3 tokens"), (8, True, "has gaps")])
def test_tiles_that_say_nothing_of_windows_are_refused(side: int, gaps: bool, message: str) -> None:
    shape = (5, 4 * side, 4 * side)
    tiles = Tiles(np.zeros((5, 3, *shape[1:]), np.float32), np.full(shape, not gaps))
    with pytest.raises(InputError, match=message):
        sample_tokens(PatchMeans(), tiles, CropSettings(global_size=8, local_size=4))


@pytest.mark.parametrize("architecture", ["convnext_atto", "vit_small_patch16_dinov3", "vit_tiny_patch16_224"])
def test_other_architectures_are_refused(architecture: str) -> None:
    backbone = create_backbone(architecture, 3)
    with pytest.raises(ValueError, match="only a DINOv3 ViT"):
        level_tokens(backbone, TokenSample(torch.randn(10, 192), (torch.randn(10, 192),)))


def test_a_norm_that_drops_a_channel_is_refused(module: torch.nn.Module) -> None:
    with torch.no_grad():
        module.blocks[1].norm2.weight[3] = 0
    with pytest.raises(ValueError, match="weight of zero"):
        level_tokens(module, TokenSample(torch.randn(10, 64), (torch.randn(10, 64),)))
