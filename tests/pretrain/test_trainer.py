"""One step of training: what the losses are, what moves, and what a cut batch changes (nothing)."""

import math
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from pretrain.data.batches import Batch
from pretrain.data.sampling import step_indices
from pretrain.engine.parallel import Parallel
from pretrain.engine.teacher import ema_update, gram_update_due
from pretrain.engine.trainer import LOSSES, NonFiniteLossError, Trainer
from pretrain.network.network import build_network
from pretrain.ranks import Ranks
from pretrain.recipes.recipe import Recipe

Make = Callable[..., Recipe]


def trainer_of(recipe: Recipe, **settings: Any) -> Trainer:
    trainer = Trainer(recipe, build_network(recipe, 3), **settings)
    trainer.refresh_gram(0)
    return trainer


def test_every_loss_is_there_and_finite(make_recipe: Make, make_batches: Any, tiles: Any) -> None:
    recipe = make_recipe()
    trainer = trainer_of(recipe)
    for step, batches in enumerate(make_batches(tiles, recipe, 3)):
        values = trainer.step(step, batches)
        assert all(math.isfinite(values[name]) for name in (*LOSSES, "total"))
    # Gram begins at zero (the student is the teacher) and leaves it
    assert values["gram"] > 0


def test_the_first_losses_are_those_of_scores_that_know_nothing(
    make_recipe: Make, make_batches: Any, tiles: Any
) -> None:
    recipe = make_recipe()
    values = trainer_of(recipe).step(0, make_batches(tiles, recipe, 1)[0])
    assert values["dino_global"] == pytest.approx(math.log(64), rel=0.02)
    assert values["dino_local"] == pytest.approx(math.log(64), rel=0.02)
    assert values["ibot"] == pytest.approx(math.log(64) / 2, rel=0.02)  # half of the crops are masked


def test_the_total_weighs_pairs_by_their_number(make_recipe: Make, make_batches: Any, tiles: Any) -> None:
    recipe = make_recipe()
    values = trainer_of(recipe).step(0, make_batches(tiles, recipe, 1)[0])
    # 2 global pairs and 2 * 2 local ones
    expected = (2 * values["dino_global"] + 4 * values["dino_local"]) / 6 + values["ibot"]
    expected += recipe.koleo.weight * values["koleo"] + recipe.gram.weight.peak * values["gram"]
    assert values["total"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("method", ["dino", "dinov2", "dinov3"])
def test_the_three_methods_are_recipes_of_one_engine(
    method: str, make_recipe: Make, make_batches: Any, tiles: Any
) -> None:
    off = {"gram": {"weight": 0.0}, "crops": {"gram_scale": None}} if method != "dinov3" else {}
    more = {"ibot": {"weight": 0.0}, "koleo": {"weight": 0.0}, "teacher": {"centering": "softmax"}}
    recipe = make_recipe(method=method, **off, **(more if method == "dino" else {}))
    trainer = trainer_of(recipe)
    values = trainer.step(0, make_batches(tiles, recipe, 1)[0])
    on = {name for name in LOSSES if values[name] != 0 or (name == "gram" and trainer.gram is not None)}
    assert (
        on
        == {
            "dino": {"dino_global", "dino_local"},
            "dinov2": {"dino_global", "dino_local", "ibot", "koleo"},
            "dinov3": set(LOSSES),
        }[method]
    )


def test_a_convnext_trains_without_masks(make_recipe: Make, make_batches: Any, make_tiles: Any) -> None:
    recipe = make_recipe(
        backbone={"architecture": "convnext_atto", "arguments": {"depths": [1, 1, 1, 1], "patch_size": 4}},
        crops={"global_size": 64, "local_size": 32, "gram_scale": 1.0},
    )
    settings = recipe.backbone.model_copy(update={"arguments": {"depths": [1, 1, 1, 1]}, "layer_scale": 1e-2})
    recipe = recipe.model_copy(update={"backbone": settings, "ibot": recipe.ibot.model_copy(update={"weight": 0.0})})
    values = trainer_of(recipe).step(0, make_batches(make_tiles(size=64), recipe, 1)[0])
    assert values["dino_global"] > 0 and values["ibot"] == 0 and math.isfinite(values["total"])


def gradients(recipe: Recipe, batches: list[Batch]) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    trainer = trainer_of(recipe)
    kept: dict[str, torch.Tensor] = {}
    take = trainer.optimizer.step

    def keep(step: int, max_steps: int) -> dict[str, float]:
        kept.update({n: p.grad.clone() for n, p in trainer.student.named_parameters() if p.grad is not None})
        return take(step, max_steps)

    trainer.optimizer.step = keep  # type: ignore[method-assign]
    return trainer.step(0, batches), kept


def test_accumulation_gives_the_losses_and_gradients_of_the_whole_batch(
    make_recipe: Make, make_batches: Any, tiles: Any
) -> None:
    still = {"rope_rescale": 1.0}  # drawn anew for every forward pass otherwise
    whole = make_recipe(batch_size=32, koleo={"group": 8}, backbone=still)
    cut = make_recipe(batch_size=32, accumulate=2, koleo={"group": 8}, backbone=still)
    # some crops without ground, so that the halves weigh differently
    tiles.valid[::5, :, 8:] = False
    one, expected = gradients(whole, make_batches(tiles, whole, 1)[0])
    two, found = gradients(cut, make_batches(tiles, cut, 1)[0])
    for name in (*LOSSES, "total"):
        assert two[name] == pytest.approx(one[name], rel=1e-4, abs=1e-6), name
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=2e-3, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


def test_a_micro_batch_without_gaps_counts_beside_one_with_gaps(
    make_recipe: Make, make_batches: Any, tiles: Any
) -> None:
    still = {"rope_rescale": 1.0}
    whole = make_recipe(batch_size=32, koleo={"group": 8}, backbone=still)
    cut = make_recipe(batch_size=32, accumulate=2, koleo={"group": 8}, backbone=still)
    tiles.valid[step_indices(len(tiles), 32, 0, cut.seed)[16:], :, 8:] = False
    halves = make_batches(tiles, cut, 1)[0]
    assert [half.all_valid for half in halves] == [True, False]
    one, expected = gradients(whole, make_batches(tiles, whole, 1)[0])
    two, found = gradients(cut, halves)
    for name in (*LOSSES, "total"):
        assert two[name] == pytest.approx(one[name], rel=1e-4, abs=1e-6), name
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=2e-3, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


class Threads(Ranks):
    """One of two ranks that are threads; what they share are values, not gradients."""

    world = 2

    def __init__(self, rank: int, values: list[torch.Tensor], barrier: threading.Barrier) -> None:
        self.rank, self.values, self.barrier = rank, values, barrier

    def gather(self, value: torch.Tensor) -> torch.Tensor:
        self.values[self.rank] = value.detach()
        self.barrier.wait()
        both = list(self.values)
        self.barrier.wait()
        both[self.rank] = value
        return torch.cat(both)

    def sum(self, value: torch.Tensor) -> torch.Tensor:
        return self.gather(value.detach()[None]).sum(0)

    def mean(self, value: torch.Tensor) -> torch.Tensor:
        return self.sum(value) / 2

    def max(self, value: torch.Tensor) -> torch.Tensor:
        return self.gather(value.detach()[None]).amax(0)


def test_two_ranks_and_two_micro_batches_give_the_losses_of_the_whole_batch(
    make_recipe: Make, make_batches: Any, make_tiles: Any
) -> None:
    tiles, still = make_tiles(64), {"rope_rescale": 1.0}
    whole = make_recipe(batch_size=64, koleo={"group": 8}, backbone=still)
    cut = make_recipe(batch_size=64, accumulate=2, koleo={"group": 8}, backbone=still)
    tiles.valid[step_indices(64, 64, 0, cut.seed)[40:], :, 8:] = False  # in the second half, more on the second rank
    expected = trainer_of(whole).step(0, make_batches(tiles, whole, 1)[0])
    values, barrier = [torch.empty(0)] * 2, threading.Barrier(2, timeout=60)
    trainers = [trainer_of(cut, parallel=Parallel(ranks=Threads(rank, values, barrier))) for rank in (0, 1)]
    parts = [make_batches(tiles, cut, 1, rank=rank, world=2)[0] for rank in (0, 1)]
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda rank: trainers[rank].step(0, parts[rank]), (0, 1)))
    for values_of_rank in found:
        for name in (*LOSSES, "total"):
            assert values_of_rank[name] == pytest.approx(expected[name], rel=1e-4, abs=1e-6), name


class Follower(Ranks):
    """A rank whose constants are those of another network on rank 0."""

    rank, world = 1, 2

    def __init__(self, lead: torch.nn.Module) -> None:
        self.values = lead.parameters()

    def first(self, value: torch.Tensor) -> torch.Tensor:
        return next(self.values).detach()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_rank_starts_from_the_weights_of_the_first(dtype: torch.dtype, make_recipe: Make) -> None:
    lead = build_network(make_recipe(seed=5), 3)
    expected = [value.detach().clone() for value in lead.parameters()]
    trainer = trainer_of(make_recipe(), parallel=Parallel(ranks=Follower(lead)), dtype=dtype)
    for copies in (trainer.optimizer.masters, trainer.teacher_masters):
        torch.testing.assert_close([copy.detach() for copy in copies], expected, rtol=0, atol=0)
    for network in (trainer.student, trainer.teacher):
        for found, value in zip(network.parameters(), expected, strict=True):
            torch.testing.assert_close(found.detach(), value.to(dtype), rtol=0, atol=0)


def test_ground_without_data_reaches_no_loss(make_recipe: Make, make_batches: Any, tiles: Any) -> None:
    recipe = make_recipe(crops={"symmetries": False})
    tiles.valid[1::2, :, 16:] = False
    first = make_batches(tiles, recipe, 1)[0]
    tiles.values[1::2, :, :, 16:] = 1.0  # what lies under nodata is another number now
    second = make_batches(tiles, recipe, 1)[0]
    assert trainer_of(recipe).step(0, first) == trainer_of(recipe).step(0, second)


def test_a_batch_of_nothing_but_nodata_gives_no_gradient_to_the_cls_losses(
    make_recipe: Make, make_batches: Any, tiles: Any
) -> None:
    recipe = make_recipe()
    tiles.valid[:] = False
    values = trainer_of(recipe).step(0, make_batches(tiles, recipe, 1)[0])
    assert all(values[name] == 0 for name in LOSSES)


def test_a_loss_that_is_not_finite_changes_nothing(make_recipe: Make, make_batches: Any, tiles: Any) -> None:
    recipe = make_recipe()
    trainer = trainer_of(recipe)
    batches = make_batches(tiles, recipe, 1)[0]
    batches[0].globals_[0][0] = torch.nan
    before = {name: value.clone() for name, value in trainer.optimizer.named_masters()}
    with pytest.raises(NonFiniteLossError) as error:
        trainer.step(4, batches)
    assert error.value.step == 4 and error.value.batches is batches
    for name, value in trainer.optimizer.named_masters():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


def test_bf16_keeps_float32_masters_that_small_steps_reach(make_recipe: Make, make_batches: Any, tiles: Any) -> None:
    recipe = make_recipe(optimizer={"lr": 1e-6})
    trainer = trainer_of(recipe, dtype=torch.bfloat16)
    before = {name: value.clone() for name, value in trainer.optimizer.named_masters()}
    trainer.step(0, make_batches(tiles, recipe, 1, dtype=torch.bfloat16)[0])
    name = "backbone.blocks.0.mlp.fc1.weight"
    after = dict(trainer.optimizer.named_masters())
    assert after[name].dtype == torch.float32
    assert (after[name] != before[name]).float().mean() > 0.9  # too small for bf16, kept in float32
    working = dict(trainer.student.named_parameters())[name]
    torch.testing.assert_close(working, after[name].bfloat16(), rtol=0, atol=0)


def test_the_teacher_is_the_moving_average_of_the_student(make_recipe: Make, make_batches: Any, tiles: Any) -> None:
    recipe = make_recipe(teacher={"momentum": 0.9})
    trainer = trainer_of(recipe)
    start = [master.clone() for master in trainer.teacher_masters]
    trainer.step(0, make_batches(tiles, recipe, 1)[0])
    for teacher, old, student in zip(trainer.teacher_masters, start, trainer.optimizer.masters, strict=True):
        torch.testing.assert_close(teacher, 0.9 * old + 0.1 * student.detach(), rtol=1e-5, atol=1e-7)


def test_ema_with_momentum_one_leaves_the_teacher_alone() -> None:
    teacher, student = [torch.zeros(3)], [torch.ones(3)]
    ema_update(teacher, student, 1.0)
    assert teacher[0].tolist() == [0, 0, 0]
    ema_update(teacher, student, 0.75)
    assert teacher[0].tolist() == [0.25] * 3


def test_the_gram_teacher_is_renewed_at_its_steps_and_no_more(make_recipe: Make) -> None:
    settings = make_recipe(gram={"first_update": 10, "every": 5, "max_updates": 3}).gram
    assert [done for done in range(60) if gram_update_due(done, settings, 100)] == [10, 15, 20]
    shares = make_recipe(gram={"first_update": 0, "every": 0.25, "max_updates": 2}).gram
    assert [done for done in range(101) if gram_update_due(done, shares, 100)] == [0, 25]


def test_heads_warm_up_on_a_frozen_backbone(make_recipe: Make, make_batches: Any, tiles: Any) -> None:
    recipe = make_recipe(optimizer={"lr": 1e-3, "warm_heads": 2, "ramp": 2})
    for new_bands in (False, True):
        trainer = trainer_of(recipe, new_bands=new_bands)
        before = {name: value.detach().clone() for name, value in trainer.optimizer.named_masters()}
        for step, batches in enumerate(make_batches(tiles, recipe, 3)):
            trainer.step(step, batches)
            moved = {n for n, value in trainer.optimizer.named_masters() if not torch.equal(value, before[n])}
            assert any(name.startswith("dino_head") for name in moved)
            assert any(name.startswith("backbone.blocks") for name in moved) == (step == 2)
            assert ("backbone.patch_embed.proj.weight" in moved) == (new_bands or step == 2)


def test_frozen_prototypes_stay(make_recipe: Make, make_batches: Any, tiles: Any) -> None:
    recipe = make_recipe(optimizer={"freeze_prototypes": 2})
    trainer = trainer_of(recipe)
    name = "dino_head.prototypes.weight"
    before = dict(trainer.optimizer.named_masters())[name].detach().clone()
    moved = []
    for step, batches in enumerate(make_batches(tiles, recipe, 3)):
        trainer.step(step, batches)
        moved.append(not torch.equal(dict(trainer.optimizer.named_masters())[name], before))
    assert moved == [False, False, True]


def test_the_workers_change_nothing(make_recipe: Make, make_batches: Any, tiles: Any) -> None:
    found = [make_batches(tiles, make_recipe(batch_size=32, workers=workers), 2) for workers in (0, 1, 3)]
    for other in found[1:]:
        for one, two in zip(found[0], other, strict=True):
            for name in ("globals_", "locals_", "grams"):
                for a, b in zip(getattr(one[0], name), getattr(two[0], name), strict=True):
                    torch.testing.assert_close(a, b, rtol=0, atol=0)
            assert one[0].masks is not None and torch.equal(one[0].masks, two[0].masks)


def test_ranks_and_micro_batches_share_out_one_batch(make_recipe: Make, make_batches: Any, tiles: Any) -> None:
    whole = make_batches(tiles, make_recipe(batch_size=64), 1)[0][0]
    cut = make_recipe(batch_size=64, accumulate=2, koleo={"group": 4})
    parts = {rank: make_batches(tiles, cut, 1, rank=rank, world=2)[0] for rank in (0, 1)}
    order = [parts[0][0], parts[1][0], parts[0][1], parts[1][1]]
    torch.testing.assert_close(torch.cat([part.globals_[1] for part in order]), whole.globals_[1], rtol=0, atol=0)


class Recorder(Ranks):
    """One of two ranks that writes down what it exchanges, and takes the other to have the same."""

    world = 2

    def __init__(self) -> None:
        self.exchanges: list[tuple[str, tuple[int, ...]]] = []

    def sum(self, value: torch.Tensor) -> torch.Tensor:
        self.exchanges.append(("sum", tuple(value.shape)))
        return 2 * value

    def max(self, value: torch.Tensor) -> torch.Tensor:
        self.exchanges.append(("max", tuple(value.shape)))
        return value

    def mean(self, value: torch.Tensor) -> torch.Tensor:
        return self.sum(value) / 2

    def gather(self, value: torch.Tensor) -> torch.Tensor:
        self.exchanges.append(("gather", tuple(value.shape)))
        return torch.cat([value, value.detach()])


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("centering", ["sinkhorn_knopp", "softmax"])
def test_a_rank_whose_ground_is_all_valid_exchanges_what_one_with_gaps_does(
    centering: str, accumulate: int, make_recipe: Make, make_batches: Any, tiles: Any
) -> None:
    recipe = make_recipe(teacher={"centering": centering}, accumulate=accumulate, koleo={"group": 4})
    found = []
    for gaps in (False, True):
        tiles.valid[::3] = not gaps
        ranks = Recorder()
        trainer = Trainer(recipe, build_network(recipe, 3), Parallel(ranks=ranks))
        trainer.refresh_gram(0)
        trainer.step(0, make_batches(tiles, recipe, 1)[0])
        found.append(ranks.exchanges)
    assert found[0] == found[1]
    assert ("gather", (recipe.batch_size // accumulate, 64)) in found[0]


def test_a_rank_whose_loss_is_not_finite_exchanges_its_gradients_all_the_same(
    make_recipe: Make, make_batches: Any, tiles: Any
) -> None:
    exchanged: list[torch.Tensor] = []

    def backward(loss: torch.Tensor) -> None:
        exchanged.append(loss)
        loss.backward()

    recipe = make_recipe()
    trainer = Trainer(recipe, build_network(recipe, 3), Parallel(ranks=Recorder(), backward=backward))
    batches = make_batches(tiles, recipe, 1)[0]
    batches[0].globals_[0][0] = torch.nan
    with pytest.raises(NonFiniteLossError):
        trainer.step(0, batches)
    assert len(exchanged) == 1
    assert all(parameter.grad is None for parameter in trainer.student.parameters())
