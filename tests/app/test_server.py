"""`geodino app`: bad input gets one clear sentence before the server starts."""

import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from app_testing import free_port, landscape, write_raster
from streamlit.testing.v1 import AppTest
from typer.testing import CliRunner

from app import server
from app.map import tile_routes
from app.pages.tour import demo_layers
from app.server import prepare, serve
from app.store.workspace import Workspace, use
from geodino.cli import build
from tiles.errors import InputError


@pytest.fixture(autouse=True)
def built_map(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The checks are the same whether or not the JavaScript has been built."""
    bundle = tmp_path / "map.js"
    bundle.write_text("export default 1")
    monkeypatch.setattr(tile_routes, "BUNDLE", bundle)
    tile_routes.bundle_name.cache_clear()


def refusal(arguments: list[str]) -> str:
    """The sentence that a bad call ends with."""
    with pytest.raises(InputError) as refused:
        CliRunner().invoke(build(), ["app", *arguments], catch_exceptions=False)
    return str(refused.value)


def test_bad_scenes_are_refused_by_name(tmp_path: Path) -> None:
    work = ["--work", str(tmp_path / "work")]
    text = tmp_path / "notes.tif"
    text.write_text("no raster")
    bare = write_raster(tmp_path / "bare.tif", landscape(size=64), crs=None)
    whole = write_raster(tmp_path / "whole.tif", landscape(size=512))
    cut = tmp_path / "cut.tif"
    cut.write_bytes(whole.read_bytes()[:40_000])
    empty = tmp_path / "empty"
    empty.mkdir()
    for bad in (tmp_path / "absent.tif", text, bare, cut, empty):
        said = refusal([str(bad), *work])
        assert bad.name in said
        assert "\n" not in said


def test_a_missing_allowed_folder_is_refused(tmp_path: Path) -> None:
    assert "--allow" in refusal(["--allow", str(tmp_path / "absent"), "--work", str(tmp_path / "work")])


def test_a_map_that_was_not_built_is_said_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tile_routes, "BUNDLE", tmp_path / "no.js")
    tile_routes.bundle_name.cache_clear()
    assert "make frontend" in refusal(["--work", str(tmp_path / "work")])


def test_a_taken_port_is_said(workspace: Workspace) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(InputError, match="--port"):
            serve(workspace, port=taken.getsockname()[1], address="127.0.0.1")


def test_scenes_maps_and_folders_of_bands_are_taken(tmp_path: Path) -> None:
    bands = tmp_path / "bands"
    bands.mkdir()
    for name in ("B02", "B03", "B04"):
        write_raster(bands / f"{name}.tif", np.full((1, 64, 64), 900, np.uint16), nodata=0)
    scene = write_raster(tmp_path / "scene.tif", landscape(size=64))
    made = prepare([str(bands), str(scene)], tmp_path / "work")
    assert [source.name for source in made.scenes] == ["bands", "scene"]
    assert set(made.scenes[0].channel_names) == {"blue", "green", "red"}
    assert made.access.contains(scene)
    assert not made.access.contains(Path("/etc/passwd"))


def test_the_demo_in_the_folder_can_be_shown_by_the_tour(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo" / "maps").mkdir(parents=True)
    scene = write_raster(tmp_path / "demo" / "maps" / "land_cover.tif", landscape(size=64))
    made = prepare([], tmp_path / "work")
    assert demo_layers(made) == [scene]
    assert not made.access.contains(tmp_path / "other.tif")


def test_a_scheduler_that_does_not_answer_is_said_before_the_server_starts(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.work.cluster.ANSWERS_WITHIN", "100ms")
    with pytest.raises(InputError, match="no Dask scheduler answers"):
        serve(replace(workspace, dask="tcp://127.0.0.1:9"), port=free_port(), address="127.0.0.1")


def test_nothing_is_shown_before_somebody_is_in(monkeypatch: pytest.MonkeyPatch, workspace: Workspace) -> None:
    """With an [auth] section in Streamlit's secrets, the script stops at a button."""
    use(workspace)
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])  # the script takes its place
    page = AppTest.from_file(str(server.SCRIPT), default_timeout=60)
    page.secrets["auth"] = {"redirect_uri": "http://localhost/oauth2callback", "cookie_secret": "x"}
    page.run()
    assert [button.label for button in page.button] == ["Log in"]
    assert [title.value for title in page.title] == ["geodino"]
    assert not page.text_input and not page.selectbox


def test_the_server_serves_this_machine_alone_and_tells_nobody() -> None:
    assert server.QUIET["browser.gatherUsageStats"] is False
    import inspect

    import typer

    command = typer.main.get_command(build()).commands["app"]  # type: ignore[attr-defined]
    (address,) = [option for option in command.params if option.name == "address"]
    assert address.default == "127.0.0.1"
    assert "0.0.0.0" not in inspect.getsource(server)


def test_no_page_needs_pytorch_or_scikit_learn_to_be_drawn() -> None:
    """What does is loaded when it is used: a press right after the first page would wait for seconds."""
    told = "import sys, app.server; print(*sorted({'torch', 'sklearn', 'altair', 'distributed'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True).stdout.split() == []
