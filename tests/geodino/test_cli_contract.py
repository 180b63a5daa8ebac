"""What holds for every command: fast help, no heavy import, one sentence and status 2 for bad input."""

import subprocess
import sys

import pytest


def geodino(*arguments: str, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "geodino", *arguments], capture_output=True, text=True, **options)


def modules_after(code: str) -> set[str]:
    listing = "import sys; print('\\n'.join(sys.modules))"
    found = subprocess.run([sys.executable, "-c", f"{code}; {listing}"], capture_output=True, text=True, check=True)
    return set(found.stdout.split())


def test_help_names_every_command_of_the_contract():
    printed = geodino("--help").stdout
    for command in (
        "tile", "pretrain", "distill", "eval", "features", "segment", "change", "similar", "app", "models", "demo",
    ):  # fmt: skip
        assert f" {command} " in printed, command


@pytest.mark.parametrize("code", ["import geodino", "from geodino.cli import build; build()"])
def test_the_command_line_starts_without_heavy_libraries(code):
    heavy = {"torch", "torchgeo", "matplotlib", "rasterio", "pandas", "streamlit", "timm", "lightning"}
    assert not heavy & modules_after(code)


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
def test_bad_input_is_one_sentence_and_status_2(arguments, tmp_path):
    done = geodino(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stderr.strip()
    assert list(tmp_path.iterdir()) == []
