"""Tiles, values and downloads over HTTP."""

import io
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import morecantile
import numpy as np
import pytest
from app_testing import landscape, serving, write_raster
from PIL import Image
from starlette.applications import Starlette

from app.map.source import open_source
from app.map.style import default_style
from app.map.tile_routes import routes
from app.store.workspace import Workspace

MERCATOR = morecantile.tms.get("WebMercatorQuad")


def tile_over(source, zoom: int) -> tuple[int, int, int]:
    west, south, east, north = source.bounds
    tile = MERCATOR.tile((west + east) / 2, (south + north) / 2, zoom)
    return tile.z, tile.x, tile.y


@pytest.fixture
def http(workspace: Workspace) -> Iterator[str]:
    """The routes on a port of their own."""
    with serving(Starlette(routes=routes(workspace.registry))) as base:
        yield f"{base}/geodino"


def status_of(url: str, **headers: str) -> int:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers)) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_tiles_over_http_are_cached_for_ever_under_their_own_address(
    http: str, workspace: Workspace, tmp_path: Path
) -> None:
    source = open_source(write_raster(tmp_path / "a.tif", landscape(size=256)))
    layer = workspace.registry.add(source, default_style(source))
    z, x, y = tile_over(source, source.max_zoom - 1)
    url = f"{http}/tiles/{layer}/{z}/{x}/{y}.png"
    with urllib.request.urlopen(url) as answer:
        picture = Image.open(io.BytesIO(answer.read()))
        tag = answer.headers["ETag"]
        assert "immutable" in answer.headers["Cache-Control"]
    assert picture.size == (256, 256)
    assert status_of(url, **{"If-None-Match": tag}) == 304
    assert status_of(url, **{"If-None-Match": '"other"'}) == 200
    with urllib.request.urlopen(f"{http}/tiles/{layer}/3/0/0.png") as answer:  # far from the raster
        assert np.asarray(Image.open(io.BytesIO(answer.read())))[..., 3].max() == 0


@pytest.mark.parametrize(
    "address",
    [
        "tiles/unknown/3/1/1.png",
        "tiles/..%2f..%2fetc%2fpasswd/3/1/1.png",
        "tiles/%2fetc%2fpasswd/3/1/1.png",
        "tiles/{layer}/3/99/1.png",
        "tiles/{layer}/99/1/1.png",
        "tiles/{layer}/-1/1/1.png",
        "tiles/{layer}/3/1/1.png.exe",
        "tiles/unknown/point?lng=1&lat=1",
        "files/unknown",
        "files/..%2f..%2fkey",
        "assets/..%2f..%2f..%2fserver.py",
        "assets/map.js",
    ],
)
def test_addresses_that_were_not_given_lead_nowhere(
    http: str, workspace: Workspace, tmp_path: Path, address: str
) -> None:
    source = open_source(write_raster(tmp_path / "a.tif", landscape(size=64)))
    layer = workspace.registry.add(source, default_style(source))
    assert status_of(f"{http}/{address.format(layer=layer)}") == 404


def test_a_download_streams_the_registered_file_only(http: str, workspace: Workspace, tmp_path: Path) -> None:
    path = tmp_path / "result.gpkg"
    path.write_bytes(b"12345")
    name = workspace.registry.add_file(path)
    with urllib.request.urlopen(f"{http}/files/{name}") as answer:
        assert answer.read() == b"12345"
        assert "attachment" in answer.headers["Content-Disposition"]
    path.unlink()
    assert status_of(f"{http}/files/{name}") == 404


def test_a_point_that_is_no_place_is_refused(http: str, workspace: Workspace, tmp_path: Path) -> None:
    source = open_source(write_raster(tmp_path / "a.tif", landscape(size=64)))
    layer = workspace.registry.add(source, default_style(source))
    assert status_of(f"{http}/tiles/{layer}/point?lng=x&lat=1") == 400
    assert status_of(f"{http}/tiles/{layer}/point?lng=9999&lat=1") == 404
