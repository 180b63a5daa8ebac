"""Which files the web map reads: every way out of the allowed folders is tried."""

import json
from pathlib import Path

import numpy as np
import pytest
from app_testing import write_raster

from app.store.access import SCENES, Access
from tiles.errors import InputError


@pytest.fixture
def access(tmp_path: Path) -> Access:
    inside = tmp_path / "inside"
    (inside / "folder").mkdir(parents=True)
    outside = tmp_path / "outside"
    outside.mkdir()
    write_raster(inside / "scene.tif", np.ones((1, 8, 8), np.uint8))
    write_raster(outside / "secret.tif", np.ones((1, 8, 8), np.uint8))
    return Access.to(inside)


def test_files_inside_are_found_by_absolute_and_relative_path(access: Access) -> None:
    inside = access.roots[0]
    assert access.resolve(str(inside / "scene.tif")) == inside / "scene.tif"
    assert access.resolve("scene.tif") == inside / "scene.tif"
    assert access.resolve(" folder ") == inside / "folder"


@pytest.mark.parametrize(
    "typed",
    [
        "../outside/secret.tif",
        "folder/../../outside/secret.tif",
        "/etc/passwd",
        "/etc/hostname.tif",
        "~/secret.tif",
        "/vsicurl/http://127.0.0.1/x.tif",
        "/vsizip/scene.zip/x.tif",
        "//vsizip/scene.zip/x.tif",
        "folder/../vsizip/x.tif",
        "vsis3/bucket/x.tif",
        "http://127.0.0.1:9/x.tif",
        "file:///etc/passwd",
        "s3://bucket/x.tif",
        "GTIFF_RAW:scene.tif",
        "NETCDF:scene.nc:band",
        "MEM:::DATAPOINTER=1,PIXELS=1,LINES=1",
        "<VRTDataset/>",
        "scene.tif\0.png",
        "",
    ],
)
def test_every_way_out_is_refused_in_one_sentence(access: Access, typed: str) -> None:
    with pytest.raises(InputError) as refused:
        access.resolve(typed)
    assert "\n" not in str(refused.value)


def test_links_are_followed_before_judging(access: Access, tmp_path: Path) -> None:
    inside = access.roots[0]
    (inside / "file-link.tif").symlink_to(tmp_path / "outside" / "secret.tif")
    (inside / "folder-link").symlink_to(tmp_path / "outside")
    for typed in ("file-link.tif", "folder-link/secret.tif", "folder-link"):
        with pytest.raises(InputError, match="lies outside"):
            access.resolve(typed)
    (inside / "folder" / "band.tif").symlink_to(tmp_path / "outside" / "secret.tif")
    with pytest.raises(InputError, match="leaves the allowed folders"):
        access.resolve("folder")


def test_other_kinds_of_files_are_refused(access: Access) -> None:
    (access.roots[0] / "notes.txt").write_text("x")
    with pytest.raises(InputError, match="kind"):
        access.resolve("notes.txt")
    with pytest.raises(InputError, match="does not exist"):
        access.resolve("absent.tif")


def vrt(source: str, relative: int = 0, extra: str = "") -> str:
    return f"""<VRTDataset rasterXSize="8" rasterYSize="8"><VRTRasterBand dataType="Byte" band="1">{extra}
    <SimpleSource><SourceFilename relativeToVRT="{relative}">{source}</SourceFilename></SimpleSource>
    </VRTRasterBand></VRTDataset>"""


@pytest.mark.parametrize(
    "source", ["../outside/secret.tif", "/etc/passwd", "/vsicurl/http://127.0.0.1/x.tif", "http://x/y.tif", "other.vrt"]
)
def test_a_vrt_may_name_rasters_inside_only(access: Access, source: str) -> None:
    inside = access.roots[0]
    (inside / "bad.vrt").write_text(vrt(source, relative=0 if source.startswith("/") else 1))
    with pytest.raises(InputError, match="names"):
        access.resolve("bad.vrt")
    (inside / "good.vrt").write_text(vrt("scene.tif", relative=1))
    assert access.resolve("good.vrt").name == "good.vrt"


def test_a_vrt_with_code_or_entities_is_refused(access: Access) -> None:
    inside = access.roots[0]
    (inside / "code.vrt").write_text(vrt("scene.tif", 1, "<PixelFunctionCode>import os</PixelFunctionCode>"))
    with pytest.raises(InputError, match="code"):
        access.resolve("code.vrt")
    (inside / "bomb.vrt").write_text('<!DOCTYPE x [<!ENTITY a "aaaa">]><VRTDataset>&a;</VRTDataset>')
    with pytest.raises(InputError, match="entities"):
        access.resolve("bomb.vrt")


@pytest.mark.parametrize("name", ["scene.tif", "scene.png", "scene.jp2"])
def test_a_text_that_names_other_files_is_judged_under_any_ending(access: Access, name: str) -> None:
    """GDAL looks at the content: a VRT called ``scene.tif`` opens as one."""
    inside = access.roots[0]
    (inside / name).write_text("  " + vrt("/etc/passwd"))
    with pytest.raises(InputError, match="names"):
        access.resolve(name)
    (inside / "folder" / name).write_text(vrt("/etc/passwd"))
    with pytest.raises(InputError, match="names"):
        access.resolve("folder")
    (inside / name).write_text('{"type": "FeatureCollection"}')
    with pytest.raises(InputError, match="names others"):
        access.resolve(name)


@pytest.mark.parametrize(
    ("href", "fine"),
    [
        ("scene.tif", True),
        ("https://example.org/a.tif?key=1", True),
        ("http://localhost:9/a.tif", True),
        ("http://example.org/a.tif", False),
        ("https://example.org/a.vrt", False),
        ("s3://bucket/a.tif", False),
        ("/vsicurl/https://example.org/a.tif", False),
        ("../outside/secret.tif", False),
        ("/etc/passwd", False),
    ],
)
def test_a_stac_item_may_name_rasters_inside_and_on_the_web_only(access: Access, href: str, fine: bool) -> None:
    assets = {"red": {"href": href, "roles": ["data"]}, "small": {"href": "t.jpg", "roles": ["thumbnail"]}}
    item = access.roots[0] / "item.json"
    item.write_text(json.dumps({"type": "Feature", "assets": assets}))
    if fine:
        assert access.resolve("item.json", SCENES) == item
    else:
        with pytest.raises(InputError, match="may be read"):
            access.resolve("item.json", SCENES)
    item.write_text("[]")
    with pytest.raises(InputError, match="no STAC item"):
        access.resolve("item.json", SCENES)
