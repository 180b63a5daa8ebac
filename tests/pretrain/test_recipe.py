"""Recipes: layers, names, and the sentences that bad ones get."""

from pathlib import Path

import pytest
import yaml

from pretrain.engine.checks import check_recipe
from pretrain.recipes.loading import load_recipe, packaged
from pretrain.recipes.recipe import Recipe
from tiles.errors import InputError


@pytest.mark.parametrize("name", packaged())
def test_packaged_recipes_are_complete_and_sound(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert Recipe.model_validate(yaml.safe_load(recipe.to_yaml())) == recipe
    if recipe.backbone.architecture != "init":
        check_recipe(recipe)


@pytest.mark.parametrize("name", ["small", "base", "large", "dinov3"])
def test_phases_follow_each_other(name: str) -> None:
    gram = load_recipe(name, ["phase=gram", "previous=R1"])
    hires = load_recipe(name, ["phase=hires", "previous=R2"])
    for phase in (gram, hires):
        check_recipe(phase)
        assert phase.uses_gram
    assert gram.crops.gram_size == 2 * gram.crops.global_size
    assert hires.crops.global_size == 512 and hires.crops.gram_size == 768


def test_every_loss_of_tiny_is_on_soon() -> None:
    recipe = load_recipe("tiny", ["max_steps=60"])
    weights = [recipe.dino.weight, recipe.ibot.weight, recipe.koleo.weight, recipe.gram.weight.at(6, 60)]
    assert min(weights) > 0
    assert recipe.gram.first_update * 60 <= 10


def test_a_method_named_beside_a_recipe_goes_over_it() -> None:
    recipe = load_recipe("tiny", ["method=dino"])
    assert recipe.ibot.weight == recipe.koleo.weight == 0 and not recipe.uses_gram
    assert recipe.teacher.centering == "softmax"
    assert recipe.backbone.architecture == load_recipe("tiny").backbone.architecture


def test_a_recipe_changes_what_its_own_method_says(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("method: dino\nteacher: {centering: sinkhorn_knopp}\n")
    recipe = load_recipe(path)
    assert recipe.teacher.centering == "sinkhorn_knopp" and recipe.koleo.weight == 0


def test_pairs_go_on_top() -> None:
    recipe = load_recipe(
        "tiny", ["optimizer.lr=1e-3", "crops.local_count=3", "gram.weight.peak=0.5", "bands=[red, nir]"]
    )
    assert recipe.optimizer.lr.at(10, 100) == 1e-3
    assert recipe.crops.local_count == 3 and recipe.gram.weight.peak == 0.5 and recipe.bands == ("red", "nir")


@pytest.mark.parametrize(
    ("pair", "sentence"),
    [
        ("max_step=3", "unknown key max_step; did you mean max_steps?"),
        ("dino.wieght=3", "unknown key dino.wieght; did you mean dino.weight?"),
        ("crops.globl_size=3", "unknown key crops.globl_size; did you mean crops.global_size?"),
        ("batch_size=many", "batch_size: Input should be a valid integer"),
        ("max_steps", "--set takes KEY=VALUE, not 'max_steps'"),
        ("gram.remove_neg=true", ""),
        ("phase=gram", "phase gram goes on from a finished pretrain run: name its folder with --set previous=RUN"),
        ("accumulate=3", "batch_size 64 does not split into 3 micro-batches"),
        ("accumulate=2", "set koleo.group to a divisor of the micro-batch of 32"),
        ("koleo.group=7", "koleo.group 7 does not divide the batch of 64"),
    ],
)
def test_a_bad_pair_gets_one_sentence(pair: str, sentence: str) -> None:
    if not sentence:
        load_recipe("tiny", [pair])
        return
    with pytest.raises(InputError) as error:
        load_recipe("tiny", [pair])
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


def test_an_unknown_recipe_names_those_that_exist() -> None:
    with pytest.raises(InputError, match="no recipe 'tinny'; choose one of adapt, base"):
        load_recipe("tinny")
    with pytest.raises(InputError, match="no recipe file"):
        load_recipe("missing.yaml")


def test_the_hash_ignores_where_and_how_fast_a_run_goes() -> None:
    base = load_recipe("tiny")
    assert load_recipe("tiny", ["workers=7", "log_every=3", "checkpoint_every=9"]).hash() == base.hash()
    assert load_recipe("tiny", ["seed=7"]).hash() != base.hash()
