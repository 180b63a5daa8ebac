"""STAC items of quicklooks, indices and search results: what they say, and that they go with their product."""

import json
from dataclasses import replace

import geopandas as gpd
import numpy as np
import pystac
import pytest
import rasterio
import shapely
from affine import Affine
from odc.geo.geobox import GeoBox
from pystac.validation.local_validator import LocalValidator
from typer.testing import CliRunner

import geodino
from geodino.backbones.backbone import save_backbone, untrained_backbone
from geodino.cli import build
from geodino.dense.extraction import draw
from geodino.dense.settings import DenseSettings
from geodino.dense.tokens import tokens_from_cube
from geodino.products.stac import write_item
from geodino.retrieval.place_index import COLUMNS, embed, search, write_hits, write_index
from tiles.errors import InputError, OutputError
from tiles.scenes.opening import open_scene

SMALL = DenseSettings(window=8, halo=1, batch_size=4)
RGB = ["red", "green", "blue"]
HIT_COLUMNS = [name for name in COLUMNS if name != "embedding"] + ["similarity"]
TITLE = "three principal components of the features as red, green and blue"


@pytest.fixture(scope="module")
def backbone():
    return untrained_backbone("vit_small_patch16_dinov3", depth=1, embed_dim=64, num_heads=2, precision="fp32")


def make_scene(folder, name="scene.tif", east=5e5, day=None, lowest=1):
    """Noise on 64 × 64 pixels, hence 4 × 4 tokens; nothing but nodata when ``lowest`` is 0."""
    array = np.random.default_rng(int(east)).integers(lowest, 255 if lowest else 1, (3, 64, 64), dtype=np.uint8)
    grid = {"crs": "EPSG:32633", "transform": Affine(10, 0, east, 0, -10, 5e6), "nodata": 0}
    with rasterio.open(folder / name, "w", driver="GTiff", count=3, height=64, width=64, dtype="uint8", **grid) as out:
        out.write(array)
    return replace(open_scene(folder / name, band_names=RGB), datetime=day)


def read(product):
    """The item of a product: it is valid, and pystac reads and writes it without a loss."""
    path = product.with_name(f"{product.name}.stac.json")
    found = json.loads(path.read_text())
    assert not list(LocalValidator().item_validator().iter_errors(found))
    again = pystac.Item.from_file(path).to_dict(include_self_link=False, transform_hrefs=False)
    assert again == found
    assert not list(path.parent.glob("*.part"))
    return found


def sources(item):
    return [link["href"] for link in item["links"] if link["rel"] == "derived_from"]


def make_index(folder, backbone, *days):
    """Scenes side by side, a cube of each, and an index with a row a token: 16 a scene."""
    scenes = [make_scene(folder, f"s{i}.tif", 5e5 + 1000 * i, day) for i, day in enumerate(days)]
    frames = []
    for scene in scenes:
        geodino.features(scene, folder / f"{scene.name}.zarr", backbone=backbone, settings=SMALL)
        tokens = tokens_from_cube(folder / f"{scene.name}.zarr", scene).tokens()
        frames.append(embed(tokens, scene.name, side=1, timestamp=scene.datetime))
    write_index(frames, folder / "i.parquet", sources=scenes, settings={"tokens": 1})
    return scenes


@pytest.mark.parametrize(
    ("picture", "href", "media"),
    [
        ("out/q.png", "./q.png", "image/png"),
        ("out/../out/q.tif", "./q.tif", pystac.MediaType.COG),
        ("out/below/Q.PNG", "./below/Q.PNG", "image/png"),
        ("elsewhere/q.tif", "{}/elsewhere/q.tif", pystac.MediaType.COG),
    ],
)
def test_a_quicklook_is_an_asset_in_the_item_of_its_cube(backbone, tmp_path, monkeypatch, picture, href, media):
    (tmp_path / "out" / "below").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    cube = tmp_path / "out" / "f.tif"
    geodino.features(make_scene(tmp_path), "out/f.tif", backbone=backbone, settings=SMALL, quicklook=picture)
    assets = read(cube)["assets"]
    assert list(assets) == ["product", "quicklook"] and assets["product"]["href"] == "./f.tif"
    assert assets["quicklook"] == {
        "href": href.format(tmp_path),
        "type": media,
        "title": TITLE,
        "roles": ["overview"],
    }


def test_a_quicklook_drawn_later_is_added_and_a_new_cube_starts_without(backbone, tmp_path):
    words = {"backbone": backbone, "settings": SMALL}
    scene, cube = make_scene(tmp_path), tmp_path / "f.zarr"
    geodino.features(scene, cube, **words)
    before = read(cube)
    geodino.features(scene, cube, quicklook=tmp_path / "q.png", **words)
    after = read(cube)
    assert after["assets"].pop("quicklook")["href"] == "./q.png" and after == before
    with pytest.raises(OutputError, match="exists already"):
        geodino.features(scene, cube, quicklook=tmp_path / "q.png", **words)
    assert read(cube)["assets"]["quicklook"]["href"] == "./q.png"
    geodino.features(scene, cube, overwrite=True, **words)
    assert list(read(cube)["assets"]) == ["product"]
    (tmp_path / "f.zarr.stac.json").unlink()
    draw(cube, tmp_path / "q.png", overwrite=True)
    assert not (tmp_path / "f.zarr.stac.json").exists()


@pytest.mark.parametrize(
    ("crs", "corner", "side", "box"),
    [
        ("EPSG:32660", (750_000, 1_000_000), 2000, (179.27, 7.89, -179.57, 9.04)),  # half a degree beyond it
        ("EPSG:3031", (0, -1_400_000), 1000, (177.38, -77.17, 180, -76.57)),  # touches it from the west
        ("EPSG:3857", (-20_037_506, 20_037_506), 626_172, (-180, -85.05, 180, 85.05)),  # goes around the world
        ("EPSG:4326", (179, 10), 1 / 32, (179, 8, -179, 10)),  # a grid in degrees that goes on past it
        ("EPSG:4326", (190, 10), 1 / 32, (-170, 8, -168, 10)),  # one that lies beyond it
        ("EPSG:3413", (-32_000, 32_000), 1000, None),  # around the pole, which no outline in degrees is
    ],
)
def test_an_outline_is_cut_at_the_antimeridian(tmp_path, crs, corner, side, box):
    grid = GeoBox((64, 64), Affine(side, 0, corner[0], 0, -side, corner[1]), crs)
    scenes = {"scene": make_scene(tmp_path)}
    write_item(tmp_path / "f.zarr", scenes, None, task="feature-extraction", geobox=grid, data_type="float16")
    item = read(tmp_path / "f.zarr")
    if box is None:
        assert item["geometry"] is None
        return
    assert item["bbox"] == pytest.approx(box, abs=0.02)
    outline = shapely.geometry.shape(item["geometry"])
    assert outline.is_valid and (outline.geom_type == "MultiPolygon") == (box[0] > box[2])
    assert outline.area == pytest.approx(((box[2] - box[0]) % 360 or 360) * (box[3] - box[1]), rel=0.3)


def test_a_quicklook_that_cannot_be_drawn_is_not_named(backbone, tmp_path):
    scene = make_scene(tmp_path, lowest=0)
    with pytest.raises(InputError, match="no valid token"):
        geodino.features(scene, tmp_path / "f.tif", backbone=backbone, settings=SMALL, quicklook=tmp_path / "q.png")
    assert list(read(tmp_path / "f.tif")["assets"]) == ["product"]


def test_the_item_of_an_index_says_where_when_how_and_from_what(backbone, tmp_path):
    scenes = make_index(tmp_path, backbone, "2020-05-01", "2021-06")
    item, index = read(tmp_path / "i.parquet"), gpd.read_parquet(tmp_path / "i.parquet")
    assert item["id"] == "i.parquet"
    assert item["bbox"] == index.total_bounds.tolist()
    assert item["geometry"]["type"] == "Polygon"
    assert item["stac_extensions"] == [
        "https://stac-extensions.github.io/processing/v1.2.0/schema.json",
        "https://stac-extensions.github.io/table/v1.2.0/schema.json",
    ]
    assert item["properties"] == {
        "datetime": None,
        "start_datetime": "2020-05-01T00:00:00Z",
        "end_datetime": "2021-06-30T23:59:59Z",
        "processing:level": "L4",
        "processing:lineage": f"sparse-embedding by geodino from scene s0 ({scenes[0].sensor}), "
        f"scene s1 ({scenes[1].sensor})",
        "processing:software": {"geodino": geodino.__version__},
        "processing:expression": {
            "format": "geodino",
            "expression": {"task": "sparse-embedding", "settings": {"tokens": 1}},
        },
        "mlm:name": read(tmp_path / "s0.zarr")["properties"]["mlm:name"],
        "mlm:hyperparameters": {"weights_sha256": backbone.hash},
        "table:columns": [{"name": name} for name in COLUMNS],
        "table:row_count": 32,
    }
    assert item["assets"] == {
        "product": {
            "href": "./i.parquet",
            "type": "application/vnd.apache.parquet",
            "title": "sparse-embedding",
            "processing:level": "L4",
            "mlm:name": item["properties"]["mlm:name"],
            "roles": ["data"],
        }
    }
    assert sources(item) == [scene.source for scene in scenes]


@pytest.mark.parametrize(
    ("name", "media"),
    [
        ("h.parquet", "application/vnd.apache.parquet"),
        ("h.gpkg", "application/geopackage+sqlite3"),
        ("h.geojson", "application/geo+json"),
    ],
)
def test_the_item_of_hits_has_their_own_place_and_dates(backbone, tmp_path, name, media):
    make_index(tmp_path, backbone, "2020-05-01", "2021-06-07T10:20:30Z")
    place, index = (5e5 + 10, 5e6 - 10), tmp_path / "i.parquet"
    words = {"at": [place], "index": index, "overwrite": True}
    geodino.similar(tmp_path / "s0.zarr", tmp_path / name, **words)
    item = read(tmp_path / name)
    assert item["bbox"] == gpd.read_parquet(index).total_bounds.tolist()
    assert item["properties"]["end_datetime"] == "2021-06-07T10:20:30Z" and item["properties"]["table:row_count"] == 32
    geodino.similar(tmp_path / "s1.zarr", tmp_path / name, **words | {"at": [(5e5 + 1010, 5e6 - 10)], "count": 1})
    item, rows = read(tmp_path / name), gpd.read_parquet(index)
    assert item["bbox"] == rows[rows.unique_id == "s1/0_0"].total_bounds.tolist()  # the very token asked for
    properties = item["properties"]
    assert properties["datetime"] == "2021-06-07T10:20:30Z" and "start_datetime" not in properties
    assert properties["mlm:hyperparameters"] == {"weights_sha256": backbone.hash}
    assert properties["processing:lineage"] == (
        "similarity-search by geodino from index i.parquet, query in cube s1.zarr"
    )
    asked = {"points": [[5e5 + 1010, 5e6 - 10]], "crs": None, "count": 1}
    assert properties["processing:expression"]["expression"] == {"task": "similarity-search", "settings": asked}
    assert properties["table:columns"] == [{"name": name} for name in HIT_COLUMNS]
    assert properties["table:row_count"] == 1
    asset = item["assets"]["product"]
    assert (asset["href"], asset["type"], asset["roles"]) == (f"./{name}", media, ["data"])
    assert sources(item) == [str(index), str(tmp_path / "s1.zarr")]


def test_hits_without_dates_lie_within_those_of_the_index_and_a_scene_may_ask(backbone, tmp_path):
    scenes = make_index(tmp_path, backbone, None, "2021-06-07")
    geodino.similar(
        scenes[0],
        tmp_path / "h.gpkg",
        at=[(5e5 + 10, 5e6 - 10)],
        index=tmp_path / "i.parquet",
        backbone=backbone,
        settings=SMALL,
    )
    of_index, item = read(tmp_path / "i.parquet"), read(tmp_path / "h.gpkg")
    for found in (of_index, item):
        assert found["properties"]["start_datetime"] == "1858-01-01T00:00:00Z"
    assert item["properties"]["end_datetime"] == of_index["properties"]["end_datetime"] > "2021-06-07T23:59:59Z"
    assert sources(item) == [str(tmp_path / "i.parquet"), scenes[0].source]
    assert item["properties"]["processing:expression"]["expression"]["settings"]["window"] == 8
    names = {path.name for path in tmp_path.iterdir()}
    assert not [name for name in names if "features" in name or name.endswith(".part")]


def test_a_table_of_others_may_name_no_model_and_have_dates_of_any_form(backbone, tmp_path):
    make_index(tmp_path, backbone, "2020-05-01")
    index = gpd.read_parquet(tmp_path / "i.parquet")
    index.attrs = {}
    index["timestamp"] = ["2019-02-03 04:05:06", "20190203T040507", *["2019-02-04"] * 14]
    (tmp_path / "i.parquet.stac.json").unlink()

    def times():
        index.to_parquet(tmp_path / "i.parquet")
        hits = search(tmp_path / "i.parquet", np.asarray(index.embedding[0]))
        write_hits(hits, tmp_path / "h.geojson", index=tmp_path / "i.parquet", query=tmp_path / "s0.zarr")
        properties = read(tmp_path / "h.geojson")["properties"]
        assert not [name for name in properties if name.startswith("mlm:")]
        return properties["start_datetime"], properties["end_datetime"]

    assert times() == ("2019-02-03T04:05:06Z", "2019-02-04T23:59:59Z")
    index.loc[0, "timestamp"] = "once"
    start, end = times()
    assert start == "1858-01-01T00:00:00Z" and end > "2019-02-04T23:59:59Z"  # the index is younger than its rows


@pytest.mark.parametrize("name", ["h.parquet", "h.gpkg", "h.geojson"])
def test_nothing_found_has_an_item_without_a_place(backbone, tmp_path, name):
    scene = make_scene(tmp_path, lowest=0, day="2020-05-01")
    geodino.features(scene, tmp_path / "f.zarr", backbone=backbone, settings=SMALL)
    tokens = tokens_from_cube(tmp_path / "f.zarr").tokens()
    write_index([embed(tokens, scene.name, timestamp=scene.datetime)], tmp_path / "i.parquet", sources=[scene])
    hits = search(tmp_path / "i.parquet", np.ones(64, np.float32))
    write_hits(hits, tmp_path / name, index=tmp_path / "i.parquet", query=tmp_path / "f.zarr")
    for product in ("i.parquet", name):
        item = read(tmp_path / product)
        assert item["geometry"] is None and "bbox" not in item
        assert item["properties"]["table:row_count"] == 0
        assert item["properties"]["start_datetime"] == "2020-05-01T00:00:00Z"
        assert item["properties"]["mlm:hyperparameters"] == {"weights_sha256": backbone.hash}


def test_the_commands_replace_items_with_their_products_and_leave_none_when_refused(backbone, tmp_path):
    save_backbone(backbone.module, backbone.card, tmp_path / "run")
    scene, out = make_scene(tmp_path), tmp_path / "i.parquet"
    geodino.features(scene, tmp_path / "f.zarr", backbone=backbone, settings=SMALL)
    cube, run = str(tmp_path / "f.zarr"), CliRunner()
    common = ["--backbone", str(tmp_path / "run"), "--band-names", "red,green,blue", "--tokens", "2"]

    def index(*words):
        return run.invoke(build(), ["index", *words, "-o", str(out), *common])

    (tmp_path / "text.tif").write_text("no raster")
    assert isinstance(index(str(tmp_path / "text.tif")).exception, InputError)
    assert not (tmp_path / "i.parquet.stac.json").exists()
    assert index(scene.source, cube).exit_code == 0
    first = read(out)
    assert sources(first) == [scene.source, cube] and first["properties"]["table:row_count"] == 8
    assert first["properties"]["processing:lineage"].endswith("cube f.zarr")
    assert isinstance(index(cube).exception, OutputError) and read(out) == first
    assert index(cube, "--overwrite").exit_code == 0
    assert sources(read(out)) == [cube] and read(out)["properties"]["table:row_count"] == 4

    def similar(x, *words):
        found = ["-o", str(tmp_path / "h.gpkg"), "--at", f"{x},4999990", "--index", str(out)]
        return run.invoke(build(), ["similar", cube, *found, *words])

    assert isinstance(similar(0).exception, InputError) and not (tmp_path / "h.gpkg.stac.json").exists()
    assert similar(500010).exit_code == 0
    first = read(tmp_path / "h.gpkg")
    assert isinstance(similar(500010, "--count", "1").exception, OutputError)
    assert isinstance(similar(0, "--overwrite").exception, InputError) and read(tmp_path / "h.gpkg") == first
    assert similar(500010, "--count", "1", "--overwrite").exit_code == 0
    assert read(tmp_path / "h.gpkg")["properties"]["table:row_count"] == 1
