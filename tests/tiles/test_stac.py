"""STAC items: bands, units, masks and days, from files and from a search."""

import json
import sys
import threading
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pystac
import pytest
from affine import Affine
from rasterio.windows import Window

from tiles.archive.dataset import TileDataset
from tiles.cutting.cut import cut
from tiles.cutting.plan import CutSettings, Request
from tiles.errors import InputError
from tiles.scenes.expand import expand
from tiles.scenes.opening import open_scene
from tiles.scenes.reader import SceneReader
from tiles.scenes.sensor import VISIBLE_MAX
from tiles.scenes.stac import search


@pytest.fixture
def make_item(write_raster, ramp, tmp_path):
    """A Sentinel-2 item with red, green and blue at 10 m and a classification at 20 m."""

    def make(name: str, when: datetime, east: int = 0, value: int = 0, **properties: object) -> pystac.Item:
        item = pystac.Item(
            id=name, geometry={"type": "Point", "coordinates": [15.0, 45.1]}, bbox=[15, 45, 15, 46], datetime=when,
            properties={"platform": "sentinel-2a", **properties}, collection="sentinel-2-l2a",
        )  # fmt: skip
        place = Affine(10, 0, 500000 + east, 0, -10, 5000000)
        for key, common in (("B04", "red"), ("B03", "green"), ("B02", "blue")):
            values = ramp(1, 32, 32, "uint16") + np.uint16(1000 + value)
            path = write_raster(f"{name}/{key}.tif", values, transform=place, tiled=True, blockxsize=16, blockysize=16)
            fields = {"eo:bands": [{"name": key, "common_name": common}]}
            item.add_asset(
                key, pystac.Asset(str(path), media_type=pystac.MediaType.COG, roles=["data"], extra_fields=fields)
            )
        classes = np.full((1, 16, 16), 4, np.uint8)
        classes[0, :, 15] = 9  # the eastern edge is cloud
        path = write_raster(f"{name}/SCL.tif", classes, transform=place @ Affine.scale(2))
        item.add_asset("SCL", pystac.Asset(str(path), media_type=pystac.MediaType.COG, roles=["data"]))
        item.add_asset("visual", pystac.Asset(str(path), media_type=pystac.MediaType.COG, roles=["visual"]))
        item.add_asset("thumbnail", pystac.Asset("thumb.png", media_type="image/png", roles=["thumbnail"]))
        return item

    return make


def save(path, items) -> str:
    path.write_text(json.dumps(pystac.ItemCollection(items).to_dict()))
    return str(path)


def test_an_item_is_a_scene_with_units_and_mask(make_item, tmp_path):
    item = make_item("S2A_x", datetime(2020, 2, 23, 10, tzinfo=UTC))
    path = tmp_path / "item.json"
    path.write_text(json.dumps(item.to_dict()))
    scene = open_scene(path)
    assert scene.band_names == ("red", "green", "blue") and scene.sensor == "sentinel-2-l2a"
    assert scene.datetime == "2020-02-23T10:00:00Z" and scene.gsd_m == 10
    assert scene.bands[0].scale == pytest.approx(1e-4 / VISIBLE_MAX) and scene.bands[0].offset == 0
    with SceneReader(scene) as reader:
        pixels = reader.read(Window(0, 0, 32, 32))
    assert not pixels.valid[:, 30:].any() and pixels.valid[:, :30].all()
    assert open_scene(path, bands=["blue"]).band_names == ("blue",)
    with pytest.raises(InputError, match="STAC item S2A_x has no band called nir; it has red, green, blue"):
        open_scene(path, bands=["nir"])


@pytest.mark.parametrize(
    ("properties", "offset"),
    [
        ({"s2:processing_baseline": "04.00"}, -0.1),
        ({"s2:processing_baseline": "02.14"}, 0.0),
        ({"s2:processing_baseline": "05.09", "earthsearch:boa_offset_applied": True}, 0.0),
        ({}, -0.1),  # by its date
    ],
)
def test_the_baseline_offset_comes_from_the_item(make_item, tmp_path, properties, offset):
    item = make_item("S2A_x", datetime(2022, 6, 1, 10, tzinfo=UTC), **properties)
    scene = open_scene(save(tmp_path / "items.json", [item]))
    assert scene.bands[0].offset == pytest.approx(offset / VISIBLE_MAX)
    assert any("Sentinel-2 offset" in note for note in scene.notes)


@pytest.mark.parametrize(
    ("fields", "properties", "offset"),
    [
        ({"raster:bands": [{"scale": 1e-4, "offset": 0}]}, {}, 0.0),
        ({"raster:bands": [{"scale": 1e-4, "offset": -0.1}]}, {"s2:processing_baseline": "02.14"}, -0.1),
        ({"raster:bands": [{"scale": 1e-4, "offset": -0.1}]}, {"earthsearch:boa_offset_applied": True}, 0.0),
        ({"raster:scale": 1e-4, "raster:offset": 0.0}, {}, 0.0),  # STAC 1.1
        ({"raster:bands": [{"scale": "x", "offset": None}]}, {}, -0.1),  # by its date
    ],
)
def test_what_an_item_states_of_a_band_decides(make_item, tmp_path, fields, properties, offset):
    item = make_item("S2A_x", datetime(2022, 6, 1, 10, tzinfo=UTC), **properties)
    item.assets["B04"].extra_fields |= fields
    scene = open_scene(save(tmp_path / "items.json", [item]), bands=["red"])
    assert scene.bands[0].scale == pytest.approx(1e-4 / VISIBLE_MAX)
    assert scene.bands[0].offset == pytest.approx(offset / VISIBLE_MAX)


@pytest.mark.parametrize(("first", "date"), [("2020-02-01T00:00:00Z", "2020-02-01T00:00:00Z"), ("2020-02-30", None)])
def test_an_item_of_a_range_has_its_first_day_and_impossible_ones_are_none(make_item, tmp_path, first, date):
    when = datetime(2020, 2, 1, tzinfo=UTC)
    item = make_item("S2A_x", when).to_dict()
    item["properties"] |= {"datetime": None, "start_datetime": first, "end_datetime": "2020-03-01T00:00:00Z"}
    path = tmp_path / "item.json"
    path.write_text(json.dumps(item))
    if date is None:
        with pytest.raises(InputError, match="STAC item S2A_x cannot be understood"):
            open_scene(path)
    else:
        assert open_scene(path).datetime == date


def test_items_of_one_solar_day_are_one_mosaic(make_item, tmp_path):
    morning = datetime(2020, 2, 23, 10, tzinfo=UTC)
    items = [
        make_item("west", morning, east=0, value=0),
        make_item("east", morning.replace(minute=1), east=240, value=500),  # overlaps by eight pixels
        make_item("later", morning.replace(day=25), value=0),
    ]
    path = save(tmp_path / "items.json", items)
    assert [found.source for found in expand(path)] == [f"{path}#2020-02-23", f"{path}#2020-02-25"]
    with pytest.raises(InputError, match="items of 2 days"):
        open_scene(path)
    scene = open_scene(f"{path}#2020-02-23", bands=["red", "green", "blue"])
    assert (scene.height, scene.width) == (32, 56)
    with SceneReader(scene) as reader:
        pixels = reader.read_dn(Window(0, 0, 56, 32))
        cloud = reader.read_cloud(Window(0, 0, 56, 32))
    west, east = open_scene(tmp_path / "west" / "B04.tif"), open_scene(tmp_path / "east" / "B04.tif")
    with SceneReader(west) as one, SceneReader(east) as other:
        left, right = (r.read_dn(Window(0, 0, 32, 32)).values[0] for r in (one, other))
    # Sorted by name, east lies on top; where east is cloudy west shows, were it there.
    np.testing.assert_array_equal(pixels.values[0, :, 24:54], right[:, :30])
    np.testing.assert_array_equal(pixels.values[0, :, :24], left[:, :24])
    assert not pixels.valid[:, 54:].any() and pixels.valid[:, :54].all()
    assert cloud.shape == (32, 56)
    report = cut([Request(f.source) for f in expand(path)], tmp_path / "T", CutSettings(size=16, min_valid=0.0))
    assert report.tiles == 8 + 4
    assert set(TileDataset(tmp_path / "T").column("datetime")) == {"2020-02-23T10:01:00Z", "2020-02-25T10:00:00Z"}


def test_what_is_no_item_is_refused(tmp_path):
    for name, text in {
        "a.json": "{",
        "b.json": "[]",
        "c.json": '{"type": "Feature"}',
        "d.json": '{"features": []}',
    }.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(InputError, match=name):
            open_scene(tmp_path / name)
    with pytest.raises(InputError, match="does not exist"):
        open_scene(tmp_path / "none.json")


@pytest.fixture
def api(make_item):
    """A STAC API on this machine that knows two items."""
    items = [
        make_item("one", datetime(2024, 6, 1, 10, tzinfo=UTC)),
        make_item("two", datetime(2024, 6, 3, 10, tzinfo=UTC)),
    ]
    asked: list[dict] = []

    class Handler(BaseHTTPRequestHandler):
        def answer(self, content: dict) -> None:
            body = json.dumps(content).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            root = f"http://127.0.0.1:{self.server.server_port}"
            links = [
                {"rel": "self", "href": root},
                {"rel": "root", "href": root},
                {"rel": "search", "href": f"{root}/search", "method": "POST", "type": "application/geo+json"},
            ]
            conforms = ["https://api.stacspec.org/v1.0.0/core", "https://api.stacspec.org/v1.0.0/item-search"]
            kind = {"type": "Catalog", "id": "here", "description": "here", "stac_version": "1.0.0"}
            self.answer({**kind, "links": links, "conformsTo": conforms})

        def do_POST(self) -> None:
            query = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append(query)
            found = [] if query["collections"] == ["empty"] else [item.to_dict() for item in items]
            self.answer({"type": "FeatureCollection", "features": found, "links": []})

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


def test_a_search_is_kept_and_asked_once(api, tmp_path):
    url, asked = api
    target = tmp_path / "T.items.json"
    sources = search(url, ["sentinel-2-l2a"], [15, 45, 16, 46], "2024-06-01/2024-06-30", 10, target)
    assert sources == [f"{target}#2024-06-01", f"{target}#2024-06-03"]
    assert asked[0]["collections"] == ["sentinel-2-l2a"] and asked[0]["bbox"] == [15, 45, 16, 46]
    assert search(url, ["sentinel-2-l2a"], [15, 45, 16, 46], None, 10, target) == sources and len(asked) == 1
    assert open_scene(sources[0]).band_names == ("red", "green", "blue")
    with pytest.raises(InputError, match="has no items of empty"):
        search(url, ["empty"], None, None, 10, tmp_path / "none.json")
    with pytest.raises(InputError, match=r"STAC search at http://127\.0\.0\.1:9 failed"):
        search("http://127.0.0.1:9", ["x"], None, None, 10, tmp_path / "none.json")


def test_a_second_search_adds_its_scenes(api, tmp_path, monkeypatch, capsys):
    from geodino.cli import main

    url, asked = api

    def tile(days: str, *more: str) -> str:
        arguments = ["--stac", url, "--collection", "sentinel-2-l2a", "--bbox", "15,45,16,46", "--datetime", days]
        out = ["-o", str(tmp_path / "T"), "--size", "16", *more]
        monkeypatch.setattr(sys, "argv", ["geodino", "tile", *arguments, *out])
        with pytest.raises(SystemExit) as left:
            main()
        assert not left.value.code
        return capsys.readouterr().out

    first = tile("2024-06-01/2024-06-30")
    assert "2 tiles added" in first and "limit" not in first and len(asked) == 1
    assert "0 tiles added" in tile("2024-06-01/2024-06-30") and len(asked) == 1  # the kept answer
    tile("2024-07-01/2024-07-31")
    assert len(asked) == 2 and asked[1]["datetime"].startswith("2024-07-01")
    assert len(list(tmp_path.glob("T.*.items.json"))) == 2
    assert "ended at its limit of 1, and there may be more" in tile("2024-06-01/2024-06-30", "--max-items", "1")
