"""`geodino pretrain` from a raster to a backbone, and what it says to bad input."""

from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin
from typer.testing import CliRunner

from geodino.backbones.backbone import load_backbone
from geodino.cli import build
from tiles.errors import InputError, OutputError

SMALL = [
    "max_steps=2",
    "batch_size=8",
    "precision=fp32",
    "backbone.arguments={patch_size: 8, depth: 2, embed_dim: 64, num_heads: 2}",
    "crops.global_size=32",
    "crops.local_size=16",
    "dino.head={hidden: 64, bottleneck: 32, prototypes: 64}",
    "ibot.head={hidden: 64, bottleneck: 32, prototypes: 64}",
    "gram.first_update=0",
    "monitor.pictures=1",
]


def run(*arguments: str) -> str:
    result = CliRunner().invoke(build(), list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def settings(*pairs: str) -> list[str]:
    return [part for pair in pairs for part in ("--set", pair)]


@pytest.fixture
def tile_set(tmp_path: Path) -> Path:
    profile = {
        "driver": "GTiff",
        "height": 128,
        "width": 128,
        "count": 3,
        "dtype": "uint8",
        "crs": "EPSG:32633",
        "transform": from_origin(500_000, 5_000_000, 10, 10),
        "photometric": "RGB",
    }
    with rasterio.open(tmp_path / "scene.tif", "w", **profile) as target:
        target.write(np.random.default_rng(0).integers(1, 255, (3, 128, 128), np.uint8))
    run("tile", str(tmp_path / "scene.tif"), "-o", str(tmp_path / "T"), "--size", "32")
    return tmp_path / "T"


def test_from_a_raster_to_a_backbone_that_loads(tile_set: Path, tmp_path: Path) -> None:
    folder = tmp_path / "R"
    text = run("pretrain", str(tile_set), "-o", str(folder), *settings(*SMALL))
    assert "backbone of 2 steps" in text
    assert load_backbone(folder, device="cpu").bands == ("red", "green", "blue")
    # finished: goes on from its own recipe and has nothing left to do
    before = (folder / "backbone.safetensors").read_bytes()
    run("pretrain", str(tile_set), "-o", str(folder), "--resume")
    assert (folder / "backbone.safetensors").read_bytes() == before
    with pytest.raises(OutputError, match="holds a run already"):
        run("pretrain", str(tile_set), "-o", str(folder), *settings(*SMALL))


def test_a_dry_run_writes_nothing(tile_set: Path, tmp_path: Path) -> None:
    text = run("pretrain", str(tile_set), "-o", str(tmp_path / "R"), "--dry-run", *settings(*SMALL))
    assert "embed_dim: 64" in text and "images/s" in text
    assert not (tmp_path / "R").exists()


@pytest.mark.parametrize(
    ("extra", "sentence"),
    [
        (settings("max_step=3"), "did you mean max_steps"),
        (["--recipe", "huge"], "no recipe 'huge'"),
        (settings("batch_size=64"), "holds 16 tiles, fewer than the batch of 64"),
        (["--init", "nowhere"], "nowhere"),
    ],
)
def test_bad_input_gets_a_sentence_and_leaves_no_folder(
    extra: list[str], sentence: str, tile_set: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=sentence):
        run("pretrain", str(tile_set), "-o", str(tmp_path / "R"), *settings(*SMALL), *extra)
    assert not (tmp_path / "R").exists()
