"""What holds for every command: fast help, no heavy import, one sentence and status 2 for bad input."""

import subprocess
import sys

import numpy as np
import pytest
import rasterio
from affine import Affine

from geodino import cli

HEAVY = {"torch", "torchgeo", "matplotlib", "rasterio", "pandas", "streamlit", "timm", "lightning"}
HELP_OF_ALL = """
import typer
from typer.testing import CliRunner
from geodino.cli import build
cli = build()
def show(command, *path):
    shown = CliRunner().invoke(cli, [*path, "--help"])
    assert shown.exit_code == 0 and " ".join(path) in shown.output, path
    for name, part in getattr(command, "commands", {}).items():
        show(part, *path, name)
show(typer.main.get_command(cli))
"""


def geodino(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "geodino", *arguments], capture_output=True, text=True)


def modules_after(code: str) -> set[str]:
    listing = "import sys; print('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", f"{code}\n{listing}"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_help_names_every_command_of_the_contract():
    printed = geodino("--help").stdout
    for command in (
        "tile", "pretrain", "distill", "eval", "features", "segment", "change", "similar", "app", "models", "demo",
    ):  # fmt: skip
        assert f" {command} " in printed, command


@pytest.mark.parametrize("code", ["import geodino", HELP_OF_ALL], ids=["import", "help of every command"])
def test_the_command_line_starts_without_heavy_libraries(code):
    assert not HEAVY & modules_after(code)


def test_a_backbone_is_loaded_without_the_compiler():
    """Nor by timm and torchvision, which ask it while they are imported; both are whole all the same."""
    code = "from geodino.backbones.backbone import load_backbone; load_backbone(); import torchvision"
    assert not {"torch._dynamo", "torch._inductor", "sympy"} & modules_after(code)
    asked = "from torchvision.ops.roi_align import is_compile_supported; assert is_compile_supported('cpu')"
    marked = "from timm.models.naflexvit import NaFlexRopeIterator as kind; assert kind.__next__._torchdynamo_disable"
    assert "torch._dynamo" in modules_after(f"{code}; {asked}; {marked}; import torch; torch._dynamo.reset()")


def test_tiles_never_imports_torch():
    walk = "pkgutil.walk_packages(tiles.__path__, 'tiles.')"
    every = f"import importlib, pkgutil, tiles; [importlib.import_module(m.name) for m in {walk}]"
    assert "torch" not in modules_after(every)


LONG = "n" * 300


@pytest.mark.parametrize(
    "arguments",
    [
        ("tile", LONG, "-o", "T"),
        ("tile", "absent.tif", "-o", LONG),
        ("tile", "a.tif", "-o", "T", "--mask", LONG),
        ("tiles", "stats", LONG),
        ("tiles", "verify", LONG),
        ("curate", LONG),
        ("pretrain", LONG, "-o", "R"),
        ("pretrain", "absent", "-o", "R", "--recipe", f"{LONG}.yaml"),
        ("features", LONG, "-o", "o.tif"),
        ("features", "absent.tif", "-o", f"{LONG}.tif"),
        ("features", "absent.tif", "-o", "o.tif", "--quicklook", f"{LONG}.png"),
        ("segment", LONG, "-o", "o.tif", "--clusters", "3"),
        ("segment", "a.tif", "-o", "o.tif", "--labels", LONG),
        ("segment", "a.tif", "-o", "o.tif", "--labels", f"{LONG}.csv"),
        ("segment", "a.tif", "-o", "o.tif", "--model", LONG),
        ("segment", "a.tif", "-o", "o.tif", "--clusters", "3", "--features", f"{LONG}.zarr"),
        ("segment", "a.tif", "-o", "o.tif", "--clusters", "3", "--backbone", LONG),
        ("segment", "a.tif", "-o", "o.tif", "--clusters", "3", "--save-model", LONG),
        ("change", "a.tif", LONG, "-o", "o.tif"),
        ("change", "a.tif", "a.tif", "-o", "o.tif", "--like", LONG),
        ("change", "a.tif", "a.tif", "-o", "o.tif", "--score", f"{LONG}.tif"),
        ("similar", LONG, "--at", "1,2", "-o", "o.tif"),
        ("similar", "a.tif", "--polygons", LONG, "-o", "o.tif"),
        ("similar", "a.tif", "--at", "500100,4999900", "--index", LONG, "-o", "o.gpkg"),
        ("index", LONG, "-o", "o.parquet"),
        ("batch", LONG, "-o", "{name}.tif"),
        ("batch", f"{LONG}.yaml"),
        ("eval", "packaged", LONG),
        ("eval", LONG, "absent"),
        ("export", LONG, "-o", "o.onnx"),
        ("distill", LONG, "--teacher", "packaged", "--student", "vit_small_patch16_dinov3", "-o", "o"),
        ("app", LONG),
        ("app", "--allow", LONG),
    ],
    ids=lambda arguments: " ".join(word[:9] for word in arguments),
)
def test_a_name_that_no_file_can_have_is_one_sentence(arguments, tmp_path, monkeypatch, capfd):
    with rasterio.open(
        tmp_path / "a.tif", "w", driver="GTiff", count=3, height=32, width=32, dtype="uint8", crs="EPSG:32633",
        transform=Affine(10, 0, 5e5, 0, -10, 5e6),
    ) as out:  # fmt: skip
        out.write(np.ones((3, 32, 32), np.uint8))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["geodino", *arguments])
    monkeypatch.setenv("GDAL_CACHEMAX", "512")
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code in (1, 2)
    said = capfd.readouterr()
    assert "nnnnnnnnnn" in said.out + said.err
    assert "Traceback" not in said.out + said.err and "should not" not in said.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("no-such-command",),
        ("features",),
        ("tile", "absent.tif", "-o", "T"),
        ("features", "absent.tif", "-o", "out.tif"),
        ("segment", "absent.tif", "-o", "out.tif", "--clusters", "3"),
        ("change", "absent.tif", "other.tif", "-o", "out.tif"),
        ("similar", "absent.tif", "--at", "1,2", "-o", "out.tif"),
        ("pretrain", "absent", "-o", "R"),
        ("app", "absent.tif"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_bad_input_is_one_sentence_and_status_2(arguments, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["geodino", *arguments])
    monkeypatch.setenv("GDAL_CACHEMAX", "512")  # what the command would set for its own process
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    with pytest.raises(SystemExit) as left:  # anything else would end in a traceback
        cli.main()
    assert left.value.code == 2
    assert capfd.readouterr().err.strip()
    assert list(tmp_path.iterdir()) == []
