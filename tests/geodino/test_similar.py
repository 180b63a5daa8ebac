"""Similarity: the chosen place is like itself, like its kin, unlike the rest; across scenes too."""

import json
from dataclasses import replace

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from odc.geo.geobox import GeoBox
from pystac.validation.local_validator import LocalValidator
from rio_cogeo.cogeo import cog_validate
from typer.testing import CliRunner

import geodino
from geodino.backbones.backbone import save_backbone, untrained_backbone
from geodino.backbones.normalize import Normalization
from geodino.cli import build
from geodino.dense.cube_reader import open_cube
from geodino.dense.settings import DenseSettings
from geodino.dense.tokens import tokens_from_cube
from geodino.products.vector import check_vector_path
from geodino.retrieval.likeness import Query, parse_points, read_polygons
from geodino.retrieval.place_index import COLUMNS, embed, search, write_index
from geodino.retrieval.similar import is_cube
from tiles.errors import InputError, OutputError
from tiles.scenes.opening import open_scene

SMALL = DenseSettings(window=8, halo=1, batch_size=4)


@pytest.fixture(scope="module")
def backbone():
    return untrained_backbone("vit_small_patch16_dinov3", depth=1, embed_dim=64, num_heads=2, precision="fp32")


def make_scene(folder, name="scene.tif", nodata=True, east=5e5):
    """Noise of two textures, left and right, with a hole in the right one."""
    rng = np.random.default_rng(0)
    array = rng.integers(1, 60, (3, 256, 320), dtype=np.uint8)
    array[:, :, 160:] = rng.integers(180, 255, (3, 256, 160), dtype=np.uint8)
    if nodata:
        array[:, 96:160, 224:288] = 0
    with rasterio.open(
        folder / name,
        "w",
        driver="GTiff",
        count=3,
        height=256,
        width=320,
        dtype="uint8",
        nodata=0,
        crs="EPSG:32633",
        transform=Affine(10, 0, east, 0, -10, 5e6),
    ) as out:
        out.write(array)
    return open_scene(folder / name, band_names=["red", "green", "blue"])


@pytest.fixture
def scene(tmp_path):
    return make_scene(tmp_path)


def test_a_click_maps_its_own_texture_on_the_pixel_grid(scene, backbone, tmp_path):
    out = geodino.similar(scene, tmp_path / "s.tif", at=[(5e5 + 400, 5e6 - 400)], backbone=backbone, settings=SMALL)
    assert cog_validate(str(out))[0]
    with rasterio.open(out) as file, rasterio.open(scene.source) as source:
        score = file.read(1)
        assert (file.shape, file.transform, file.crs) == (source.shape, source.transform, source.crs)
        assert file.dtypes == ("float32",) and np.isnan(file.nodata)
        np.testing.assert_array_equal(np.isnan(score), source.read(1) == 0)
    assert np.nanmax(score) <= 1 and score[40, 40] > 0.99
    assert score[:, :140].min() > np.nanmax(score[:, 180:])
    assert (tmp_path / "s.tif.stac.json").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["s.tif", "s.tif.stac.json", "scene.tif"]


def test_a_cube_needs_no_model_and_gives_the_same_scores(scene, backbone, tmp_path):
    cube = geodino.features(scene, tmp_path / "f.tif", backbone=backbone, settings=SMALL)
    out = geodino.similar(tmp_path / "f.tif", tmp_path / "s.tif", at=[(5e5 + 400, 5e6 - 400)])
    features = cube.values
    query = features[:, 2, 2] / np.linalg.norm(features[:, 2, 2])
    expected = np.einsum("d,dhw->hw", query, features) / np.linalg.norm(features, axis=0)
    with rasterio.open(out) as file:
        np.testing.assert_allclose(file.read(1), expected, atol=1e-5)
    items = [json.loads((tmp_path / f"{name}.tif.stac.json").read_text()) for name in ("f", "s")]
    assert not list(LocalValidator().item_validator().iter_errors(items[1]))
    of_cube, of_map = (item["properties"] for item in items)
    for key in ("mlm:name", "mlm:input", "proj:code", "end_datetime", "processing:software"):
        assert of_map[key] == of_cube[key], key
    asset = items[1]["assets"]["product"]
    assert asset["data_type"] == "float32" and asset["mlm:name"] == of_cube["mlm:name"]
    (tmp_path / "f.tif.stac.json").unlink()
    geodino.similar(tmp_path / "f.tif", tmp_path / "t.tif", at=[(5e5 + 400, 5e6 - 400)])
    item = json.loads((tmp_path / "t.tif.stac.json").read_text())
    assert not list(LocalValidator().item_validator().iter_errors(item)) and "mlm:name" not in item["properties"]


def tokens(path, scene=None):
    return tokens_from_cube(path, scene).tokens()


def test_polygons_and_places_are_averaged(scene, backbone, tmp_path):
    geodino.features(scene, tmp_path / "f.zarr", backbone=backbone, settings=SMALL, dtype="float32")
    cube = open_cube(tmp_path / "f.zarr")
    area = gpd.GeoSeries([shapely.box(5e5, 5e6 - 640, 5e5 + 320, 5e6)], crs="EPSG:32633").to_crs("EPSG:4326")
    area.to_file(tmp_path / "p.gpkg")
    held = tokens(tmp_path / "f.zarr")
    got = Query(polygons=tmp_path / "p.gpkg").vector(held)
    mean = cube.values[:, :4, :2].reshape(64, -1).mean(1)
    np.testing.assert_allclose(got, mean / np.linalg.norm(mean), atol=1e-6)
    small = gpd.GeoSeries([shapely.box(5e5 + 20, 5e6 - 40, 5e5 + 30, 5e6 - 30)], crs="EPSG:32633")
    small.to_file(tmp_path / "small.gpkg")
    np.testing.assert_allclose(Query(polygons=tmp_path / "small.gpkg").vector(held), cube.values[:, 0, 0], atol=1e-6)
    both = Query(points=((5e5 + 1, 5e6 - 1), (5e5 + 400, 5e6 - 400))).vector(held)
    mean = (cube.values[:, 0, 0] + cube.values[:, 2, 2]) / 2
    np.testing.assert_allclose(both, mean / np.linalg.norm(mean), atol=1e-6)


def test_polygons_are_read_as_labels_are(scene, tmp_path):
    """Layers together or one of them, far edges cut to the scene, and one sentence for what is none."""
    box, path = scene.geobox, tmp_path / "layers.gpkg"
    for name, east in (("left", 5e5), ("right", 5e5 + 1600)):
        gpd.GeoSeries([shapely.box(east, 5e6 - 320, east + 320, 5e6)], crs="EPSG:32633").to_file(path, layer=name)
    shapes, notes = read_polygons(path, box)
    assert [shape.bounds[0] for shape in shapes] == [5e5, 5e5 + 1600]
    assert notes == ["the layers left, right are read together; --layer takes one of them"]
    assert [shape.bounds[0] for shape in read_polygons(path, box, "right")[0]] == [5e5 + 1600]
    globe = gpd.GeoSeries([shapely.box(-100, -80, 120, 80)], crs="EPSG:4326")
    globe.to_file(tmp_path / "globe.gpkg")
    Query(polygons=tmp_path / "globe.gpkg").check(box)
    (tmp_path / "p.csv").write_text("lon,lat\n15,45\n")
    for file, layer, says in ((path, "up", "no layer 'up'"), (tmp_path / "p.csv", None, "holds no polygon")):
        with pytest.raises(InputError, match=says):
            Query(polygons=file, layer=layer).check(box)
    with pytest.raises(InputError, match="--layer"):
        Query(points=((5e5, 5e6),), layer="up")
    with pytest.raises(InputError, match="--crs"):
        Query(polygons=path, crs="EPSG:4326")


def test_a_place_may_be_given_in_another_crs(scene, backbone, tmp_path):
    geodino.features(scene, tmp_path / "f.zarr", backbone=backbone, settings=SMALL)
    cube = tokens(tmp_path / "f.zarr")
    place = gpd.GeoSeries([shapely.Point(5e5 + 400, 5e6 - 400)], crs="EPSG:32633").to_crs("EPSG:4326")[0]
    here = Query(points=((5e5 + 400, 5e6 - 400),)).vector(cube)
    np.testing.assert_array_equal(Query(points=((place.x, place.y),), crs="EPSG:4326").vector(cube), here)


def test_what_cannot_be_looked_for_is_one_sentence(scene, backbone, tmp_path):
    geodino.features(scene, tmp_path / "f.zarr", backbone=backbone, settings=SMALL)
    cube = tokens(tmp_path / "f.zarr")
    (tmp_path / "no.gpkg").write_text("nothing")
    gpd.GeoSeries([shapely.box(0, 0, 1, 1)], crs="EPSG:32633").to_file(tmp_path / "far.gpkg")
    gpd.GeoSeries([shapely.Point(5e5, 5e6)], crs="EPSG:32633").to_file(tmp_path / "points.gpkg")
    with pytest.warns(UserWarning, match="'crs' was not provided"):
        gpd.GeoSeries([shapely.box(0, 0, 1, 1)]).to_file(tmp_path / "placeless.gpkg")
    gpd.GeoDataFrame(geometry=[shapely.Point(9, 57)], crs="EPSG:4326").to_parquet(tmp_path / "bare.parquet")
    bare = replace(scene, geobox=GeoBox(scene.geobox.shape, scene.geobox.affine, None))
    geodino.features(bare, tmp_path / "bare.zarr", backbone=backbone, settings=SMALL)
    nowhere = tokens(tmp_path / "bare.zarr")
    for query, says in (
        (lambda: Query(), "--at"),
        (lambda: Query(points=((0, 0),)).vector(cube), "outside"),
        (lambda: Query(points=((5e5 + 2500, 5e6 - 1300),)).vector(cube), "nodata"),
        (lambda: Query(points=((0, 0),), crs="nonsense").vector(cube), "nonsense"),
        (lambda: Query(points=((5e5, 5e6),), crs="EPSG:4326").vector(cube), "outside"),  # metres, not degrees
        (lambda: Query(points=((float("nan"), 0),)).vector(cube), "outside"),
        (lambda: Query(points=((0, 0),), crs="EPSG:4326").vector(nowhere), "without --crs"),
        (lambda: Query(polygons=tmp_path / "placeless.gpkg").vector(cube), "no coordinate reference system"),
        (lambda: embed(nowhere, "scene"), "no place in an index"),
        (lambda: search(tmp_path / "absent.parquet", np.ones(64)), "does not exist"),
        (lambda: search(tmp_path / "no.gpkg", np.ones(64)), "no GeoParquet"),
        (lambda: search(tmp_path / "bare.parquet", np.ones(64)), "no column 'embedding'"),
        (lambda: check_vector_path(tmp_path / "hits.csv", overwrite=False), "hits.csv"),
        (lambda: Query(polygons=tmp_path / "absent.gpkg").vector(cube), "absent"),
        (lambda: Query(polygons=tmp_path / "no.gpkg").vector(cube), "no.gpkg"),
        (lambda: Query(polygons=tmp_path / "far.gpkg").vector(cube), "no polygon"),
        (lambda: Query(polygons=tmp_path / "points.gpkg").vector(cube), "no polygon"),
        (lambda: parse_points(["1,b"]), "two numbers"),
    ):
        with pytest.raises(InputError, match=says):
            query()


def test_an_index_over_scenes_finds_the_texture_in_the_other_scene(scene, backbone, tmp_path):
    other = make_scene(tmp_path, "other.tif", nodata=False, east=6e5)
    frames = []
    for s in (scene, other):
        geodino.features(s, tmp_path / f"{s.name}.zarr", backbone=backbone, settings=SMALL)
        frames.append(embed(tokens(tmp_path / f"{s.name}.zarr", s), s.name, side=4))
    count = write_index(frames, tmp_path / "i.parquet", sources=[scene, other])
    index = gpd.read_parquet(tmp_path / "i.parquet")
    assert tuple(index.columns) == COLUMNS and index.crs == "EPSG:4326" and len(index) == count
    assert index.unique_id.is_unique and index.grid_cell.str.match(r"^\d+[UD]_\d+[RL]$").all()
    assert index.loc[0, "pixel_bbox"].tolist() == [0, 0, 64, 64] and index.loc[0, "utm_crs"] == "EPSG:32633"
    centre = (
        gpd.GeoSeries([shapely.box(5e5, 5e6 - 640, 5e5 + 640, 5e6)], crs="EPSG:32633").to_crs("EPSG:4326")[0].centroid
    )
    assert index.loc[0, "centre_lon"] == pytest.approx(centre.x, abs=1e-5)
    hits = search(tmp_path / "i.parquet", np.asarray(index.loc[0, "embedding"]), count=20)
    assert hits.similarity.is_monotonic_decreasing and hits.similarity[0] == pytest.approx(1, abs=1e-5)
    assert set(hits.product_id) == {"scene", "other"}
    assert all(bounds[0] < 160 for bounds in hits.pixel_bbox)  # the left texture, not the right
    out = geodino.similar(
        tmp_path / "scene.zarr", tmp_path / "h.gpkg", at=[(5e5 + 400, 5e6 - 400)], index=tmp_path / "i.parquet", count=5
    )
    assert len(gpd.read_file(out)) == 5
    with pytest.raises(InputError, match="another backbone"):
        search(tmp_path / "i.parquet", np.ones(7, np.float32))
    with pytest.raises(OutputError, match=r"\.parquet"):
        write_index(frames, tmp_path / "i.csv", sources=[scene, other])


@pytest.mark.parametrize(
    ("crs", "transform"),
    [
        ("EPSG:32660", Affine(10, 0, 828_800, 0, -10, 1_000_000)),
        ("EPSG:4326", Affine(1e-4, 0, 179.994, 0, -1e-4, 9.04)),
    ],
)
def test_places_across_the_antimeridian_are_there(backbone, tmp_path, crs, transform):
    with rasterio.open(tmp_path / "s.tif", "w", driver="GTiff", count=3, height=64, width=128, dtype="uint8", crs=crs,
                       transform=transform) as out:  # fmt: skip
        out.write(np.random.default_rng(0).integers(1, 255, (3, 64, 128), dtype=np.uint8))
    scene = open_scene(tmp_path / "s.tif", band_names=["red", "green", "blue"])
    geodino.features(scene, tmp_path / "s.zarr", backbone=backbone, settings=SMALL)
    frame = embed(tokens(tmp_path / "s.zarr", scene), "s", side=4)
    assert len(frame) == 2
    west, south, east, north = frame.total_bounds
    assert (west, east) == (-180, 180)
    assert (frame.centre_lon.abs() > 179.9).all() and frame.centre_lon.between(-180, 180).all()
    assert set(frame.utm_crs) <= {"EPSG:32660", "EPSG:32601"} and frame.centre_lat.between(8.9, 9.1).all()
    assert frame.grid_col_r.abs().min() > 1900
    assert shapely.area(frame.geometry.array).max() < 1e-3 and frame.geometry.is_valid.all()
    for place in frame.itertuples():
        assert shapely.from_wkt(place.utm_footprint).area == pytest.approx(640 * 640, rel=0.25)
    write_index([frame], tmp_path / "i.parquet", sources=[scene])
    west, south, east, north = json.loads((tmp_path / "i.parquet.stac.json").read_text())["bbox"]
    assert west > 179.9 and east < -179.9 and 8.9 < south < north < 9.1


def test_an_index_of_another_model_is_refused(scene, backbone, tmp_path):
    other = untrained_backbone("vit_small_patch16_dinov3", depth=1, embed_dim=64, num_heads=2, precision="fp32", seed=1)
    scaled = replace(backbone, normalization=Normalization((0.1, 0.2, 0.3), (1.0, 1.0, 1.0)))
    for name, model, settings in (
        ("mine.tif", backbone, SMALL),
        ("mine.zarr", backbone, SMALL),
        ("other.zarr", other, SMALL),
        ("scaled.tif", scaled, SMALL),
        ("layer.zarr", backbone, replace(SMALL, layers=(0,))),
    ):
        geodino.features(scene, tmp_path / name, backbone=model, settings=settings)
    index = tmp_path / "i.parquet"
    write_index([embed(tokens(tmp_path / "mine.tif"), "scene", side=4)], index, sources=[tmp_path / "mine.tif"])
    ask = {"at": [(5e5 + 400, 5e6 - 400)], "index": index, "overwrite": True}
    geodino.similar(tmp_path / "mine.zarr", tmp_path / "h.gpkg", **ask)
    geodino.similar(scene, tmp_path / "h.gpkg", backbone=backbone, settings=SMALL, **ask)
    for name, says in (("other.zarr", "backbone"), ("scaled.tif", "normalisation"), ("layer.zarr", "layers")):
        with pytest.raises(InputError, match=rf"i\.parquet has another {says} \(.*than the query"):
            geodino.similar(tmp_path / name, tmp_path / "h.gpkg", **ask)
    with pytest.raises(InputError, match="another backbone"):
        geodino.similar(scene, tmp_path / "h.gpkg", backbone=other, settings=SMALL, **ask)
    silent = gpd.read_parquet(index)
    silent.attrs = {}  # as in files of other makers
    silent.to_parquet(index)
    geodino.similar(tmp_path / "other.zarr", tmp_path / "h.gpkg", **ask)


def test_a_scene_with_its_cube_gives_the_map_of_the_scene(scene, backbone, tmp_path):
    ask = {"at": [(5e5 + 400, 5e6 - 400)]}
    geodino.features(scene, tmp_path / "f.zarr", backbone=backbone, settings=SMALL)
    geodino.similar(scene, tmp_path / "once.tif", backbone=backbone, settings=SMALL, **ask)
    geodino.similar(scene, tmp_path / "cube.tif", features=tmp_path / "f.zarr", **ask)
    with rasterio.open(tmp_path / "once.tif") as once, rasterio.open(tmp_path / "cube.tif") as cube:
        np.testing.assert_array_equal(once.read(1), cube.read(1))
    with pytest.raises(InputError, match=r"f\.zarr: leave --backbone out"):
        geodino.similar(scene, tmp_path / "o.tif", features=tmp_path / "f.zarr", backbone=backbone, **ask)


def test_a_map_of_a_cube_names_the_model_and_is_no_cube(scene, backbone, tmp_path):
    for name in ("f.zarr", "f.tif"):
        geodino.features(scene, tmp_path / name, backbone=backbone, settings=SMALL)
        out = geodino.similar(tmp_path / name, tmp_path / f"{name}-s.tif", at=[(5e5 + 400, 5e6 - 400)])
        with rasterio.open(out) as file:
            assert file.tags()["GEODINO_BACKBONE_HASH"] == backbone.hash
        assert not is_cube(str(out))


def test_sources_that_cannot_be_indexed_are_named_and_the_rest_is(scene, backbone, tmp_path):
    save_backbone(backbone.module, backbone.card, tmp_path / "run")
    other = untrained_backbone("vit_small_patch16_dinov3", depth=1, embed_dim=64, num_heads=2, precision="fp32", seed=1)
    geodino.features(scene, tmp_path / "other.zarr", backbone=other, settings=SMALL)
    (tmp_path / "text.tif").write_text("no raster")
    (tmp_path / "torn.tif").write_bytes((tmp_path / "scene.tif").read_bytes()[:100_000])
    bad = [str(tmp_path / name) for name in ("absent.zarr", "text.tif", "torn.tif", "other.zarr")]
    common = ["-o", str(tmp_path / "i.parquet"), "--backbone", str(tmp_path / "run"), "--band-names", "red,green,blue"]
    result = CliRunner().invoke(build(), ["index", bad[0], bad[1], scene.source, *bad[2:], *common])
    assert result.exit_code == 1, result.output
    assert [line.split()[1].rstrip(":") for line in result.output.splitlines() if line.startswith("FAILED")] == bad
    assert "of 1 scenes" in result.output
    assert set(gpd.read_parquet(tmp_path / "i.parquet").product_id) == {"scene"}
    assert not [path.name for path in tmp_path.iterdir() if ".part" in path.name or "features" in path.name]
    result = CliRunner().invoke(build(), ["index", *bad[:2], *common, "--overwrite"])
    assert isinstance(result.exception, InputError) and "none of the 2 sources" in str(result.exception)


def test_the_commands_do_the_same(scene, backbone, tmp_path):
    save_backbone(backbone.module, backbone.card, tmp_path / "run")
    run = CliRunner()
    common = ["--backbone", str(tmp_path / "run")]
    result = run.invoke(
        build(),
        [
            "similar",
            scene.source,
            "-o",
            str(tmp_path / "s.tif"),
            "--at",
            "500400,4999600",
            "--band-names",
            "red,green,blue",
            *common,
        ],
    )
    assert result.exit_code == 0, result.output
    assert rasterio.open(tmp_path / "s.tif").shape == (256, 320)
    result = run.invoke(build(), ["similar", scene.source, "-o", str(tmp_path / "s.tif"), "--at", "1,2", *common])
    assert isinstance(result.exception, OutputError)
