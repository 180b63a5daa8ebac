"""The patch embedding that starts as a whitening: decorrelated, of known variance, blind to nodata, and seeded."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from geodino.backbones.normalize import Normalization
from pretrain.network.encode import create_backbone
from pretrain.network.whitening import whiten_patch_embedding, whitening_filters

NORMALIZATION = Normalization.of((0.5, 0.4), (0.2, 0.1))


@given(features=st.integers(2, 6), count=st.integers(1, 20), seed=st.integers(0, 9))
def test_filters_decorrelate_and_level_what_is_stronger_than_the_floor(features: int, count: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(features, features, generator=generator)
    patches = torch.randn(500, features, generator=generator) @ mixing + 3
    filters, bias = whitening_filters(patches, count)
    assert filters.shape == (count, features)
    found = patches @ filters.T + bias
    torch.testing.assert_close(found.mean(0), torch.zeros(count), atol=1e-3, rtol=0)
    own = min(count, features)
    covariance = torch.cov(found[:, :own].T).reshape(own, own)
    variance = torch.linalg.eigvalsh(torch.cov(patches.T)).flip(0)
    expected = 0.09 * variance / (variance + 0.3 * variance.mean())
    torch.testing.assert_close(covariance, torch.diag(expected[:own]), atol=2e-4, rtol=1e-3)
    if count > features:
        repeated = min(count, 2 * features) - features
        torch.testing.assert_close(filters[features : features + repeated], -filters[:repeated])


def test_the_largest_component_is_positive_whatever_sign_a_direction_comes_with(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    patches = torch.randn(200, 5, generator=torch.Generator().manual_seed(0)) * torch.arange(1, 6)
    filters, bias = whitening_filters(patches, 8)
    assert (filters[:5].gather(1, filters[:5].abs().argmax(1, keepdim=True)) > 0).all()
    plain, signs = torch.linalg.eigh, torch.tensor([-1.0, 1, -1, -1, 1])

    def turned(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        values, vectors = plain(matrix)
        return values, vectors * signs

    monkeypatch.setattr(torch.linalg, "eigh", turned)
    again, same_bias = whitening_filters(patches, 8)
    assert torch.equal(again, filters) and torch.equal(same_bias, bias)


class Tiles:
    """Generated tiles whose first half has a corner of nodata with wild values."""

    bands = ("red", "nir", "green")

    def __init__(self, wild: float = 0.0) -> None:
        generator = np.random.default_rng(0)
        self.values = generator.random((60, 3, 16, 16), np.float32)
        self.valid = np.ones((60, 16, 16), bool)
        self.valid[:30, :3, :3] = False
        self.values[:30, :, :3, :3] = wild

    def __len__(self) -> int:
        return len(self.values)

    def read_batch(self, indices: np.ndarray) -> SimpleNamespace:
        return SimpleNamespace(
            values=self.values[indices], valid=self.valid[indices], gsd_m=np.ones(len(indices), np.float32)
        )


@pytest.mark.parametrize(
    ("architecture", "arguments"),
    [
        ("vit_tiny_patch16_dinov3_qkvb", {"patch_size": 4, "embed_dim": 48, "depth": 1, "num_heads": 1}),
        ("convnext_atto", {"depths": (1, 1, 1, 1), "dims": (8, 8, 8, 8)}),
    ],
)
def test_tokens_of_the_tiles_come_out_level_and_nodata_has_no_part(architecture: str, arguments: dict) -> None:
    backbones = []
    for wild in (0.0, 1e6):
        backbones.append(create_backbone(architecture, 2, **arguments))
        whiten_patch_embedding(backbones[-1], Tiles(wild), [2, 0], NORMALIZATION, seed=3)
    first, second = ((b.stem[0] if hasattr(b, "stem") else b.patch_embed.proj) for b in backbones)
    assert torch.equal(first.weight, second.weight)
    assert torch.equal(first.bias, second.bias)
    pixels = torch.from_numpy(Tiles().values[30:, [2, 0]])
    mean, std = (torch.tensor(value).view(-1, 1, 1) for value in (NORMALIZATION.mean, NORMALIZATION.std))
    tokens = first((pixels - mean) / std).detach()
    deviations = tokens.transpose(0, 1).flatten(1).std(1)
    assert float(deviations.max() / deviations.min()) < 1.5
