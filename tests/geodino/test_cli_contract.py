"""What holds for every command: fast help, no heavy import, one sentence and status 2 for bad input."""

import subprocess
import sys

import pytest

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
