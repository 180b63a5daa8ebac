"""A run's folder: what it holds, how it goes on, and what it refuses."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from geodino.backbones.backbone import load_backbone
from geodino.backbones.card import CARD_FILE, read_card
from pretrain.engine.checkpoint import checkpoints, load_checkpoint, save_checkpoint
from pretrain.engine.run import Run, describe, pretrain
from pretrain.engine.trainer import LOSSES
from pretrain.recipes.recipe import Recipe
from tiles.errors import InputError, OutputError

Make = Callable[..., Recipe]
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler here")


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def losses(run: Path) -> list[dict[str, str]]:
    return [{name: row[name] for name in ("step", "total", *LOSSES)} for row in rows(run)]


def assert_same_state(one: Path, other: Path) -> None:
    first, second = load_checkpoint(one), load_checkpoint(other)
    assert first.keys() == second.keys() and first["step"] == second["step"]
    for part in ("student", "teacher", "gram"):
        assert first[part].keys() == second[part].keys()
        for name, value in first[part].items():
            torch.testing.assert_close(value, second[part][name], rtol=0, atol=0)
    for index, moments in first["optimizer"]["state"].items():
        for name, value in moments.items():
            torch.testing.assert_close(value, second["optimizer"]["state"][index][name], rtol=0, atol=0)


@pytest.fixture
def finished(tmp_path: Path, make_recipe: Make, tiles: Any) -> Path:
    return pretrain(Run(tiles, "TILES", tmp_path / "finished", make_recipe()))


def test_a_run_holds_what_the_contract_says(finished: Path, tiles: Any) -> None:
    assert {path.name for path in finished.iterdir()} >= {
        "backbone.safetensors",
        "backbone.json",
        "checkpoints",
        "metrics.csv",
        "recipe.yaml",
        "tensorboard",
    }
    assert [row["step"] for row in rows(finished)] == ["1", "2", "3", "4", "5", "6"]
    assert not list(finished.rglob("*.part"))
    recipe = Recipe.model_validate(yaml.safe_load((finished / "recipe.yaml").read_text()))
    card = json.loads((finished / "backbone.json").read_text())
    assert card["recipe_hash"] == recipe.hash()
    assert card["bands"] == ["red", "green", "blue"] and card["mean"] == [0.43, 0.411, 0.296]
    assert card["patch_size"] == 8 and card["metrics"]["step"] == 6 and card["gsd_range_m"]


def test_the_backbone_is_the_ema_teacher(finished: Path) -> None:
    backbone = load_backbone(finished, device="cpu", precision="fp32")
    state = load_checkpoint(finished / "checkpoints" / "step-00000006.ckpt")
    for name, value in backbone.module.named_parameters():
        torch.testing.assert_close(value, state["teacher"][f"backbone.{name}"], rtol=0, atol=0)
    assert backbone.encode(torch.randn(1, 3, 32, 32)).patches.shape == (1, 64, 4, 4)


def test_a_resumed_run_gives_the_same_bytes_whatever_the_workers(
    finished: Path, tmp_path: Path, make_recipe: Make, tiles: Any
) -> None:
    other = tmp_path / "other"
    stop = _StopAfter(tiles, reads=4)
    with pytest.raises(KeyboardInterrupt):
        pretrain(Run(stop, "TILES", other, make_recipe(workers=0)))
    assert list(checkpoints(other / "checkpoints")) == [3]
    pretrain(Run(tiles, "TILES", other, make_recipe(workers=3)), resume=True)
    assert_same_state(finished / "checkpoints" / "step-00000006.ckpt", other / "checkpoints" / "step-00000006.ckpt")
    assert losses(other) == losses(finished)
    assert (finished / "backbone.safetensors").read_bytes() == (other / "backbone.safetensors").read_bytes()


def test_the_card_of_a_resumed_run_counts_the_hours_before_it(tmp_path: Path, make_recipe: Make, tiles: Any) -> None:
    folder = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        pretrain(Run(_StopAfter(tiles, reads=4), "TILES", folder, make_recipe(workers=0)))
    card = read_card(folder / CARD_FILE)
    (folder / CARD_FILE).write_text(card.model_copy(update={"hours": 7.0}).model_dump_json())
    pretrain(Run(tiles, "TILES", folder, make_recipe(workers=0)), resume=True)
    assert 7.0 <= (read_card(folder / CARD_FILE).hours or 0) < 8.0


class _StopAfter:
    """Tiles that interrupt after a number of batches."""

    def __init__(self, tiles: Any, reads: int) -> None:
        self._tiles, self._reads = tiles, reads

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tiles, name)

    def __len__(self) -> int:
        return len(self._tiles)

    def read_batch(self, indices: Any) -> Any:
        self._reads -= 1
        if self._reads < 0:
            raise KeyboardInterrupt
        return self._tiles.read_batch(indices)


_SCRIPT = """
import importlib.util, sys
from pathlib import Path
spec = importlib.util.spec_from_file_location("memory", sys.argv[1])
memory = importlib.util.module_from_spec(spec); spec.loader.exec_module(memory)
import torch
torch.set_num_threads(1)
from pretrain.recipes.loading import merged, resolve
from pretrain.engine.run import Run, pretrain
import yaml
changes = yaml.safe_load(sys.argv[3])
recipe = resolve([merged(memory.SMALL, changes)], "test")
pretrain(Run(memory.MemoryTiles(), "TILES", Path(sys.argv[2]), recipe), resume=True)
"""


def start(folder: Path, changes: dict[str, Any], **environment: str) -> subprocess.Popen[bytes]:
    memory = str(Path(__file__).parent / "conftest.py")
    arguments = [sys.executable, "-c", _SCRIPT, memory, str(folder), yaml.safe_dump(changes)]
    environment = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"} | environment
    return subprocess.Popen(arguments, env=os.environ | environment, stderr=subprocess.PIPE)


@pytest.mark.slow
@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=needs_compiler)])
def test_a_killed_run_goes_on_to_the_same_bytes(tmp_path: Path, make_recipe: Make, tiles: Any, compiled: bool) -> None:
    changes = {"max_steps": 40, "checkpoint_every": 5, "keep_checkpoints": 3, "backbone": {"compile": compiled}}
    whole = pretrain(Run(tiles, "TILES", tmp_path / "whole", make_recipe(**changes)))
    killed = tmp_path / "killed"
    process = start(killed, changes | {"workers": 2})
    while not checkpoints(killed / "checkpoints"):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert 40 not in checkpoints(killed / "checkpoints")
    pretrain(Run(tiles, "TILES", killed, make_recipe(**changes, workers=0)), resume=True)
    assert_same_state(whole / "checkpoints" / "step-00000040.ckpt", killed / "checkpoints" / "step-00000040.ckpt")
    assert losses(killed) == losses(whole)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_give_the_losses_of_one(strategy: str, tmp_path: Path, make_recipe: Make, tiles: Any) -> None:
    changes = {"batch_size": 32, "max_steps": 3, "backbone": {"rope_rescale": 1.0}, "strategy": strategy}
    one = pretrain(Run(tiles, "TILES", tmp_path / "one", make_recipe(**changes)))
    both = tmp_path / "both"
    common = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
    common |= {"GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "test", "NODE_RANK": "0"}
    processes = [start(both, changes, RANK=str(rank), LOCAL_RANK=str(rank), **common) for rank in (0, 1)]
    for process in processes:
        _, errors = process.communicate(timeout=500)
        assert process.returncode == 0, errors.decode()[-2000:]
    for mine, theirs in zip(rows(one), rows(both), strict=True):
        for name in ("total", *LOSSES):
            assert float(theirs[name]) == pytest.approx(float(mine[name]), rel=2e-3, abs=1e-5), (mine["step"], name)
    ours, shared = (load_checkpoint(run / "checkpoints" / "step-00000003.ckpt") for run in (one, both))
    for name, value in ours["teacher"].items():
        torch.testing.assert_close(shared["teacher"][name], value, rtol=1e-2, atol=1e-4)
    # what several ranks wrote, one can go on from
    more = make_recipe(phase="gram", previous=str(both), max_steps=1)
    pretrain(Run(tiles, "TILES", tmp_path / "more", more))


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_run_that_exists_is_not_overwritten(finished: Path, make_recipe: Make, tiles: Any) -> None:
    with pytest.raises(OutputError, match="holds a run already; add --resume"):
        pretrain(Run(tiles, "TILES", finished, make_recipe()))


def test_a_run_with_another_recipe_is_not_resumed(finished: Path, make_recipe: Make, tiles: Any) -> None:
    with pytest.raises(InputError, match=r"started with another recipe \(koleo.weight differ\)"):
        pretrain(Run(tiles, "TILES", finished, make_recipe(koleo={"weight": 0.3})), resume=True)


def test_a_run_is_not_resumed_on_other_tiles(finished: Path, make_recipe: Make, make_tiles: Any) -> None:
    with pytest.raises(InputError, match="not the tile set"):
        pretrain(Run(make_tiles(40), "OTHER", finished, make_recipe()), resume=True)


def test_a_loss_that_stops_being_finite_keeps_the_batch(tmp_path: Path, make_recipe: Make, tiles: Any) -> None:
    tiles.values[:] = float("nan")
    with pytest.raises(InputError, match=r"stopped being finite at step 0; the batch is in .*nonfinite.pt") as error:
        pretrain(Run(tiles, "TILES", tmp_path / "run", make_recipe()))
    assert "halving optimizer.lr" in str(error.value)
    assert "--resume" not in str(error.value)  # which refuses another recipe
    kept = torch.load(tmp_path / "run" / "nonfinite.pt", weights_only=False)
    assert kept["step"] == 0 and len(kept["batches"]) == 1


@pytest.mark.parametrize(
    ("count", "changes", "sentence"),
    [
        (0, {}, "holds no tiles"),
        (5, {}, "holds 5 tiles, fewer than the batch of 8; cut more, or train with --set batch_size=2"),
        (48, {"bands": ["red", "nir"]}, "has the bands red, green, blue, not nir"),
        (48, {"normalization": "satellite", "bands": ["red"]}, "normalization satellite is for red, green, blue"),
        (48, {"dino": {"head": {"prototypes": 99999}}}, "cannot be balanced by the 16 rows"),
        (48, {"phase": "gram", "previous": "nowhere"}, "which holds no checkpoint"),
        (48, {"monitor": {"every": 1, "knn": "nowhere"}}, "monitor.knn names nowhere, which is no folder"),
    ],
)
def test_bad_input_gets_one_sentence_and_leaves_no_folder(
    count: int, changes: dict[str, Any], sentence: str, tmp_path: Path, make_recipe: Make, make_tiles: Any
) -> None:
    with pytest.raises(InputError) as error:
        tiles = make_tiles(max(count, 1))
        if not count:
            tiles.values = tiles.values[:0]
        pretrain(Run(tiles, "TILES", tmp_path / "run", make_recipe(**changes)))
    assert sentence in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_init_from_another_architecture_or_other_bands_is_refused(
    finished: Path, tmp_path: Path, make_recipe: Make, make_tiles: Any, tiles: Any
) -> None:
    wide = make_recipe(backbone={"arguments": {"embed_dim": 128}})
    with pytest.raises(InputError, match="does not fit the recipe's"):
        pretrain(Run(tiles, "TILES", tmp_path / "run", wide, init=str(finished)))
    radar = make_tiles(bands=("vv", "vh"))
    with pytest.raises(InputError, match="no band in common"):
        pretrain(Run(radar, "TILES", tmp_path / "run", make_recipe(), init=str(finished)))


def test_a_phase_goes_on_from_the_run_before(finished: Path, tmp_path: Path, make_recipe: Make, tiles: Any) -> None:
    frozen = {"optimizer": {"lr": 0.0}, "teacher": {"momentum": 1.0}}
    recipe = make_recipe(phase="gram", previous=str(finished), max_steps=1, **frozen)
    run = pretrain(Run(tiles, "TILES", tmp_path / "gram", recipe))
    before = load_checkpoint(finished / "checkpoints" / "step-00000006.ckpt")
    after = load_checkpoint(run / "checkpoints" / "step-00000001.ckpt")
    for part in ("student", "teacher"):
        for name, value in before[part].items():
            torch.testing.assert_close(after[part][name], value, rtol=0, atol=0)
    # the first Gram teacher is the EMA teacher of the finished run
    for name, value in after["gram"].items():
        if f"backbone.{name}" in before["teacher"]:
            torch.testing.assert_close(value, before["teacher"][f"backbone.{name}"], rtol=0, atol=0)
    other = make_recipe(phase="gram", previous=str(finished), backbone={"arguments": {"depth": 3}})
    with pytest.raises(InputError, match="comes from another architecture"):
        pretrain(Run(tiles, "TILES", tmp_path / "other", other))


@pytest.mark.parametrize(
    ("phase", "before", "last", "sentence"),
    [
        (
            "hires",
            "phase: pretrain\nmax_steps: 6\n",
            6,
            "goes on from a finished gram run, and BEFORE is a pretrain run",
        ),
        ("gram", "phase: gram\nmax_steps: 6\n", 6, "goes on from a finished pretrain run, and BEFORE is a gram run"),
        ("gram", "phase: pretrain\nmax_steps: 6\n", 3, "BEFORE has come to step 3 of 6"),
        ("gram", "max_steps: 6\n", 6, "recipe.yaml does not tell the phase and max_steps"),
        ("gram", "[", 6, "recipe.yaml does not tell the phase and max_steps"),
        ("gram", None, 6, "recipe.yaml does not tell the phase and max_steps"),
    ],
)
def test_a_phase_refuses_a_run_of_another_phase_or_one_that_has_not_finished(
    phase: str, before: str | None, last: int, sentence: str, tmp_path: Path, make_recipe: Make, tiles: Any
) -> None:
    previous = tmp_path / "before"
    save_checkpoint(previous / "checkpoints", last, {"student": {}}, keep=1, milestone_every=0)
    if before is not None:
        (previous / "recipe.yaml").write_text(before)
    recipe = make_recipe(phase=phase, previous=str(previous), koleo={"group": None})
    with pytest.raises(InputError) as error:
        pretrain(Run(tiles, "TILES", tmp_path / "run", recipe))
    assert sentence.replace("BEFORE", str(previous)) in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_init_brings_the_weights_and_expands_the_bands(
    finished: Path, tmp_path: Path, make_recipe: Make, make_tiles: Any
) -> None:
    frozen = {"optimizer": {"lr": 0.0}, "teacher": {"momentum": 1.0}, "max_steps": 1}
    recipe = make_recipe(backbone={"architecture": "init", "arguments": {}}, **frozen)
    settings = recipe.backbone.model_copy(update={"arguments": {}})
    recipe = recipe.model_copy(update={"backbone": settings})
    four = make_tiles(bands=("red", "green", "blue", "nir"))
    run = pretrain(Run(four, "TILES", tmp_path / "more", recipe, init=str(finished)))
    old, new = (load_backbone(folder, device="cpu", precision="fp32") for folder in (finished, run))
    assert new.bands == ("red", "green", "blue", "nir")
    weight = new.module.patch_embed.proj.weight
    torch.testing.assert_close(weight.sum(1), old.module.patch_embed.proj.weight.sum(1), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(new.module.blocks[0].mlp.fc1.weight, old.module.blocks[0].mlp.fc1.weight)


def test_the_gram_teacher_may_be_a_named_run(finished: Path, tmp_path: Path, make_recipe: Make, tiles: Any) -> None:
    recipe = make_recipe(gram={"teacher": str(finished)}, max_steps=2, seed=5)
    run = pretrain(Run(tiles, "TILES", tmp_path / "run", recipe))
    state = load_checkpoint(run / "checkpoints" / "step-00000002.ckpt")
    named = load_backbone(finished, device="cpu", precision="fp32").module.state_dict()
    for name, value in state["gram"].items():
        torch.testing.assert_close(value, named[name], rtol=0, atol=0)
    assert float(rows(run)[0]["gram"]) > 0


def test_a_dry_run_prints_recipe_memory_and_time_and_writes_nothing(
    tmp_path: Path, make_recipe: Make, tiles: Any
) -> None:
    text = describe(Run(tiles, "TILES", tmp_path / "run", make_recipe()))
    assert "batch_size: 8" in text and "GiB" in text and "s a step" in text and "h for the run" in text
    assert not (tmp_path / "run").exists()


def test_the_state_of_a_trainer_survives_the_disk(tmp_path: Path, finished: Path) -> None:
    path = finished / "checkpoints" / "step-00000006.ckpt"
    state = load_checkpoint(path)
    again = save_checkpoint(tmp_path, 6, {k: v for k, v in state.items() if k != "step"}, keep=1, milestone_every=0)
    assert_same_state(path, again)
