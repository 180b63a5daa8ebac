"""Maps from a cube of features are the maps of the scene: one program, whatever the tokens come from."""

from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import rasterio
from affine import Affine
from shapely.geometry import Point
from typer.testing import CliRunner

import geodino
from geodino.api import validate
from geodino.backbones.backbone import Backbone, untrained_backbone
from geodino.cli import build
from tiles.errors import InputError
from tiles.scenes.opening import open_scene

TRANSFORM = Affine(10, 0, 500_000, 0, -10, 4_001_000)


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return untrained_backbone(
        "vit_tiny_patch16_dinov3_qkvb", device="cpu", precision="fp32", depth=1, embed_dim=24, num_heads=2
    )


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, backbone: Backbone) -> Path:
    """A scene of land and water with a hole of whole tokens, labels of both, and its cube in both formats."""
    folder = tmp_path_factory.mktemp("cube")
    rows, cols = np.mgrid[:100, :140]
    water = cols > 50 + 0.4 * rows
    values = np.where(water, 40, 100) + np.random.default_rng(0).normal(0, 6, (4, 100, 140))
    values[:, :32, :16] = 0
    with rasterio.open(
        folder / "s.tif", "w", driver="GTiff", height=100, width=140, count=4, dtype="uint8", crs="EPSG:32618",
        transform=TRANSFORM, nodata=0,
    ) as out:  # fmt: skip
        out.write(np.where(values == 0, 0, values.clip(1, 255)).astype(np.uint8))
    places = [(row, col) for row in range(5, 100, 12) for col in range(20, 140, 12)]
    kinds = ["water" if water[place] else "land" for place in places]
    points = [Point(TRANSFORM @ (col + 0.5, row + 0.5)) for row, col in places]
    gpd.GeoDataFrame({"cover": kinds}, geometry=points, crs="EPSG:32618").to_file(folder / "l.gpkg")
    for name in ("f.zarr", "f.tif"):
        geodino.features(folder / "s.tif", folder / name, backbone=backbone)
    return folder


def read(path: Path) -> np.ndarray:
    with rasterio.open(path) as file:
        return file.read(1)


@pytest.mark.parametrize("kind", ["labels", "clusters", "model"])
def test_a_map_from_a_float16_cube_has_the_pixels_of_the_map_made_at_once(
    files: Path, tmp_path: Path, backbone: Backbone, kind: str
) -> None:
    scene, labels = files / "s.tif", files / "l.gpkg"
    asked: dict[str, Any] = {"labels": {"labels": labels}, "clusters": {"clusters": 3}}.get(kind, {})
    if kind == "model":
        model = tmp_path / "m.safetensors"
        geodino.segment(scene, tmp_path / "first.tif", labels=labels, features=files / "f.zarr", save_model=model)
        asked = {"model": model}
    for name, source in (("once", {"backbone": backbone}), ("cube", {"features": files / "f.zarr"})):
        more = {"confidence": tmp_path / f"{name}_c.tif", "vector": tmp_path / f"{name}.gpkg", "min_area_m2": 500}
        geodino.segment(scene, tmp_path / f"{name}.tif", **asked, **source, **more)
    for suffix in (".tif", "_c.tif"):
        np.testing.assert_array_equal(read(tmp_path / f"once{suffix}"), read(tmp_path / f"cube{suffix}"))
    assert gpd.read_file(tmp_path / "once.gpkg").equals(gpd.read_file(tmp_path / "cube.gpkg"))
    assert (read(tmp_path / "cube.tif")[:32, :16] == 0).all()
    with rasterio.open(tmp_path / "cube.tif") as file:
        assert file.tags()["GEODINO_BACKBONE_HASH"] == backbone.hash
        assert file.tags()["GEODINO_CUBE_SOURCE"] == "f.zarr"
    assert (tmp_path / "cube.tif.stac.json").exists()
    assert (files / "f.zarr").is_dir()
    assert [path.name for path in tmp_path.iterdir() if ".part" in path.name] == []


def test_a_cube_in_one_byte_gives_nearly_the_same_map(files: Path, tmp_path: Path) -> None:
    for name in ("f.zarr", "f.tif"):
        geodino.segment(files / "s.tif", tmp_path / f"{name}.tif", labels=files / "l.gpkg", features=files / name)
    assert (read(tmp_path / "f.zarr.tif") == read(tmp_path / "f.tif.tif")).mean() > 0.97


def test_a_cube_of_another_place_or_kind_is_refused(files: Path, tmp_path: Path) -> None:
    asked: dict[str, Any] = {"labels": files / "l.gpkg"}
    with rasterio.open(files / "s.tif") as source:
        profile, values = source.profile, source.read()
    with rasterio.open(
        tmp_path / "moved.tif", "w", **profile | {"transform": TRANSFORM @ Affine.translation(8, 0)}
    ) as out:
        out.write(values)
    with pytest.raises(InputError, match=r"f\.zarr was not made of this scene"):
        geodino.segment(tmp_path / "moved.tif", tmp_path / "o.tif", features=files / "f.zarr", **asked)
    with pytest.raises(InputError, match=r"s\.tif is no feature cube"):
        geodino.segment(files / "s.tif", tmp_path / "o.tif", features=files / "s.tif", **asked)
    (tmp_path / "e.zarr").mkdir()
    with pytest.raises(InputError, match=r"e\.zarr is no feature cube"):
        geodino.segment(files / "s.tif", tmp_path / "o.tif", features=tmp_path / "e.zarr", **asked)
    assert not (tmp_path / "o.tif").exists()


def test_validation_alone_is_that_beside_the_map(files: Path, tmp_path: Path) -> None:
    scene, labels, cube = files / "s.tif", files / "l.gpkg", files / "f.zarr"
    plain = geodino.segment(scene, tmp_path / "plain.tif", labels=labels, features=cube)
    tested = geodino.segment(scene, tmp_path / "tested.tif", labels=labels, features=cube, validate=True)
    assert plain.validation is None
    assert tested.validation is not None
    np.testing.assert_array_equal(read(tmp_path / "plain.tif"), read(tmp_path / "tested.tif"))
    with rasterio.open(tmp_path / "plain.tif") as one, rasterio.open(tmp_path / "tested.tif") as other:
        assert "GEODINO_VALIDATION" not in one.tags()
        assert "GEODINO_VALIDATION" in other.tags()
    alone = validate(scene, labels, cube)
    assert alone is not None
    assert alone.to_json() == tested.validation.to_json()


def test_the_command_line_tests_alone_where_no_map_is_asked_for(files: Path) -> None:
    common = ["segment", str(files / "s.tif"), "--labels", str(files / "l.gpkg")]
    result = CliRunner().invoke(build(), [*common, "--features", str(files / "f.zarr"), "--validate"])
    assert result.exit_code == 0, result.output
    assert "spatially blocked cross-validation" in result.output
    assert CliRunner().invoke(build(), [*common, "--validate"]).exit_code == 2


def test_no_fold_is_fitted_unless_asked(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("folds were fitted")

    monkeypatch.setattr("geodino.segmentation.training.cross_validate", fail)
    scene = open_scene(files / "s.tif")
    geodino.segment(scene, tmp_path / "m.tif", labels=files / "l.gpkg", features=files / "f.zarr")
