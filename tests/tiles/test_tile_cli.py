"""The commands `tile`, `tiles …` and `curate`, as a user runs them."""

import sys

import numpy as np
import pytest

from geodino.cli import main
from tiles.archive.dataset import TileDataset


@pytest.fixture
def run(monkeypatch, capsys):
    """Run the command line; gives its status and what it printed."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["geodino", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            main()
        printed = capsys.readouterr()
        return int(left.value.code or 0), printed.out, printed.err

    return call


@pytest.fixture
def scene(write_raster):
    values = np.random.default_rng(0).integers(1, 255, (3, 96, 128), np.uint8)
    return write_raster("scene.tif", values, photometric="RGB")


def test_tile_and_look_after(run, scene, tmp_path):
    status, out, _ = run("tile", scene, "-o", tmp_path / "T", "--size", 32)
    assert status == 0 and "12 tiles added" in out and "sensor 8bit: since its values have 8 bits" in out
    assert (tmp_path / "T" / "contact_sheet.png").exists() and (tmp_path / "T" / "footprints.png").exists()
    status, out, _ = run("tile", scene, "-o", tmp_path / "T", "--size", 32)
    assert status == 0 and "in the tile set already" in out and "0 tiles added" in out
    assert run("tiles", "verify", tmp_path / "T")[:2] == (0, f"{tmp_path / 'T'} is whole.\n")
    assert "12 tiles, 12288 valid pixels" in run("tiles", "stats", tmp_path / "T")[1]
    assert run("tiles", "split", tmp_path / "T", "--shares", "train=0.5,val=0.5")[0] == 0
    assert set(TileDataset(tmp_path / "T").column("split")) <= {"train", "val", "border"}
    assert "12 tiles in" in run("tiles", "export-webdataset", tmp_path / "T", "-o", tmp_path / "W")[1]
    shard = tmp_path / "T" / "shard-00000.npy"
    shard.write_bytes(shard.read_bytes()[:-1] + b"\x00")
    status, out, err = run("tiles", "verify", tmp_path / "T")
    assert status == 2 and "checksum" in out and "damaged in 1 places" in err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["missing.tif"], "missing.tif does not exist."),
        (["{folder}/text.tif"], "text.tif cannot be read as a raster"),
        (["{scene}", "--bands", "nir"], "has no band called nir; it has red, green, blue"),
        (["{scene}", "--sensor", "sputnik"], "No sensor is called sputnik"),
        (["{scene}", "--size", "512"], "No tile of 512 × 512 pixels passed the filters"),
        ([], "Nothing to cut was given"),
        (["--stac", "http://127.0.0.1:9"], "--stac needs --collection"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(run, scene, tmp_path, arguments, sentence):
    (tmp_path / "text.tif").write_text("no raster")
    given = [text.format(folder=tmp_path, scene=scene) for text in arguments]
    status, _, err = run("tile", *given, "-o", tmp_path / "T")
    assert status == 2
    last = err.strip().splitlines()[-1]
    assert last.startswith("geodino: ") and sentence in last
    assert not (tmp_path / "T" / "tiles.json").exists()
    assert not list(tmp_path.glob("T/*.part")) and "Traceback" not in err


def test_some_bad_input_is_named_after_the_rest_is_cut(run, scene, tmp_path):
    status, out, err = run("tile", scene, tmp_path / "gone.tif", "-o", tmp_path / "T", "--size", 32)
    assert status == 2 and "12 tiles in" in out
    assert "gone.tif does not exist" in err and "failures.csv" in err
    assert len(TileDataset(tmp_path / "T")) == 12


def test_a_choice_among_tiles_is_a_tile_set_of_its_own(scene, tmp_path, run):
    from tiles.archive.selection import Selection

    run("tile", scene, "-o", tmp_path / "T", "--size", 32)
    whole = TileDataset(tmp_path / "T")
    kept = np.arange(12) % 3 == 1
    path = Selection(kept, np.arange(12), np.zeros(12, np.int64)).save(tmp_path / "T", whole.column("tile_id"), {})
    part = TileDataset(path)
    assert len(part) == 4 and part.bands == whole.bands
    assert part.column("tile_id").tolist() == whole.column("tile_id")[kept].tolist()
    np.testing.assert_array_equal(part.read(2).values, whole.read(7).values)
    pixels = part.read_batch(range(4)).values.astype(np.float64)
    np.testing.assert_allclose(part.mean, pixels.mean(axis=(0, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(part.std, pixels.std(axis=(0, 2, 3)), rtol=1e-6)
    assert part.intact(3)


@pytest.mark.slow
def test_curation_finds_planted_duplicates(write_raster, tmp_path, run):
    torch = pytest.importorskip("torch")
    from geodino.backbones.architecture import create_module
    from geodino.backbones.backbone import save_backbone
    from geodino.backbones.card import BackboneCard

    generator = np.random.default_rng(0)
    fields = generator.uniform(20, 230, (3, 48, 64)).repeat(8, axis=1).repeat(8, axis=2)
    fields += generator.normal(0, 8, fields.shape)
    first = np.clip(fields, 1, 255).astype(np.uint8)
    noisier = fields[:, :64] + generator.normal(0, 1, (3, 64, 512))  # 32 of the 192 tiles once more
    again = np.clip(noisier, 1, 255).astype(np.uint8)
    paths = [write_raster("a.tif", first, photometric="RGB"), write_raster("b.tif", again, photometric="RGB")]
    run("tile", *paths, "-o", tmp_path / "T", "--size", 32)
    torch.manual_seed(0)
    module = create_module("vit_tiny_patch16_dinov3_qkvb", 3, depth=2)
    card = BackboneCard(
        architecture="vit_tiny_patch16_dinov3_qkvb", model_args={"depth": 2}, mean=(0.43, 0.411, 0.296),
        std=(0.213, 0.156, 0.143), patch_size=16,
    )  # fmt: skip
    save_backbone(module, card, tmp_path / "RUN")
    status, out, err = run("curate", tmp_path / "T", "--backbone", tmp_path / "RUN", "--keep", 0.5, "--device", "cpu")
    assert status == 0, err
    assert "32 near-duplicates of 224 tiles left out" in out and "112 tiles kept" in out
    part = TileDataset(tmp_path / "T" / "curated.parquet")
    assert len(part) == 112 and not any("b-" in name for name in part.column("tile_id"))
