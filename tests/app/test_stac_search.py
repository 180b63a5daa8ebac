"""STAC search against a catalogue on this machine, and what a hostile catalogue would like to be opened."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import morecantile
import numpy as np
import pystac
import pytest
import stac_catalogue
from app_testing import landscape, write_raster
from stac_catalogue import BANDS

from app.map.layers import LayerList
from app.map.render import read_tile
from app.map.source import open_source
from app.map.style import default_style
from app.store.projects import Project, load, save
from app.store.stac_search import search, write_item
from app.store.workspace import Workspace
from tiles.errors import InputError


@pytest.fixture
def catalogue(tmp_path: Path) -> Iterator[str]:
    for band, index in BANDS.items():
        values = landscape(size=128)[index].astype(np.uint16) * 20 + 1000
        write_raster(tmp_path / f"{band}.tif", values, nodata=0)
    command = [sys.executable, str(Path(stac_catalogue.__file__)), str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout
        yield server.stdout.readline().strip()
        server.terminate()


def test_the_clearest_item_comes_first_and_its_tiles_are_those_of_the_rasters(
    catalogue: str, workspace: Workspace, tmp_path: Path
) -> None:
    items = search(catalogue, "scenes", (3, 45, 3.1, 45.2), "2024-06-01/2024-09-30")
    assert [item.id for item in items] == ["clear", "cloudy"]
    path = write_item(items[0], workspace.folder / "cache" / "stac")
    assert sorted(json.loads(path.read_text())["assets"]) == ["blue", "green", "red"]
    source = open_source(path)
    assert set(source.channel_names) == set(BANDS)
    west, south, east, north = source.bounds
    tile = morecantile.tms.get("WebMercatorQuad").tile((west + east) / 2, (south + north) / 2, source.max_zoom)
    numbers = read_tile(source, (source.channel_names.index("red"),), tile.z, tile.x, tile.y, smooth=False)
    assert numbers is not None and numbers.valid.any()
    assert 1000 <= numbers.values[0][numbers.valid].min() < numbers.values[0][numbers.valid].max() <= 1000 + 20 * 254

    layers = LayerList()
    layers.add(source, default_style(source))
    save(workspace.projects, "with an item", Project(layers.layers))
    assert load(workspace.projects, "with an item", workspace.access, workspace.statistics).missing == []


def test_a_catalogue_that_finds_nothing_or_does_not_answer_is_said(catalogue: str) -> None:
    with pytest.raises(InputError, match="Nothing found"):
        search(catalogue, "nothing", (3, 45, 3.1, 45.2), "2024-06-01/2024-09-30")
    with pytest.raises(InputError, match="did not answer"):
        search("http://127.0.0.1:9", "scenes", (3, 45, 3.1, 45.2), "2024-06-01")
    for address in ("http://example.org", "file:///etc", "ftp://x"):
        with pytest.raises(InputError, match="begins with https"):
            search(address, "scenes", (3, 45, 3.1, 45.2), "2024-06-01")


def test_an_item_without_rasters_on_the_web_is_refused(tmp_path: Path) -> None:
    from datetime import UTC, datetime

    item = pystac.Item(
        "bad", {"type": "Point", "coordinates": [3, 45]}, [3, 45, 3, 45], datetime(2024, 1, 1, tzinfo=UTC), {}
    )
    item.add_asset("red", pystac.Asset("/etc/passwd"))
    with pytest.raises(InputError, match="no raster"):
        write_item(item, tmp_path)
