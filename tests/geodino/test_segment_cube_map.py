from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox

import geodino
from geodino.backbones.backbone import untrained_backbone
from geodino.heads.labels import Labels
from geodino.heads.legend import Legend
from geodino.segmentation.cube_map import classify_pixels, segment_cube
from tiles.errors import InputError
from tiles.scenes.opening import open_scene
from tiles.writing.stitch import upsample_rows


def classify(*parts: Any) -> np.ndarray:
    """The strips put together; each begins where the one before ended."""
    rows, strips = zip(*classify_pixels(*parts), strict=True)
    assert list(rows) == [0, *np.cumsum([len(strip) for strip in strips])[:-1]]
    return np.concatenate(strips)


@given(
    seed=st.integers(0, 1000), patch=st.sampled_from([2, 4, 7, 8]), classes=st.integers(2, 6),
    cut=st.tuples(st.integers(0, 1), st.integers(0, 1)),
)  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_the_shortcut_is_the_interpolation_of_every_pixel(
    seed: int, patch: int, classes: int, cut: tuple[int, int]
) -> None:
    logits = np.random.default_rng(seed).normal(size=(classes, 5, 6)).astype(np.float32)
    height, width = 5 * patch - cut[0], 6 * patch - cut[1]
    whole = np.concatenate([piece for _, piece in upsample_rows([logits], patch, height, width)], axis=1)
    found = classify(logits, np.ones((5, 6), bool), patch, height, width)
    two = np.sort(whole, axis=0)[-2:]
    clear = two[1] - two[0] > 1e-5  # ties may fall either way
    np.testing.assert_array_equal(found[clear], whole.argmax(axis=0)[clear] + 1)


def test_invalid_tokens_are_nodata() -> None:
    valid = np.ones((3, 3), bool)
    valid[0, 2] = False
    found = classify(np.zeros((2, 3, 3), np.float32), valid, 4, 12, 12)
    assert (found[:4, 8:] == 0).all()
    assert (found > 0).sum() == 144 - 16


def test_labels_on_a_cube_make_a_map_on_the_scenes_grid(tmp_path: Path) -> None:
    cols = np.mgrid[:100, :150][1]
    kinds = cols > 70
    rng = np.random.default_rng(0)
    values = np.where(kinds, 180, 60) + rng.normal(0, 10, (3, 100, 150))
    path = tmp_path / "s.tif"
    with rasterio.open(
        path, "w", driver="GTiff", height=100, width=150, count=3, dtype="uint8", crs="EPSG:32618",
        transform=Affine(10, 0, 500_000, 0, -10, 4_000_000), photometric="RGB",
    ) as out:  # fmt: skip
        out.write(values.clip(1, 255).astype(np.uint8))
    backbone = untrained_backbone(
        "vit_tiny_patch16_dinov3_qkvb", device="cpu", precision="fp32", depth=1, embed_dim=24, num_heads=2
    )
    scene = open_scene(path)
    geodino.features(scene, tmp_path / "f.zarr", backbone=backbone)
    r, c = (part.ravel() for part in np.mgrid[5:100:15, 5:150:15])
    labels = Labels(r, c, kinds[r, c].astype(np.int64), np.arange(len(r)), Legend.of(("dark", "bright")))
    segment_cube(tmp_path / "f.zarr", scene.geobox, labels, tmp_path / "m.tif")
    with rasterio.open(tmp_path / "m.tif") as file:
        assert file.shape == (100, 150)
        assert (file.read(1) == kinds + 1).mean() > 0.93
    other = GeoBox((100, 150), Affine(10, 0, 600_000, 0, -10, 4_000_000), "EPSG:32618")
    with pytest.raises(InputError, match="was not made of this scene"):
        segment_cube(tmp_path / "f.zarr", other, labels, tmp_path / "n.tif")


def test_a_class_without_a_feature_in_the_cube_is_refused(tmp_path: Path) -> None:
    values = np.full((3, 96, 96), 90, np.uint8)
    values[:, :, 48:] = 0
    path = tmp_path / "s.tif"
    with rasterio.open(
        path, "w", driver="GTiff", height=96, width=96, count=3, dtype="uint8", crs="EPSG:32618", nodata=0,
        transform=Affine(10, 0, 500_000, 0, -10, 4_000_000), photometric="RGB",
    ) as out:  # fmt: skip
        out.write(values)
    backbone = untrained_backbone(
        "vit_tiny_patch16_dinov3_qkvb", device="cpu", precision="fp32", depth=1, embed_dim=24, num_heads=2
    )
    scene = open_scene(path)
    geodino.features(scene, tmp_path / "f.zarr", backbone=backbone)
    rows, cols = np.array([10, 30, 10, 30]), np.array([10, 20, 80, 90])
    labels = Labels(rows, cols, np.array([0, 0, 1, 1]), np.arange(4), Legend.of(("dark", "bright")))
    with pytest.raises(InputError, match=r"every label of bright lies where .*f\.zarr has no features"):
        segment_cube(tmp_path / "f.zarr", scene.geobox, labels, tmp_path / "m.tif")
    assert not (tmp_path / "m.tif").exists()


def test_strips_of_many_token_rows_are_the_whole() -> None:
    logits = np.random.default_rng(5).normal(size=(3, 75, 4)).astype(np.float32)
    whole = np.concatenate([piece for _, piece in upsample_rows([logits], 4, 298, 15)], axis=1)
    found = classify(logits, np.ones((75, 4), bool), 4, 298, 15)
    assert (found == whole.argmax(axis=0) + 1).mean() > 0.999
