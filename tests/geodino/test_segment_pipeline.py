"""Whole maps on tiny generated scenes, with a tiny untrained backbone."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import rasterio
from affine import Affine
from safetensors.numpy import save_file
from shapely.geometry import Point, box

import geodino
from geodino.backbones.backbone import Backbone, untrained_backbone
from geodino.dense.engine import LocalEngine
from geodino.dense.settings import DenseSettings
from geodino.dense.tokens import tokens_from_scene
from geodino.heads.model_file import SegmentationModel
from geodino.segmentation.pipeline import SegmentationOutputs, SegmentationQuestion, map_settings, segment_scene
from tiles.errors import InputError, OutputError
from tiles.scenes.opening import open_scene
from tiles.scenes.sensor import Meaning
from tiles.writing.cog import read_classes

TINY = {"depth": 1, "embed_dim": 24, "num_heads": 2}
TRANSFORM = Affine(10, 0, 500_000, 0, -10, 4_001_000)


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return untrained_backbone("vit_tiny_patch16_dinov3_qkvb", device="cpu", precision="fp32", **TINY)


def truth(height: int = 100, width: int = 140) -> np.ndarray:
    """A slanting shore: 1 land, 2 water."""
    rows, cols = np.mgrid[:height, :width]
    return np.where(cols > 50 + 0.4 * rows, 2, 1)


def make_scene(path: Path, *, bands: int = 3, nodata: float | None = None, crs: str | None = "EPSG:32618") -> Path:
    kinds = truth()
    rng = np.random.default_rng(0)
    values = np.stack([np.where(kinds == 1, 90 + 10 * band, 40 - 5 * band) for band in range(bands)])
    values = (values + rng.normal(0, 6, values.shape)).clip(1, 255).astype(np.uint8)
    if nodata is not None:
        values[:, :20, :30] = int(nodata)
    with rasterio.open(
        path, "w", driver="GTiff", height=100, width=140, count=bands, dtype="uint8", crs=crs,
        transform=TRANSFORM if crs else None, nodata=nodata, photometric="RGB" if bands == 3 else "MINISBLACK",
    ) as out:  # fmt: skip
        out.write(values)
    return path


def make_labels(path: Path) -> Path:
    """Points of both classes, some in every part of the scene."""
    points, kinds = [], []
    for row in range(5, 100, 12):
        for col in range(5, 140, 12):
            points.append(Point(TRANSFORM @ (col + 0.5, row + 0.5)))
            kinds.append("land" if truth()[row, col] == 1 else "water")
    gpd.GeoDataFrame({"cover": kinds}, geometry=points, crs="EPSG:32618").to_crs(4326).to_file(path)
    return path


def read(path: Path) -> np.ndarray:
    with rasterio.open(path) as file:
        return file.read(1)


def test_labels_to_map_with_names_colours_confidence_polygons_and_model(tmp_path: Path, backbone: Backbone) -> None:
    scene, labels = make_scene(tmp_path / "s.tif"), make_labels(tmp_path / "l.geojson")
    result = geodino.segment(
        scene, tmp_path / "map.tif", labels=labels, backbone=backbone, confidence=tmp_path / "c.tif",
        vector=tmp_path / "v.gpkg", save_model=tmp_path / "m.safetensors", min_area_m2=500, validate=True,
    )  # fmt: skip
    found = read(tmp_path / "map.tif")
    assert (found == truth()).mean() > 0.97
    with rasterio.open(tmp_path / "map.tif") as file, rasterio.open(scene) as source:
        assert (file.dtypes[0], file.nodata, file.crs, file.transform) == ("uint8", 0, source.crs, source.transform)
        assert file.shape == source.shape
        assert file.tags()["GEODINO_BACKBONE_HASH"] == backbone.hash
        assert "GEODINO_NORMALIZATION" in file.tags()
        assert file.tags()["GEODINO_VERSION"] == geodino.__version__
        assert file.colormap(1)[1][:3] == result.legend.colors[0]
    assert [c.name for c in read_classes(tmp_path / "map.tif")] == ["land", "water"]
    confidence = read(tmp_path / "c.tif")
    assert confidence.min() >= 50
    assert confidence.max() <= 100
    assert result.validation is not None
    assert result.validation.ours.overall_accuracy > 0.9
    assert sum(result.shares) == pytest.approx(1)
    polygons = gpd.read_file(tmp_path / "v.gpkg")
    assert set(polygons["class"]) == {"land", "water"}
    assert polygons["area_m2"].sum() == pytest.approx(100 * 140 * 100, rel=2e-3)
    assert polygons["area_m2"].min() >= 500
    assert sorted(p.name for p in tmp_path.iterdir() if "part" in p.name) == []


def test_a_saved_model_makes_the_same_map_again(tmp_path: Path, backbone: Backbone) -> None:
    scene, labels = make_scene(tmp_path / "s.tif"), make_labels(tmp_path / "l.gpkg")
    geodino.segment(scene, tmp_path / "a.tif", labels=labels, backbone=backbone, save_model=tmp_path / "m.safetensors")
    geodino.segment(scene, tmp_path / "b.tif", model=tmp_path / "m.safetensors", backbone=backbone)
    with pytest.raises(InputError, match=r"m\.safetensors was trained with --upscale 1; leave --upscale out"):
        geodino.segment(scene, tmp_path / "c.tif", model=tmp_path / "m.safetensors", backbone=backbone, upscale=2)
    np.testing.assert_array_equal(read(tmp_path / "a.tif"), read(tmp_path / "b.tif"))
    assert (tmp_path / "m.safetensors").read_bytes()[8:9] == b"{"  # a JSON header, no pickle


def test_a_model_for_another_backbone_or_normalisation_is_refused(tmp_path: Path, backbone: Backbone) -> None:
    scene, labels = make_scene(tmp_path / "s.tif"), make_labels(tmp_path / "l.gpkg")
    path = tmp_path / "m.safetensors"
    geodino.segment(scene, tmp_path / "a.tif", labels=labels, backbone=backbone, save_model=path)
    other = untrained_backbone("vit_tiny_patch16_dinov3_qkvb", seed=1, device="cpu", precision="fp32", **TINY)
    with pytest.raises(InputError, match="was made for backbone"):
        geodino.segment(scene, tmp_path / "b.tif", model=path, backbone=other)
    model = SegmentationModel.load(path)
    shifted = model.recipe.model_copy(update={"mean": (0.5, 0.5, 0.5)})
    SegmentationModel(model.head, model.legend, shifted).save(tmp_path / "n.safetensors")
    with pytest.raises(InputError, match="was made with normalisation mean"):
        geodino.segment(scene, tmp_path / "b.tif", model=tmp_path / "n.safetensors", backbone=backbone)
    layered = model.recipe.model_copy(update={"layers": (0,)})
    SegmentationModel(model.head, model.legend, layered).save(tmp_path / "o.safetensors")
    with pytest.raises(InputError, match="other bands, layers or token size"):
        geodino.segment(scene, tmp_path / "b.tif", model=tmp_path / "o.safetensors", backbone=backbone)
    assert not (tmp_path / "b.tif").exists()


def test_a_model_of_other_units_is_refused_and_one_of_doubtful_units_noted(tmp_path: Path, backbone: Backbone) -> None:
    path, labels = make_scene(tmp_path / "s.tif"), make_labels(tmp_path / "l.gpkg")
    kept = tmp_path / "m.safetensors"
    geodino.segment(path, tmp_path / "a.tif", labels=labels, backbone=backbone, save_model=kept)
    with pytest.raises(InputError, match=r"display values \(8bit\), .* reflectance values \(reflectance\)"):
        geodino.segment(open_scene(path, sensor="reflectance"), tmp_path / "b.tif", model=kept, backbone=backbone)
    with pytest.raises(InputError, match=r"display values \(8bit\), .* stretched values \(stretch\)"):
        geodino.segment(open_scene(path, sensor="stretch"), tmp_path / "b.tif", model=kept, backbone=backbone)
    assert not (tmp_path / "b.tif").exists()
    recipe = SegmentationModel.load(kept).recipe
    assert recipe.units == {name: (1 / 255, 0.0) for name in ("red", "green", "blue")}
    same = recipe.model_copy(update={"sensor": "naip"})
    assert recipe.fit(same, kept) == []
    eleven = recipe.model_copy(update={"sensor": "maxar-11bit", "units": dict.fromkeys(recipe.units, (1 / 2047, 0.0))})
    assert "may differ for the same ground" in recipe.fit(eleven, kept)[0]
    baseline = {"sensor": "sentinel-2-l2a", "meaning": Meaning.reflectance}
    earlier, later = (
        recipe.model_copy(update={**baseline, "units": dict.fromkeys(recipe.units, (4e-4, offset))})
        for offset in (0.0, -0.4)
    )
    assert earlier.fit(later, kept) == []
    first, second = (
        recipe.model_copy(update={"meaning": Meaning.stretched, "units": dict.fromkeys(recipe.units, (scale, 0.0))})
        for scale in (0.01, 0.02)
    )
    assert "look at the map" in first.fit(second, kept)[0]
    assert first.fit(first, kept) == []


def test_a_model_from_before_units_were_kept_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_file({"bias": np.zeros(2, np.float32)}, path, metadata={"format": "geodino-segmentation-2"})
    with pytest.raises(InputError, match=r"m\.safetensors is no segmentation model of this version; train again"):
        SegmentationModel.load(path)


def test_a_model_for_bands_that_the_scene_lacks_is_refused(tmp_path: Path, backbone: Backbone) -> None:
    scene, labels = make_scene(tmp_path / "s.tif", bands=4), make_labels(tmp_path / "l.gpkg")
    path = tmp_path / "m.safetensors"
    geodino.segment(scene, tmp_path / "a.tif", labels=labels, backbone=backbone, save_model=path)
    with pytest.raises(InputError, match="has no band called"):
        geodino.segment(make_scene(tmp_path / "t.tif"), tmp_path / "b.tif", model=path, backbone=backbone)
    assert not (tmp_path / "b.tif").exists()


@pytest.mark.parametrize("content", [b"", b"no model", None])
def test_a_file_that_is_no_model_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "m.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"does not exist|no segmentation model"):
        SegmentationModel.load(path)


def test_clusters_find_the_two_halves(tmp_path: Path, backbone: Backbone) -> None:
    scene = make_scene(tmp_path / "s.tif")
    result = geodino.segment(scene, tmp_path / "k.tif", clusters=2, backbone=backbone)
    found = read(tmp_path / "k.tif")
    agreement = (found == truth()).mean()
    assert max(agreement, 1 - agreement) > 0.85
    assert result.legend.names == ("cluster 1", "cluster 2")
    again = geodino.segment(scene, tmp_path / "k2.tif", clusters=2, backbone=backbone)
    np.testing.assert_array_equal(found, read(tmp_path / "k2.tif"))
    assert again.legend == result.legend


def test_nodata_in_is_nodata_out_and_nothing_else_is(tmp_path: Path, backbone: Backbone) -> None:
    scene, labels = make_scene(tmp_path / "s.tif", nodata=0), make_labels(tmp_path / "l.gpkg")
    geodino.segment(scene, tmp_path / "map.tif", labels=labels, backbone=backbone, confidence=tmp_path / "c.tif")
    expected = np.zeros((100, 140), dtype=bool)
    expected[:20, :30] = True
    np.testing.assert_array_equal(read(tmp_path / "map.tif") == 0, expected)
    np.testing.assert_array_equal(read(tmp_path / "c.tif") == 255, expected)


def test_bands_the_backbone_does_not_read_still_help(tmp_path: Path, backbone: Backbone) -> None:
    # The classes differ in the fourth band alone: the tokens are blind to it, the pixel half of the head is not.
    path = make_scene(tmp_path / "s.tif", bands=4)
    with rasterio.open(path, "r+") as file:
        values = file.read()
        values[:3] = np.random.default_rng(0).integers(60, 80, size=values[:3].shape)
        file.write(values)
    geodino.segment(path, tmp_path / "map.tif", labels=make_labels(tmp_path / "l.gpkg"), backbone=backbone)
    assert (read(tmp_path / "map.tif") == truth()).mean() > 0.95


def test_refined_borders_are_sharper_than_interpolated_ones(tmp_path: Path, backbone: Backbone) -> None:
    from geodino.heads.labels import read_labels

    scene = open_scene(make_scene(tmp_path / "s.tif"))
    labels = read_labels(make_labels(tmp_path / "l.gpkg"), scene.geobox)
    wrong = {}
    for refine in (False, True):
        outputs = SegmentationOutputs(tmp_path / f"{refine}.tif")
        source = tokens_from_scene(scene, LocalEngine(backbone), map_settings(), tmp_path / f"{refine}.part")
        segment_scene(scene, source, outputs, SegmentationQuestion(labels), refine=refine, use_pixels=False)
        wrong[refine] = (read(outputs.classes) != truth()).mean()
    assert wrong[True] < 0.8 * wrong[False]


class Interrupting:
    """Progress that stops the run like Ctrl-C half-way through the features."""

    def update(self, done: float, note: str = "") -> None:
        if done > 0.2:
            raise KeyboardInterrupt


def test_an_interrupted_run_leaves_no_map_and_goes_on_to_the_same_bytes(tmp_path: Path, backbone: Backbone) -> None:
    scene = make_scene(tmp_path / "s.tif")
    small = replace(map_settings(), window=4, halo=1)
    opened = open_scene(scene)

    def run(name: str, settings: DenseSettings = small, **more: Any) -> None:
        folder = tmp_path / f"{name}.tokens.part"
        source = tokens_from_scene(opened, LocalEngine(backbone), settings, folder)
        segment_scene(opened, source, SegmentationOutputs(tmp_path / name), SegmentationQuestion(clusters=2), **more)

    run("whole.tif")
    with pytest.raises(KeyboardInterrupt):
        run("map.tif", progress=Interrupting())
    assert not (tmp_path / "map.tif").exists()
    kept = tmp_path / "map.tif.tokens.part"
    assert kept.is_dir()
    with pytest.raises(InputError, match="unfinished run with another settings"):
        run("map.tif", map_settings())
    run("map.tif")
    assert (tmp_path / "map.tif").read_bytes() == (tmp_path / "whole.tif").read_bytes()
    assert not kept.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "give one of --labels, --clusters and --model"),
        ({"clusters": 3, "labels": "l.gpkg"}, "give one of --labels, --clusters and --model"),
        ({"clusters": 1}, "2 to 254"),
        ({"clusters": 255}, "2 to 254"),
        ({"labels": "l.gpkg", "field": "klass"}, "no field 'klass'"),
        ({"labels": "none.gpkg"}, "does not exist"),
        ({"labels": "l.gpkg", "features": "f.zarr"}, "the tokens are those of f.zarr: leave --backbone out"),
        ({"clusters": 2, "features": "f.zarr", "backbone": None, "upscale": 2}, "f.zarr: leave --upscale out"),
        ({"clusters": 2, "features": "f.zarr", "backbone": None}, "f.zarr does not exist"),
        ({"clusters": 2, "validate": True}, "--validate tests classes on their labels"),
        ({"clusters": 2, "vector": "v.doc"}, "no known vector suffix"),
        ({"clusters": 2.5}, "a whole number from 2 to 254"),
        ({"clusters": 2, "upscale": 3}, "1, 2 or 4"),
        ({"clusters": 2, "min_area_m2": -1}, "the smallest area is a number of m² from 0 on, not -1"),
    ],
)
def test_bad_requests_get_one_sentence(
    tmp_path: Path, backbone: Backbone, arguments: dict[str, Any], message: str
) -> None:
    make_labels(tmp_path / "l.gpkg")
    scene = make_scene(tmp_path / "s.tif")
    paths = {k: tmp_path / v if k in ("labels", "vector") else v for k, v in arguments.items()}
    with pytest.raises(InputError, match=message):
        geodino.segment(scene, tmp_path / "map.tif", **{"backbone": backbone, **paths})
    assert not (tmp_path / "map.tif").exists()


def test_existing_outputs_are_kept_unless_told(tmp_path: Path, backbone: Backbone) -> None:
    scene = make_scene(tmp_path / "s.tif")
    for name in ("map.tif", "c.tif", "v.gpkg", "m.safetensors"):
        (tmp_path / name).write_text("mine")
        with pytest.raises(OutputError, match="exists already"):
            geodino.segment(
                scene, tmp_path / "map.tif", clusters=2, backbone=backbone, confidence=tmp_path / "c.tif",
                vector=tmp_path / "v.gpkg", save_model=tmp_path / "m.safetensors",
            )  # fmt: skip
        assert (tmp_path / name).read_text() == "mine"
        (tmp_path / name).unlink()
    (tmp_path / "map.tif").write_text("mine")
    geodino.segment(scene, tmp_path / "map.tif", clusters=2, backbone=backbone, overwrite=True)
    assert read(tmp_path / "map.tif").max() == 2


def test_a_scene_with_fewer_bands_than_the_backbone_needs_is_refused(tmp_path: Path, backbone: Backbone) -> None:
    scene = make_scene(tmp_path / "s.tif", bands=1)
    with pytest.raises(InputError, match="red"):
        geodino.segment(scene, tmp_path / "map.tif", clusters=2, backbone=backbone)


def test_a_scene_without_any_valid_pixel_is_refused(tmp_path: Path, backbone: Backbone) -> None:
    path = make_scene(tmp_path / "s.tif", nodata=0)
    with rasterio.open(path, "r+") as file:
        file.write(np.zeros((3, 100, 140), np.uint8))
    with pytest.raises(InputError, match="no valid pixel"):
        geodino.segment(path, tmp_path / "map.tif", clusters=2, backbone=backbone)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["s.tif"]


def test_labels_on_nodata_are_refused(tmp_path: Path, backbone: Backbone) -> None:
    scene = make_scene(tmp_path / "s.tif", nodata=0)
    corner = [box(500_010, 4_000_950, 500_050, 4_000_990), box(501_000, 4_000_100, 501_100, 4_000_200)]
    gpd.GeoDataFrame({"k": ["a", "b"]}, geometry=corner, crs="EPSG:32618").to_file(tmp_path / "l.gpkg")
    with pytest.raises(InputError, match="every label of a lies on nodata"):
        geodino.segment(scene, tmp_path / "map.tif", labels=tmp_path / "l.gpkg", backbone=backbone)
