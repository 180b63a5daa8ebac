"""The drift monitor: one row and one picture a measurement, labelled images from a folder, resume without repeats."""

import csv
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from PIL import Image

from geodino.backbones.normalize import SATELLITE
from pretrain.monitor.drift_monitor import DriftMonitor
from pretrain.monitor.labelled import LabelledImages
from pretrain.network.encode import create_backbone
from pretrain.network.network import Network
from pretrain.recipes.settings import HeadSettings, MonitorSettings
from tiles.errors import InputError

RGB = ("red", "green", "blue")


@dataclass(frozen=True)
class _Batch:
    values: np.ndarray
    valid: np.ndarray
    gsd_m: np.ndarray


class _Tiles:
    bands = ("nir", "blue", "green", "red")

    def __len__(self):
        return 9

    def read_batch(self, indices):
        values = np.stack([np.random.default_rng(int(i)).random((4, 16, 16), np.float32) for i in indices])
        valid = np.ones((len(indices), 16, 16), bool)
        valid[0, :8] = False
        return _Batch(values, valid, np.ones(len(indices), np.float32))


@pytest.fixture(scope="module")
def teacher():
    torch.manual_seed(0)
    backbone = create_backbone("vit_tiny_patch16_dinov3_qkvb", 3, init_values=0.2, depth=2)
    return Network(backbone, HeadSettings(hidden=32, bottleneck=16, prototypes=64), None).eval()


@pytest.fixture
def folder(tmp_path):
    colours = {"field": (40, 160, 40), "water": (10, 30, 120)}
    for name, colour in colours.items():
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(6):
            noise = np.random.default_rng(number).integers(0, 8, (16, 16, 3))
            Image.fromarray((np.array(colour) + noise).astype(np.uint8)).save(
                tmp_path / "images" / name / f"{number}.png"
            )
    return tmp_path / "images"


def _monitor(run, settings, step=0):
    return DriftMonitor(settings, _Tiles(), RGB, SATELLITE, size=64, patch=16, run=run, step=step)


def _rows(run):
    with (run / "drift.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_measurement_is_a_row_a_picture_and_numbers_in_range(tmp_path, teacher, folder):
    settings = MonitorSettings(every=10, knn=str(folder), pictures=3)
    monitor = _monitor(tmp_path, settings)
    found = monitor.measure(teacher, 10, 0.05)
    assert set(found) == {
        "drift_cls_patch_cosine",
        "drift_similarity_near",
        "drift_similarity_far",
        "drift_locality",
        "drift_teacher_entropy",
        "drift_prototype_balance",
        "drift_nearest_distance",
        "drift_knn",
    }
    assert all(np.isfinite(value) for value in found.values())
    assert found["drift_knn"] == 1.0  # green fields and blue water
    assert 0 <= found["drift_teacher_entropy"] <= 1 and 0 <= found["drift_prototype_balance"] <= 1
    picture = Image.open(tmp_path / "pictures" / "step-00000010.png")
    assert picture.size == (3 * 64, 2 * 64)
    assert not np.asarray(picture)[:32, :64].any()  # the upper half of the first tile has no data
    assert [row["step"] for row in _rows(tmp_path)] == ["10"]
    assert not list(tmp_path.rglob("*.part"))


def test_the_same_teacher_gives_the_same_numbers(tmp_path, teacher):
    settings = MonitorSettings(every=10, pictures=0)
    first = _monitor(tmp_path, settings).measure(teacher, 10, 0.05)
    assert first == _monitor(tmp_path, settings).measure(teacher, 10, 0.05)
    assert not (tmp_path / "pictures").exists()


def test_a_resumed_run_drops_the_rows_after_its_checkpoint(tmp_path, teacher):
    settings = MonitorSettings(every=10, pictures=0)
    monitor = _monitor(tmp_path, settings)
    for step in (10, 20, 30):
        monitor.measure(teacher, step, 0.05)
    _monitor(tmp_path, settings, step=20).measure(teacher, 30, 0.05)
    assert [row["step"] for row in _rows(tmp_path)] == ["10", "20", "30"]


def test_labels_that_cannot_be_used_are_refused_in_one_sentence(tmp_path, folder):
    with pytest.raises(InputError, match="no folder"):
        _monitor(tmp_path, MonitorSettings(every=1, knn=str(tmp_path / "absent")))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no images"):
        _monitor(tmp_path, MonitorSettings(every=1, knn=str(tmp_path / "empty")))
    for number in range(2):
        (tmp_path / "one" / "water").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16)).save(tmp_path / "one" / "water" / f"{number}.png")
    with pytest.raises(InputError, match="one class only"):
        _monitor(tmp_path, MonitorSettings(every=1, knn=str(tmp_path / "one")))
    with pytest.raises(InputError, match="nir"):
        LabelledImages(folder, ("nir", "red"), 10)


def test_labelled_images_are_spread_over_the_classes(folder):
    images = LabelledImages(folder, ("blue", "red"), 4)
    assert images.labels.tolist() == [0, 0, 1, 1]
    values, valid = images.read(np.array([0, 3]))
    assert values.shape == (2, 2, 16, 16) and valid.all()
    assert values[0, 0].mean() < values[1, 0].mean()  # water is bluer
