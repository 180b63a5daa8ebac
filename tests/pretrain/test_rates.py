"""Effective learning rates: those of the papers at their batches, ours elsewhere."""

from pathlib import Path
from typing import Any

import pytest

from pretrain.engine.trainer import Trainer
from pretrain.network.network import build_network
from pretrain.recipes.loading import load_recipe, packaged
from pretrain.recipes.recipe import Recipe

GRAM, HIRES = ["phase=gram", "previous=RUN"], ["phase=hires", "previous=RUN"]
# DINOv3's configurations state a quarter of the rate at 1,024 (5e-5, 3e-5, 1.25e-5), DINO's 5e-4 for a batch of 256.
PUBLISHED = [
    ("large", [], 4096, 4e-4),
    ("large", GRAM, 4096, 2.4e-4),
    ("large", HIRES, 2048, 7.07e-5),
    ("dinov3", [], 4096, 4e-4),
    ("dinov3", GRAM, 4096, 2.4e-4),
    ("dinov3", HIRES, 2048, 7.07e-5),
    ("dino", [], 256, 5e-4),
]
OWN = {
    "adapt": 5e-5,
    "base": 2e-3,
    "chips": 1e-3,
    "dino": 5e-4,
    "dinov2": 1e-3,
    "dinov3": 1e-4,
    "large": 4e-4,
    "sentinel": 5e-4,
    "sentinel_adapt": 1.77e-4,
    "sentinel_hires": 2.5e-4,
    "small": 1e-3,
    "tiny": 1e-3,
}


def highest(recipe: Recipe, batch_size: int) -> float:
    """The highest rate of a run."""
    steps = range(0, recipe.max_steps, recipe.max_steps // 100)
    return max(recipe.optimizer.rate(step, recipe.max_steps, batch_size) for step in steps)


@pytest.mark.parametrize(("name", "pairs", "batch_size", "rate"), PUBLISHED)
def test_published_rates_at_the_published_batch(name: str, pairs: list[str], batch_size: int, rate: float) -> None:
    recipe = load_recipe(name, [*pairs, f"batch_size={batch_size}"])
    assert highest(recipe, batch_size) == pytest.approx(rate, rel=2e-3)
    if pairs:  # the later phases stay at their rate
        last = recipe.optimizer.rate(recipe.max_steps - 1, recipe.max_steps, batch_size)
        assert last == pytest.approx(rate, rel=2e-3)


@pytest.mark.parametrize("name", packaged())
def test_rates_of_the_packaged_recipes_at_their_own_batch(name: str) -> None:
    recipe = load_recipe(name)
    assert highest(recipe, recipe.batch_size) == pytest.approx(OWN[name], rel=5e-3)


def test_a_step_takes_the_effective_rate_and_reports_it(make_recipe: Any, make_batches: Any, tiles: Any) -> None:
    recipe = make_recipe(batch_size=16, optimizer={"lr": 8e-3})
    trainer = Trainer(recipe, build_network(recipe, 3))
    trainer.refresh_gram(0)
    values = trainer.step(0, make_batches(tiles, recipe, 1)[0])
    assert values["lr"] == max(group["lr"] for group in trainer.optimizer.adam.param_groups) == 1e-3


def test_a_run_of_before_keeps_the_rate_of_its_own_recipe(tmp_path: Path) -> None:
    resolved = load_recipe("large", ["optimizer.lr.peak=4e-4"])  # as large was
    (tmp_path / "recipe.yaml").write_text(resolved.to_yaml())
    again = load_recipe(tmp_path / "recipe.yaml")
    assert again == resolved and again.optimizer.rate(150_000, again.max_steps, again.batch_size) == 8e-4
