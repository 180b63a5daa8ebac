"""Distillation: the maths by hand, a run from end to end, and the same students on one process and on two."""

import csv
import dataclasses
import json
import os
import socket
import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import yaml

from geodino.backbones.backbone import load_backbone, save_backbone, untrained_backbone
from pretrain.distill import run
from pretrain.distill.objective import Standardization, Student, direction_loss, distillation_losses
from pretrain.distill.ranks import allotted_ranks
from pretrain.distill.recipe import load_distill_recipe
from pretrain.distill.run import Distillation, distill
from pretrain.network.encode import TokenBatch, create_backbone
from tiles.errors import InputError, OutputError

RGB = ("red", "green", "blue")
ARCHITECTURE = "vit_tiny_patch16_dinov3_qkvb"


@dataclass(frozen=True)
class _Batch:
    values: np.ndarray
    valid: np.ndarray
    gsd_m: np.ndarray


class _Tiles:
    """Tiles with a coloured square each; every fourth one half empty."""

    bands = RGB
    size = 32

    def __len__(self):
        return 64

    def read_batch(self, indices):
        values = np.zeros((len(indices), 3, 32, 32), np.float32)
        valid = np.ones((len(indices), 32, 32), bool)
        for place, index in enumerate(indices):
            draw = np.random.default_rng(int(index))
            values[place] = draw.random((3, 1, 1), np.float32)
            values[place, :, 4:20, 8:28] = draw.random((3, 1, 1), np.float32)
            valid[place, :16] = index % 4 != 0
        values *= valid[:, None]
        return _Batch(values, valid, np.full(len(indices), 10.0, np.float32))

    def column(self, name):
        assert name == "gsd_m"
        return np.full(len(self), 10.0)


SMALL = {
    "max_steps": 4,
    "batch_size": 8,
    "precision": "fp32",
    "workers": 0,
    "statistics_steps": 1,
    "log_every": 1,
    "checkpoint_every": 2,
    "crops": {"global_size": 64, "local_size": 32, "local_count": 1},
    "students": [
        {"architecture": "vit_tiny_patch16_dinov3_qkvb", "arguments": {"depth": 1, "embed_dim": 48, "num_heads": 3}},
        {"architecture": "convnext_atto", "arguments": {"depths": [1, 1, 1, 1], "dims": [8, 16, 24, 32]}},
    ],
}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher")
    backbone = untrained_backbone("vit_tiny_patch16_dinov3_qkvb", precision="fp32", init_values=0.5, depth=2)
    save_backbone(backbone.module, backbone.card.model_copy(update={"licence": "cc-by"}), folder)
    return str(folder)


def _recipe(tmp_path, teacher, **changes):
    path = tmp_path / "distill.yaml"
    path.write_text(yaml.safe_dump(SMALL | changes))
    return load_distill_recipe(path, teacher, [])


def _run(tmp_path, teacher, name="run", **changes):
    return Distillation(_Tiles(), "tiles", tmp_path / name, _recipe(tmp_path, teacher, **changes), "cpu")


def _weights(folder):
    from safetensors.torch import load_file

    return load_file(folder / "backbone.safetensors")


def test_the_direction_loss_by_hand():
    student = torch.tensor([[2.0, 0.0], [0.0, 3.0], [1.0, 1.0]])
    teacher = torch.tensor([[1.0, 0.0], [0.0, -1.0], [5.0, 5.0]])
    assert direction_loss(student, teacher, torch.tensor([1.0, 1.0, 0.0]), 2.0).item() == pytest.approx(1.0)
    assert direction_loss(student, teacher, torch.ones(3), 3.0).item() == pytest.approx(2 / 3)


def test_standardisation_ignores_nodata_and_tames_outlier_channels():
    cls = torch.randn(50, 4) * torch.tensor([1.0, 1.0, 1.0, 100.0]) + 3
    patches = torch.randn(50, 6, 4)
    valid = torch.ones(50, 6, dtype=torch.bool)
    valid[:, 3:] = False
    patches[:, 3:] = 1e6
    made = Standardization.of(cls, patches, valid)(TokenBatch(cls, patches))
    torch.testing.assert_close(made.cls.mean(0), torch.zeros(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(made.cls.std(0, correction=0), torch.ones(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(made.patches[:, :3].mean((0, 1)), torch.zeros(4), atol=1e-4, rtol=0)


def test_losses_are_zero_for_a_perfect_student_and_blind_to_nodata():
    generator = torch.Generator().manual_seed(0)
    cls = torch.randn(2, 3, 5, generator=generator)
    cls[1] = cls[0]  # the two crops of an image say the same
    teacher = TokenBatch(cls.flatten(0, 1), torch.randn(6, 4, 5, generator=generator))
    valid = torch.rand(6, 4, generator=generator) > 0.4
    weights, small = torch.ones(2, 3), torch.ones(1, 3)
    local = cls[0].clone()
    perfect = distillation_losses((teacher, local), teacher, valid, weights, small)
    assert all(value.item() == pytest.approx(0, abs=1e-6) for value in perfect.values())
    wrong = TokenBatch(teacher.cls.clone(), torch.where(valid[..., None], teacher.patches, torch.tensor(-7.0)))
    weights[1, 2] = small[0, 1] = 0
    wrong.cls[5], local[1] = 3.0, -local[1]
    blind = distillation_losses((wrong, local), teacher, valid, weights, small)
    assert all(value.item() == pytest.approx(0, abs=1e-6) for value in blind.values())


def test_ranks_follow_cost():
    assert allotted_ranks([1.0, 1.0], 2) == [1, 1]
    assert allotted_ranks([10.0, 30.0, 60.0], 10) == [1, 3, 6]
    assert allotted_ranks([1.0, 1000.0], 3) == [1, 2]
    with pytest.raises(InputError, match="cannot serve"):
        allotted_ranks([1.0, 1.0], 1)


def test_a_run_writes_a_loadable_backbone_for_each_student_from_one_teacher_pass(tmp_path, teacher, monkeypatch):
    calls = []
    tokens = run.teacher_tokens
    monkeypatch.setattr(run, "teacher_tokens", lambda *a: calls.append(1) or tokens(*a))
    distill(_run(tmp_path, teacher))
    assert len(calls) == 4 + 1  # one a step for both students, one for the statistics
    for name, patch in (("vit_tiny_patch16_dinov3_qkvb", 16), ("convnext_atto", 32)):
        folder = tmp_path / "run" / name
        backbone = load_backbone(folder, device="cpu", precision="fp32")
        assert backbone.patch_size == patch and backbone.bands == RGB and backbone.licence == "cc-by"
        assert backbone.encode(torch.zeros(1, 3, 64, 64)).patches.shape[-1] == 64 // patch
        card = json.loads((folder / "backbone.json").read_text())
        assert card["data"].startswith("distilled from ") and card["gsd_range_m"] is not None
        with (folder / "metrics.csv").open() as file:
            assert [row["step"] for row in csv.DictReader(file)] == ["1", "2", "3", "4"]
    assert not list(tmp_path.rglob("*.part"))


def test_students_learn(tmp_path, teacher):
    optimizer = {"lr": {"peak": 2e-2, "warmup": 0.1}}
    distill(_run(tmp_path, teacher, max_steps=16, checkpoint_every=100, optimizer=optimizer))
    for name in ("vit_tiny_patch16_dinov3_qkvb", "convnext_atto"):
        with (tmp_path / "run" / name / "metrics.csv").open() as file:
            totals = [float(row["total"]) for row in csv.DictReader(file)]
        assert sum(totals[-4:]) < 0.9 * sum(totals[:4])


def test_stochastic_depth_reaches_a_vit_student_while_it_trains():
    backbone = create_backbone(ARCHITECTURE, 3, depth=1, embed_dim=48, num_heads=3, init_values=0.5)
    student, pixels = Student(backbone, 8, drop_path=0.5), torch.randn(4, 3, 32, 32)
    whole = student.eval()(pixels, 2).cls
    assert torch.equal(whole, student(pixels, 2).cls)
    assert not torch.allclose(whole, student.train()(pixels, 2).cls)


def test_resuming_gives_the_same_bytes(tmp_path, teacher, monkeypatch):
    distill(_run(tmp_path, teacher, "whole"))
    step = run.StudentTrainer.step

    def dying(self, at, *rest):
        if at == 3:
            raise KeyboardInterrupt
        return step(self, at, *rest)

    monkeypatch.setattr(run.StudentTrainer, "step", dying)
    with pytest.raises(KeyboardInterrupt):
        distill(_run(tmp_path, teacher, "halved"))
    monkeypatch.setattr(run.StudentTrainer, "step", step)
    distill(_run(tmp_path, teacher, "halved", workers=2), resume=True)
    for name in ("vit_tiny_patch16_dinov3_qkvb", "convnext_atto"):
        whole, halved = (_weights(tmp_path / run / name) for run in ("whole", "halved"))
        assert all(torch.equal(whole[key], halved[key]) for key in whole)


def test_a_second_run_or_other_settings_are_refused(tmp_path, teacher, monkeypatch):
    distill(_run(tmp_path, teacher, max_steps=1))
    with pytest.raises(OutputError, match="--resume"):
        distill(_run(tmp_path, teacher, max_steps=1))
    with pytest.raises(InputError, match="max_steps"):
        distill(_run(tmp_path, teacher, max_steps=2), resume=True)
    again = _run(tmp_path, teacher, max_steps=1)
    fewer = type("Fewer", (_Tiles,), {"__len__": lambda self: 32})()
    with pytest.raises(InputError, match="not the tile set"):
        distill(dataclasses.replace(again, tiles=fewer), resume=True)
    monkeypatch.setattr(run, "load_backbone", lambda *_, **options: untrained_backbone(ARCHITECTURE, **options))
    with pytest.raises(InputError, match="other weights"):
        distill(again, resume=True)


def test_a_loss_that_stops_being_finite_keeps_the_batch(tmp_path, teacher):
    class Broken(_Tiles):
        def read_batch(self, indices):
            read = super().read_batch(indices)
            return dataclasses.replace(read, values=np.full_like(read.values, np.nan))

    run = dataclasses.replace(_run(tmp_path, teacher), tiles=Broken())
    folder = tmp_path / "run" / ARCHITECTURE
    with pytest.raises(InputError, match=f"stopped being finite at step 0; the batch is in {folder}/nonfinite.pt"):
        distill(run)
    kept = torch.load(folder / "nonfinite.pt", weights_only=False)
    assert kept["step"] == 0 and len(kept["batches"]) == 1 and "total" in kept["losses"]
    assert not (folder / "checkpoints").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"crops": {"global_size": 72}}, "16-pixel patch"),
        ({"crops": {"global_size": 80, "local_size": 32}}, "convnext_atto"),
        ({"batch_size": 100}, "fewer than the batch"),
    ],
)
def test_what_does_not_fit_is_refused_before_the_first_step(tmp_path, teacher, changes, words):
    with pytest.raises(InputError, match=words):
        distill(_run(tmp_path, teacher, **changes))
    assert not (tmp_path / "run").exists()


def test_recipes_refuse_unknown_keys_and_missing_students(tmp_path):
    with pytest.raises(InputError, match="--student"):
        load_distill_recipe(None, "TEACHER", [])
    with pytest.raises(InputError, match="max_step"):
        load_distill_recipe(None, "TEACHER", ["convnext_atto"], ["max_step=3"])
    with pytest.raises(InputError, match="ranks"):
        load_distill_recipe(
            None, "TEACHER", [], ["students=[{architecture: convnext_atto, ranks: 1}, {architecture: convnext_femto}]"]
        )
    with pytest.raises(InputError, match="keep_checkpoints"):
        load_distill_recipe(None, "TEACHER", ["convnext_atto"], ["keep_checkpoints=1"])
    made = load_distill_recipe(
        None, "TEACHER", ["convnext_atto", "convnext_atto.x"], ["optimizer.lr=1e-3", "crops.local_count=0"]
    )
    assert made.names() == ["convnext_atto", "convnext_atto-2"]
    assert made.optimizer.lr.peak == 1e-3 and made.crops.global_size == 128


_WORKER = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("distillation_tests", sys.argv[1])
tests = importlib.util.module_from_spec(spec)
sys.modules["distillation_tests"] = tests
spec.loader.exec_module(tests)
from pathlib import Path
from pretrain.distill.recipe import load_distill_recipe
from pretrain.distill.run import Distillation, distill
recipe = load_distill_recipe(Path(sys.argv[2]), sys.argv[4], [])
distill(Distillation(tests._Tiles(), "tiles", Path(sys.argv[3]), recipe, "cpu"))
"""


@pytest.mark.slow
@pytest.mark.parametrize("students", [[0, 1], [0]])
def test_two_processes_give_the_students_of_one(tmp_path, teacher, students):
    chosen = [SMALL["students"][index] for index in students]
    distill(_run(tmp_path, teacher, "one", students=chosen))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", _WORKER, __file__, str(tmp_path / "distill.yaml"), str(tmp_path / "two"), teacher]
    workers = [subprocess.Popen(command, env=os.environ | shared | {"RANK": str(rank)}) for rank in range(2)]
    assert [worker.wait(300) for worker in workers] == [0, 0]
    for settings in chosen:
        one, two = (_weights(tmp_path / run / settings["architecture"]) for run in ("one", "two"))
        for key in one:
            torch.testing.assert_close(two[key], one[key], atol=2e-5, rtol=1e-4)
