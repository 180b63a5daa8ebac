"""Tokens are the same numbers wherever they lie, are resumed, and go when they have served."""

import json
import shutil
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine

import geodino
from geodino.backbones.backbone import Backbone, untrained_backbone
from geodino.dense.engine import LocalEngine
from geodino.dense.settings import DenseSettings
from geodino.dense.tokens import tokens_from_cube, tokens_from_scene
from tiles.errors import InputError
from tiles.scenes.opening import open_scene
from tiles.scenes.scene import Scene
from tiles.writing.cog import DiskFullError

SMALL = DenseSettings(window=8, halo=1, batch_size=2)


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return untrained_backbone(
        "vit_tiny_patch16_dinov3_qkvb", device="cpu", precision="fp32", depth=1, embed_dim=24, num_heads=2
    )


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """75 rows of 5 tokens, three pieces, with a hole of 4 tokens."""
    path = tmp_path_factory.mktemp("scene") / "s.tif"
    values = np.random.default_rng(0).integers(1, 255, (3, 1195, 75), dtype=np.uint8)
    values[:, 64:96, :32] = 0
    with rasterio.open(
        path, "w", driver="GTiff", height=1195, width=75, count=3, dtype="uint8", crs="EPSG:32618", nodata=0,
        transform=Affine(10, 0, 500_000, 0, -10, 4_000_000), photometric="RGB",
    ) as out:  # fmt: skip
        out.write(values)
    return open_scene(path)


def test_a_scene_and_its_cubes_hold_the_same_tokens(scene: Scene, backbone: Backbone, tmp_path: Path) -> None:
    made = tokens_from_scene(scene, LocalEngine(backbone), SMALL, tmp_path / "t.part").tokens()
    for name in ("f.zarr", "f.tif"):
        geodino.features(scene, tmp_path / name, backbone=backbone, settings=SMALL)
    rows, columns = np.array([70, 0, 33, 70, 4]), np.array([4, 2, 0, 1, 0])
    for name, tolerance in (("f.zarr", 0), ("f.tif", 0.04)):
        cube = tokens_from_cube(tmp_path / name, scene).tokens()
        assert (cube.pixels, cube.channels, cube.geobox) == (made.pixels, 24, made.geobox) == (16, 24, cube.geobox)
        np.testing.assert_array_equal(cube.valid, made.valid)
        for start, stop in ((0, 75), (3, 5), (20, 70), (32, 64)):
            (values, valid), (expected, known) = cube.read(start, stop), made.read(start, stop)
            assert values.dtype == np.float32 and values.shape == (24, stop - start, 5)
            np.testing.assert_allclose(values, expected, atol=tolerance)
            np.testing.assert_array_equal(valid, known)
        np.testing.assert_allclose(cube.at(rows, columns), made.at(rows, columns), atol=tolerance)
        assert (cube.origin.name, cube.origin.hash) == (backbone.name, backbone.hash)
        assert (cube.origin.bands, cube.origin.normalization) == (backbone.bands, backbone.normalization)
        assert cube.origin.settings == made.origin.settings
        cube.remove()
        assert (tmp_path / name).exists()
    assert not made.valid[4:6, :2].any() and made.valid.sum() == 75 * 5 - 4
    assert (made.at(np.array([4]), np.array([0])) == 0).all()
    np.testing.assert_array_equal(made.at(rows[:1], columns[:1])[0], made.read(70, 71)[0][:, 0, 4])
    made.remove()
    assert not (tmp_path / "t.part").exists()


class Stop:
    def update(self, done: float, note: str = "") -> None:
        raise KeyboardInterrupt


def test_an_interrupted_run_goes_on_to_the_same_numbers(
    scene: Scene, backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, folder = LocalEngine(backbone), tmp_path / "t.part"
    whole = tokens_from_scene(scene, engine, SMALL, tmp_path / "whole.part").tokens().read(0, 75)[0]
    with pytest.raises(KeyboardInterrupt):
        tokens_from_scene(scene, engine, SMALL, folder).tokens(Stop())
    wider = DenseSettings(window=12, halo=1, batch_size=2)
    with pytest.raises(InputError, match=r"t\.part holds an unfinished run with another settings"):
        tokens_from_scene(scene, engine, wider, folder).tokens()
    wanted: list[range] = []
    stream = geodino.dense.engine.stream_tokens

    def spy(*args, rows):  # type: ignore[no-untyped-def]
        wanted.append(rows)
        return stream(*args, rows=rows)

    monkeypatch.setattr("geodino.dense.engine.stream_tokens", spy)
    np.testing.assert_array_equal(tokens_from_scene(scene, engine, SMALL, folder).tokens().read(0, 75)[0], whole)
    assert wanted == [range(32, 75)]
    tokens_from_scene(scene, engine, wider, folder, overwrite=True).tokens()
    assert wanted[1:] == [range(0, 75)]


def test_a_disk_without_room_refuses_before_any_work(
    scene: Scene, backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: namedtuple("Usage", "free")(17_999))  # 18,000 are needed
    with pytest.raises(DiskFullError, match="no space left"):
        tokens_from_scene(scene, LocalEngine(backbone), SMALL, tmp_path / "t.part").tokens()


def test_a_cube_that_does_not_say_what_made_it_is_refused(scene: Scene, backbone: Backbone, tmp_path: Path) -> None:
    geodino.features(scene, tmp_path / "f.zarr", backbone=backbone, settings=SMALL)
    for meta in (tmp_path / "f.zarr").rglob("zarr.json"):
        text = json.loads(meta.read_text())
        text["attributes"] = {k: v for k, v in text.get("attributes", {}).items() if k != "geodino_backbone_hash"}
        text.pop("consolidated_metadata", None)
        meta.write_text(json.dumps(text))
    with pytest.raises(InputError, match=r"f\.zarr does not say which backbone made it"):
        tokens_from_cube(tmp_path / "f.zarr", scene)
