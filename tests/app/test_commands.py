"""The commands that pages run and show are ones that geodino's own command line takes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import typer
from app_testing import write_raster

from app.map.layers import Layer
from app.map.source import open_source
from app.map.style import default_style
from app.pages.change import comparison_command
from app.pages.segment import mapping_command
from app.store.workspace import Workspace
from geodino.cli import build


@pytest.fixture
def scene(tmp_path: Path) -> Layer:
    source = open_source(write_raster(tmp_path / "a.tif", np.ones((3, 32, 32), np.uint8)))
    return Layer("a", source, default_style(source), "a")


def test_every_argument_is_known(workspace: Workspace, scene: Layer, tmp_path: Path) -> None:
    known = typer.main.get_command(build()).commands  # type: ignore[attr-defined]
    full = replace(workspace, backbone="b", dask="tcp://x:1")
    made = [
        mapping_command(full, scene, tmp_path, labels=Path("l.gpkg"), field="class")[0],
        mapping_command(full, scene, tmp_path, clusters=5)[0],
        mapping_command(full, scene, tmp_path, model=Path("m.safetensors"))[0],
        comparison_command(full, scene, scene, tmp_path)[0],
        full.command("features", "s.tif", output=tmp_path / "f.zarr", dask=full.dask),
        full.command("similar", "s.tif", at="-1,2", output=tmp_path / "o.tif"),
        full.command("segment", "s.tif", labels="l.gpkg", field="class", features="f.zarr", validate=True),
    ]
    for command in made:
        name, *rest = command.arguments
        assert known[name].make_context(name, rest).params["backbone"] == "b", command.line


def test_the_command_that_is_shown_is_the_one_that_runs(workspace: Workspace, scene: Layer, tmp_path: Path) -> None:
    """But for the folder of the files that it writes."""
    run, outputs = mapping_command(workspace, scene, tmp_path / "out", labels=Path("l.gpkg"))
    shown, _ = mapping_command(workspace, scene, Path(), labels=Path("l.gpkg"))
    assert run.line.replace(f"{tmp_path}/out/", "") == shown.line
    assert all(str(path) in run.arguments for path in outputs)
