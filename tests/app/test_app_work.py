"""What the pages compute: live maps, likeness, changes, projects, exports, pictures; by hand and by brute force."""

import shutil
from dataclasses import replace
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
import zarr
from app_testing import landscape, write_raster
from hypothesis import given, settings
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox
from PIL import Image
from rasterio.transform import from_origin
from shapely.geometry import Point, box

from app.map.component import examples
from app.map.layers import LayerList
from app.map.picture import draw_map
from app.map.source import ClassColor, Meaning, open_source
from app.map.style import Paint, Style, default_style
from app.store.exports import FORMATS, convert_vectors, write_vectors
from app.store.projects import Project, check_name, listed, load, packed, save, trained_models, versions
from app.store.workspace import Workspace
from app.work.changes import change_vectors, polygons, write_change_map
from app.work.changes import likeness as change_likeness
from app.work.cubes import NOTHING, Cube, classify, likeness, open_cube, pca, write_preview
from app.work.models import attention
from geodino.heads.labels import Labels
from geodino.heads.legend import Legend
from tiles.errors import InputError
from tiles.writing.cog import read_classes


def cube_of(features: np.ndarray, valid: np.ndarray | None = None) -> Cube:
    """Features ``[D, H, W]`` as a cube on a grid of 160 m."""
    channels, height, width = features.shape
    mask = np.ones((height, width), bool) if valid is None else valid
    unit = features / np.maximum(np.linalg.norm(features, axis=0), 1e-9)
    index = np.full(height * width, -1, dtype=np.int64)
    index[mask.ravel()] = np.arange(int(mask.sum()))
    tokens = unit.reshape(channels, -1).T[mask.ravel()].astype(np.float16)
    geobox = GeoBox((height, width), from_origin(500_000, 5_000_000, 160, 160), "EPSG:32631")
    return Cube(tokens, index.reshape(height, width), geobox)


def blocks(seed: int = 0, height: int = 12, width: int = 18, channels: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """Features of three kinds side by side, and which kind each token is."""
    rng = np.random.default_rng(seed)
    kind = np.repeat(np.arange(3), width // 3)[None].repeat(height, 0)
    centres = rng.normal(0, 1, (3, channels))
    return centres[kind].transpose(2, 0, 1) + rng.normal(0, 0.2, (channels, height, width)), kind


@settings(max_examples=20)
@given(st.integers(0, 100))
def test_likeness_is_the_cosine_to_the_nearest_wanted_less_the_nearest_unwanted(seed: int) -> None:
    features, _ = blocks(seed)
    cube = cube_of(features)
    rng = np.random.default_rng(seed)
    more = [(int(rng.integers(12)), int(rng.integers(18))) for _ in range(2)]
    less = [(int(rng.integers(12)), int(rng.integers(18)))]
    found = likeness(cube, more, less)
    unit = cube.tokens.astype(np.float64).reshape(12, 18, -1)
    for row, column in [(0, 0), (5, 9), (11, 17)]:
        token = unit[row, column]
        expected = max(token @ unit[place] for place in more) - max(token @ unit[place] for place in less)
        assert found[row, column] == pytest.approx(expected, abs=1e-5)


def test_a_click_where_there_is_no_data_is_refused() -> None:
    valid = np.ones((12, 18), bool)
    valid[0] = False
    cube = cube_of(blocks()[0], valid)
    with pytest.raises(InputError, match="no data"):
        likeness(cube, [(0, 0)])
    assert np.isnan(likeness(cube, [(1, 1)])[0]).all()


def test_principal_components_colour_the_kinds_apart() -> None:
    features, kind = blocks()
    colors = pca(cube_of(features)).astype(float)
    assert colors.shape == (3, 12, 18)
    assert colors.min() >= 1
    means = [colors[:, kind == one].mean(axis=1) for one in range(3)]
    assert min(np.linalg.norm(means[a] - means[b]) for a, b in ((0, 1), (0, 2), (1, 2))) > 50


def test_a_live_map_finds_the_kinds_from_two_examples_each() -> None:
    features, kind = blocks()
    rows, cols = np.array([1, 10, 1, 10, 1, 10]), np.array([2, 3, 8, 9, 14, 15])
    labels = Labels(rows, cols, np.array([0, 0, 1, 1, 2, 2]), np.arange(6), Legend.of(["a", "b", "c"]))
    made = classify(cube_of(features), labels)
    assert (made.probabilities.argmax(axis=0) == kind).all()
    assert made.confidence.max() <= 100
    assert made.agreement is not None
    assert made.agreement.overall_accuracy == 1.0


def test_a_class_without_data_is_dropped_and_nodata_stays_nodata() -> None:
    features, _ = blocks()
    valid = np.ones((12, 18), bool)
    valid[:, 12:] = False
    labels = Labels(np.array([1, 1, 1]), np.array([2, 8, 14]), np.arange(3), np.arange(3), Legend.of(["a", "b", "c"]))
    made = classify(cube_of(features, valid), labels)
    assert made.names == ("a", "b")
    assert (made.probabilities[:, :, 12:] == NOTHING).all()
    one = Labels(np.array([1, 1]), np.array([2, 14]), np.arange(2), np.arange(2), Legend.of(["a", "c"]))
    with pytest.raises(InputError, match="Two classes"):
        classify(cube_of(features, valid), one)


def test_a_cube_is_read_as_it_was_written(tmp_path: Path) -> None:
    from geodino.dense.cube_zarr import VARIABLE

    features, _ = blocks()
    group = zarr.create_group(tmp_path / "c.zarr", zarr_format=3)
    group.attrs["proj:transform"] = [160.0, 0.0, 500_000.0, 0.0, -160.0, 5_000_000.0]
    reference = group.create_array("spatial_ref", shape=(), dtype="int32")
    reference.attrs["crs_wkt"] = rasterio.crs.CRS.from_epsg(32631).to_wkt()
    array = group.create_array(VARIABLE, shape=features.shape, chunks=features.shape, dtype="float16")
    stored = features.astype(np.float16)
    stored[:, 3, 4] = np.nan
    array[:] = stored
    cube = open_cube(tmp_path / "c.zarr")
    assert cube.index[3, 4] == -1
    assert np.array_equal(cube.tokens[cube.index[5, 6]], stored[:, 5, 6])
    assert open_cube(tmp_path / "c.zarr") is cube
    zarr.create_group(tmp_path / "other.zarr")
    with pytest.raises(InputError, match="no feature cube"):
        open_cube(tmp_path / "other.zarr")


@pytest.mark.parametrize(("size", "tokens"), [(40, 2), (640, 28)])
def test_attention_of_a_head_covers_the_scene_and_no_more(
    workspace: Workspace, tmp_path: Path, tiny_backbone: Path, size: int, tokens: int
) -> None:
    """Each head's map sums to at most one; its grid lies inside the scene and holds the place that was asked for."""
    scene = write_raster(tmp_path / "s.tif", landscape(size=size), names=("red", "green", "blue"))
    own = replace(workspace, backbone=str(tiny_backbone))
    found = attention(own, str(scene), size - 20, 3, 1)
    assert found.maps.shape == (6, tokens, tokens)
    assert (found.maps >= 0).all() and (found.maps.sum(axis=(1, 2)) <= 1 + 1e-5).all()
    box, whole = found.geobox.extent.boundingbox, open_source(scene).geobox.extent.boundingbox
    assert whole.left <= box.left and box.right <= whole.right
    assert whole.bottom <= box.bottom and box.top <= whole.top
    assert box.bottom <= 5_000_000 - 10 * (size - 20) <= box.top


def score_raster(folder: Path) -> Path:
    """Two places above 1: 4 x 5 and 3 x 3 pixels of 10 m, and one single pixel."""
    score = np.zeros((64, 64), np.float32)
    score[10:14, 20:25] = 3.0
    score[40:43, 50:53] = 2.0
    score[0, 0] = 9.0
    score[:, 60:] = np.nan
    return write_raster(folder / "score.tif", score, nodata=float("nan"))


def test_polygons_have_the_area_and_the_mean_score_of_their_pixels(tmp_path: Path) -> None:
    found = polygons(score_raster(tmp_path), 1.0, least_pixels=4)
    assert list(found.frame["score"]) == [3.0, 2.0]
    assert list(found.frame["area_m2"]) == pytest.approx([2000.0, 900.0])
    assert found.frame.geometry.iloc[0].bounds == (500_200.0, 4_999_860.0, 500_250.0, 4_999_900.0)
    assert len(polygons(score_raster(tmp_path), 2.5, least_pixels=4).frame) == 1
    assert len(polygons(score_raster(tmp_path), 100.0).frame) == 0


def test_the_map_at_a_threshold_is_whole_and_says_its_threshold(tmp_path: Path) -> None:
    path = write_change_map(score_raster(tmp_path), 2.5, tmp_path / "out.tif")
    with rasterio.open(path) as source:
        values = source.read(1)
        assert source.tags()["GEODINO_THRESHOLD"] == "2.5"
        assert source.nodata == 255
    assert (values == 1).sum() == 4 * 5 + 1
    assert (values == 255).sum() == 64 * 4
    assert [one.name for one in read_classes(path)] == ["no change", "change"]


def test_changes_are_compared_by_what_changed_in_them() -> None:
    """Two polygons where kind 0 became kind 2, one where 0 became 1: the like ones find each other."""
    features, _ = blocks()
    before = cube_of(np.repeat(features[:, :, :1], 18, axis=2))
    after = cube_of(features)
    corners = [(14, 2), (15, 8), (8, 4)]
    frame = geopandas.GeoDataFrame(
        geometry=[
            box(500_000 + 160 * c, 5_000_000 - 160 * (r + 2), 500_000 + 160 * (c + 2), 5_000_000 - 160 * r)
            for c, r in corners
        ],
        crs=32631,
    )
    vectors = change_vectors(before, after, frame)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-3)
    like = change_likeness(vectors, [0], [])
    assert like[1] > 0.9 > like[2]
    assert change_likeness(vectors, [0], [1])[1] == pytest.approx(like[1] - 1, abs=1e-3)


def test_examples_come_back_as_a_geodataframe_with_names() -> None:
    drawn = [
        {
            "type": "Feature",
            "geometry": {"type": "Point", "coordinates": [x, 45]},
            "properties": {"id": "x", "class": c},
        }
        for x, c in ((3, 2), (4, 9))
    ]
    features = {"type": "FeatureCollection", "features": drawn}
    frame = examples(features, (ClassColor(1, "water", (0, 0, 1)), ClassColor(2, "field", (0, 1, 0))))
    assert list(frame["class"]) == ["field"]
    assert list(frame["color"]) == ["#000100"]
    assert frame.geometry.iloc[0] == Point(3, 45)
    assert frame.crs.to_epsg() == 4326
    assert len(examples(None, ())) == 0


def project_in(workspace: Workspace, tmp_path: Path) -> Project:
    layers = LayerList()
    source = open_source(write_raster(tmp_path / "scene.tif", landscape(size=64)))
    layers.add(
        workspace, source, style=Style(Paint.ramp, (1,), ((3.0, 200.0),), "magma"), name='a "<b>" ä', opacity=0.4
    )
    frame = geopandas.GeoDataFrame({"class": ["water"]}, geometry=[Point(3, 45)], crs=4326)
    settings = {"least_pixels": 4, "more_like": [[3.0, 45.0]]}
    model = workspace.new_result("scene", "segmentation") / "model.safetensors"
    model.write_bytes(b"weights")
    return Project(layers.layers, [ClassColor(1, "water", (1, 2, 3))], frame, settings, [model])


def test_a_project_comes_back_as_it_was_saved(workspace: Workspace, tmp_path: Path) -> None:
    project = project_in(workspace, tmp_path)
    save(workspace.projects, "my project", project)
    assert listed(workspace.projects) == ["my project"]
    again = load(workspace.projects, "my project", workspace.access, workspace.statistics)
    (layer,) = again.layers
    assert (layer.name, layer.opacity, layer.style) == (project.layers[0].name, 0.4, project.layers[0].style)
    assert again.classes == project.classes
    assert again.settings == project.settings
    assert again.examples is not None
    assert again.examples.geometry.iloc[0] == Point(3, 45)


def test_a_copied_project_brings_its_models_along(workspace: Workspace, tmp_path: Path) -> None:
    project = project_in(workspace, tmp_path)
    home = save(workspace.projects, "p", project)
    save(workspace.projects, "p", project)
    (name,) = trained_models(workspace.results, workspace.projects).values()  # the copy is not listed beside it
    other = Workspace.at(tmp_path / "other", allow=(tmp_path,))
    shutil.copytree(home, other.projects / "theirs")
    found = trained_models(other.results, other.projects)
    assert list(found.values()) == [f"{name} (theirs)"]
    assert next(iter(found)).read_bytes() == b"weights"


def test_every_save_keeps_the_state_before(workspace: Workspace, tmp_path: Path) -> None:
    project = project_in(workspace, tmp_path)
    save(workspace.projects, "p", project)
    save(workspace.projects, "p", Project(classes=[ClassColor(1, "other", (0, 0, 0))]))
    assert versions(workspace.projects, "p") == ["0001"]
    older = load(workspace.projects, "p", workspace.access, workspace.statistics, "0001")
    assert older.classes[0].name == "water"
    assert load(workspace.projects, "p", workspace.access, workspace.statistics).examples is None
    assert len(packed(workspace.projects, "p")) > 100


def test_a_project_may_name_allowed_files_only(workspace: Workspace, tmp_path: Path) -> None:
    home = save(workspace.projects, "p", project_in(workspace, tmp_path))
    record = (home / "project.yaml").read_text()
    (home / "project.yaml").write_text(record.replace(str(tmp_path / "scene.tif"), "/etc/passwd"))
    loaded = load(workspace.projects, "p", workspace.access, workspace.statistics)
    assert loaded.layers == []
    assert "outside" in loaded.missing[0]
    (home / "project.yaml").write_text("layers: !!python/object/apply:os.system ['true']")
    with pytest.raises(InputError, match="no project"):
        load(workspace.projects, "p", workspace.access, workspace.statistics)
    with pytest.raises(InputError, match="no project called"):
        load(workspace.projects, "absent", workspace.access, workspace.statistics)


@pytest.mark.parametrize("name", ["", "..", "a/b", "../x", ".hidden", "x" * 100, "a\nb\x00"])
def test_a_project_name_is_a_plain_folder_name(name: str) -> None:
    if name == "a\nb\x00":
        name = "a\x00b"
    with pytest.raises(InputError):
        check_name(name)


def test_vectors_are_written_in_three_formats_that_agree(tmp_path: Path) -> None:
    frame = geopandas.GeoDataFrame({"id": ["1"]}, geometry=[box(500_000, 4_999_000, 500_100, 4_999_100)], crs=32631)
    paths = write_vectors(frame, tmp_path / "v", "changes")
    assert [path.suffix for path in paths] == list(FORMATS)
    read = [geopandas.read_parquet(p) if p.suffix == ".parquet" else geopandas.read_file(p) for p in paths]
    assert [one.crs.to_epsg() for one in read] == [32631, 4326, 32631]
    assert all(one.to_crs(32631).area.iloc[0] == pytest.approx(10_000, rel=1e-4) for one in read)
    assert convert_vectors(tmp_path / "v.gpkg") == paths
    assert convert_vectors(tmp_path / "none.gpkg") == []


def test_a_picture_of_the_map_has_its_legend_and_its_colours(workspace: Workspace, tmp_path: Path) -> None:
    layers = LayerList()
    layers.add(workspace, open_source(write_raster(tmp_path / "scene.tif", landscape(size=128), pixel=20.0)))
    ids = np.ones((1, 128, 128), np.uint8)
    path = write_preview(tmp_path / "ids.tif", ids, open_source(tmp_path / "scene.tif").geobox, 0)
    classes = (ClassColor(1, "a very long name of a class that does not fit the legend's width at all", (255, 0, 255)),)
    layers.add(workspace, open_source(path), style=Style(Paint.classes, (0,), classes=classes), name="Land")
    drawn = draw_map(layers.layers, layers.layers[0].source.bounds, tmp_path / "map.png", "Title")
    pixels = np.asarray(Image.open(drawn).convert("RGB")).reshape(-1, 3)
    assert (pixels == (255, 0, 255)).all(axis=1).mean() > 0.3
    assert not list(tmp_path.glob(".*part*"))


def test_a_score_knows_that_it_is_one(tmp_path: Path) -> None:
    source = open_source(score_raster(tmp_path))
    assert source.meaning is Meaning.values
    assert default_style(source).paint is Paint.ramp
