"""`geodino eval` from the command line, on data in which the answer is known."""

import csv
import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from geodino.backbones.backbone import save_backbone, untrained_backbone
from geodino.cli import build
from geodino.evaluation.extract import BackboneExtractor, extract
from geodino.evaluation.open import open_data
from geodino.evaluation.results import from_json, to_json, to_markdown
from geodino.evaluation.run import EvaluationSettings, Protocol, evaluate, image_side
from tiles.errors import InputError


@pytest.fixture(scope="module")
def backbone_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "tiny"
    model = {"depth": 1, "embed_dim": 64, "num_heads": 1, "init_values": 0.2}
    backbone = untrained_backbone("vit_tiny_patch16_dinov3_qkvb", device="cpu", precision="fp32", **model)
    save_backbone(backbone.module, backbone.card.model_copy(update={"name": "tiny"}), folder)
    return folder


@pytest.fixture(scope="module")
def colours(tmp_path_factory):
    """Two classes that differ in colour: every model must tell them apart."""
    folder, rng = tmp_path_factory.mktemp("data") / "colours", np.random.default_rng(0)
    for name, base in (("red", (200, 40, 40)), ("blue", (40, 40, 200))):
        (folder / name).mkdir(parents=True)
        for i in range(25):
            noise = rng.integers(-30, 30, (16, 16, 3))
            Image.fromarray((np.array(base) + noise).astype(np.uint8)).save(folder / name / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def halves(tmp_path_factory):
    """Images whose mask is their colour, divided at a place that differs from image to image."""
    folder, rng = tmp_path_factory.mktemp("data") / "halves", np.random.default_rng(0)
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    for i in range(10):
        mask = np.zeros((32, 32), np.uint8)
        mask[:, rng.integers(8, 24) :] = 1
        picture = np.where(mask[..., None] == 1, (200, 40, 40), (40, 160, 40)) + rng.integers(-20, 20, (32, 32, 3))
        Image.fromarray(picture.astype(np.uint8)).save(folder / "images" / f"{i}.png")
        Image.fromarray(mask).save(folder / "labels" / f"{i}.png")
    return folder


def run(*arguments):
    return CliRunner().invoke(build(), ["eval", *map(str, arguments), "--device", "cpu"])


def test_one_command_makes_the_whole_table(backbone_folder, colours, halves, tmp_path):
    out = tmp_path / "out"
    result = run(backbone_folder, colours, halves, "-o", out, "--json", tmp_path / "x.json", "--size", 32)
    assert result.exit_code == 0, result.output
    rows = json.loads((tmp_path / "x.json").read_text())
    assert rows == json.loads((out / "results.json").read_text())
    models = ["tiny", "image statistics", "random convolutions", "vit_tiny_patch16_dinov3_qkvb, untrained"]
    assert list(dict.fromkeys(row["model"] for row in rows)) == models
    assert [row["floor"] for row in rows if row["dataset"] == "halves"] == [False, True, True, True]
    measured = {(row["dataset"], row["protocol"], row["setting"].split("=")[0]) for row in rows}
    assert measured == {("colours", "knn", "k"), ("colours", "linear", "C"), ("halves", "segmentation", "C")}
    for row in rows:
        assert 0 <= row["low"] <= row["value"] <= row["high"] <= 1
        assert row["train"] + row["val"] + row["test"] == {"colours": 50, "halves": 10}[row["dataset"]]
        assert row["value"] > (0.95 if row["dataset"] == "colours" else 0.5)
    table = (out / "results.csv").read_text().splitlines()
    assert len(list(csv.DictReader(table))) == len(rows)
    lines = (out / "results.md").read_text().splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["tiny", *(f"{name} (floor)" for name in models[1:])]


def test_what_is_measured_is_not_measured_again(backbone_folder, colours, tmp_path, monkeypatch):
    arguments = (backbone_folder, colours, "-o", tmp_path, "--no-floors")
    assert run(*arguments, "--protocol", "knn").exit_code == 0
    first = (tmp_path / "results.json").read_bytes()
    monkeypatch.setattr("geodino.evaluation.extract._extract_part", None)  # features must come from disk
    assert run(*arguments, "--protocol", "knn").exit_code == 0
    assert (tmp_path / "results.json").read_bytes() == first
    assert run(*arguments).exit_code == 0  # the linear probe is new; its features are not


def test_an_interrupted_extraction_goes_on_from_its_parts(backbone_folder, colours, tmp_path, monkeypatch):
    from geodino.backbones.backbone import load_backbone

    monkeypatch.setattr("geodino.evaluation.extract.PART", 20)
    images = open_data(str(colours))
    extractor = BackboneExtractor(load_backbone(backbone_folder, device="cpu", precision="fp32"))
    whole = extract(extractor, images, 32)

    class Power(Exception):
        pass

    class Meter:
        def update(self, done, note=""):
            if done > 30:
                raise Power

    with pytest.raises(Power):
        extract(extractor, images, 32, cache=tmp_path, batch_size=10, progress=Meter())
    assert [file.name for file in sorted(tmp_path.rglob("*.np*"))] == ["000000000.npz"]
    resumed = extract(extractor, images, 32, cache=tmp_path, batch_size=10)
    assert np.allclose(resumed.summary, whole.summary, atol=1e-5) and np.allclose(resumed.mean, whole.mean, atol=1e-5)


def test_other_weights_data_or_seed_are_other_results(backbone_folder, colours, tmp_path):
    from geodino.backbones.backbone import load_backbone

    images, settings = open_data(str(colours)), EvaluationSettings((Protocol.knn,), with_floors=False)
    backbone = load_backbone(backbone_folder, device="cpu")
    for count, (model, seed) in enumerate([(backbone, 0), (backbone, 1), (load_other(), 0)], start=1):
        list(evaluate(model, images, EvaluationSettings(**(vars(settings) | {"seed": seed})), tmp_path))
        assert len(list((tmp_path / "results").iterdir())) == count


def load_other():
    return untrained_backbone("vit_tiny_patch16_dinov3_qkvb", device="cpu", depth=1, embed_dim=64, num_heads=1, seed=5)


@pytest.mark.parametrize(
    ("native", "protocol", "asked", "side"),
    [
        (64, Protocol.knn, None, 128),  # 64-px images become 8 × 8 patches
        (256, Protocol.linear, None, 256),
        (250, Protocol.linear, None, 256),
        (64, Protocol.knn, 64, 64),
        (128, Protocol.segmentation, None, 512),
        (1024, Protocol.segmentation, None, 1024),
    ],
)
def test_images_are_brought_to_whole_patches(native, protocol, asked, side):
    assert image_side(BackboneExtractor(load_other()), native, protocol, asked) == side


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--protocol", "magic"), "--protocol magic is not one of knn, linear, segmentation"),
        (("--protocol", "segmentation"), "colours has one class an image; measure it with --protocol knn or linear"),
        (("--size", "100"), "--size 100 is not whole patches of 16 pixels; 96 is the nearest"),
    ],
)
def test_bad_settings_are_one_sentence(backbone_folder, colours, tmp_path, arguments, message):
    result = run(backbone_folder, colours, "-o", tmp_path, *arguments)
    assert isinstance(result.exception, InputError)
    assert str(result.exception) == message


def test_a_bank_too_small_for_20_neighbours_gives_5(backbone_folder, tmp_path):
    for name, colour in (("red", (200, 40, 40)), ("blue", (40, 40, 200))):
        (tmp_path / "few" / name).mkdir(parents=True)
        for i in range(6):
            Image.new("RGB", (16, 16), colour).save(tmp_path / "few" / name / f"{i}.png")
    result = run(backbone_folder, tmp_path / "few", "-o", tmp_path / "out", "--protocol", "knn", "--no-floors")
    assert result.exit_code == 0 and "k=5" in (tmp_path / "out" / "results.csv").read_text()
    assert "k=20" not in (tmp_path / "out" / "results.csv").read_text()


def test_pictures_are_drawn_when_asked_for(backbone_folder, colours, tmp_path):
    result = run(
        backbone_folder, colours, "-o", tmp_path, "--protocol", "knn", "--no-floors", "--pictures", 2, "--size", 32
    )
    assert result.exit_code == 0, result.output
    assert len(list((tmp_path / "pictures").glob("*.png"))) == 2


def test_results_survive_the_disk_and_the_table_shows_them(backbone_folder, colours, tmp_path):
    run(backbone_folder, colours, "-o", tmp_path, "--protocol", "knn", "--no-floors")
    text = (tmp_path / "results.json").read_text()
    results = from_json(text)
    assert to_json(results) == text
    best = results[0]
    cell = f"{100 * best.value:.1f} [{100 * best.low:.1f}, {100 * best.high:.1f}]"
    assert cell in to_markdown(results) and "kNN-5 (accuracy, 10 test, random split)" in to_markdown(results)
