"""A tile set in memory and a recipe whose step takes milliseconds."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from geodino.backbones.normalize import SATELLITE
from pretrain.data.batches import Batch, Batches
from pretrain.recipes.loading import merged, resolve
from pretrain.recipes.recipe import Recipe


@dataclass(frozen=True)
class Units:
    values: np.ndarray
    valid: np.ndarray
    gsd_m: np.ndarray


class MemoryTiles:
    """Textures of four kinds in memory; tile i is of kind i % 4."""

    def __init__(self, count: int = 48, size: int = 32, bands: tuple[str, ...] = ("red", "green", "blue")) -> None:
        rng = np.random.default_rng(0)
        y, x = np.mgrid[:size, :size] / size
        waves = [np.sin(20 * x), np.sin(20 * y), np.sin(10 * (x + y)), np.sign(np.sin(16 * x) * np.sin(16 * y))]
        tiles = []
        for i in range(count):
            wave = np.roll(waves[i % 4], rng.integers(size, size=2), (0, 1))
            tint = rng.uniform(0.3, 0.6, len(bands))[:, None, None]
            tiles.append(tint + 0.15 * wave + 0.05 * rng.standard_normal((len(bands), size, size)))
        self.values = np.clip(tiles, 0, 1).astype(np.float32)
        self.valid = np.ones((count, size, size), bool)
        self.bands, self.size = bands, size
        self.mean, self.std = self.values.mean((0, 2, 3)), self.values.std((0, 2, 3))
        self.labels = np.arange(count) % 4

    def __len__(self) -> int:
        return len(self.values)

    def read_batch(self, indices: np.ndarray) -> Units:
        valid = self.valid[indices]
        return Units(self.values[indices] * valid[:, None], valid, np.full(len(indices), 10, np.float32))

    def column(self, name: str) -> np.ndarray:
        assert name == "gsd_m"
        return np.full(len(self), 10.0)


SMALL: dict[str, Any] = {
    "method": "dinov3",
    "max_steps": 6,
    "batch_size": 8,
    "workers": 1,
    "checkpoint_every": 3,
    "log_every": 1,
    "precision": "fp32",
    "backbone": {
        "architecture": "vit_tiny_patch16_dinov3_qkvb",
        "arguments": {"patch_size": 8, "depth": 2, "embed_dim": 64, "num_heads": 2},
        "layer_scale": 0.2,
    },
    "crops": {"global_size": 32, "local_size": 16, "local_count": 2, "gram_scale": 1.0},
    "dino": {"head": {"hidden": 64, "bottleneck": 32, "prototypes": 64}},
    "ibot": {"head": {"hidden": 64, "bottleneck": 32, "prototypes": 64}},
    "gram": {"weight": 1.0, "first_update": 0, "every": 2, "max_updates": 2},
    "monitor": {"every": 0},
}


@pytest.fixture
def tiles() -> MemoryTiles:
    return MemoryTiles()


@pytest.fixture
def make_tiles() -> type[MemoryTiles]:
    return MemoryTiles


@pytest.fixture
def make_recipe() -> Callable[..., Recipe]:
    """A recipe with every loss on; keyword arguments are laid over it."""

    def make(**changes: Any) -> Recipe:
        return resolve([merged(SMALL, changes)], "test")

    return make


@pytest.fixture
def make_batches() -> Callable[..., list[list[Batch]]]:
    """The micro-batches of the first steps of a recipe."""

    def make(tiles: MemoryTiles, recipe: Recipe, steps: int, **settings: Any) -> list[list[Batch]]:
        source = Batches(tiles, recipe, SATELLITE, 8, masks=recipe.ibot.weight > 0, **settings).starting(0)
        found = [[next(source) for _ in range(recipe.accumulate)] for _ in range(steps)]
        source.close()
        return found

    return make


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)
