"""Change of one kind: told by examples of it, or by the classes of a segmentation model."""

from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import rasterio
from change_testing import TINY, TRANSFORM, ground, pair, read, second_date, truth, write
from shapely.geometry import Point

import geodino
from geodino.backbones.backbone import Backbone, untrained_backbone
from tiles.errors import InputError
from tiles.scenes.opening import open_scene


def examples(path: Path, places: dict[str, list[tuple[int, int]]]) -> Path:
    """Points at pixels, by class."""
    rows = [(name, Point(TRANSFORM @ (col + 0.5, row + 0.5))) for name, at in places.items() for row, col in at]
    frame = gpd.GeoDataFrame({"kind": [n for n, _ in rows]}, geometry=[p for _, p in rows], crs="EPSG:32618")
    frame.to_file(path)
    return path


def two_kinds(folder: Path) -> tuple[Path, Path]:
    """A bright object at `OBJECT` and a dark one at rows 10 to 40, columns 20 to 60."""
    first = ground()
    later = second_date(first, gain=1.0)
    later[:, 10:40, 20:60] = 20 + 0.2 * ground(seed=9)[:, 10:40, 20:60]
    return write(folder / "b.tif", first), write(folder / "after.tif", later)


@pytest.mark.parametrize("method", ["spectral", "fused"])
def test_change_of_one_kind_is_told_from_change_of_another(tmp_path: Path, backbone: Backbone, method: str) -> None:
    before, after = two_kinds(tmp_path)
    like = examples(
        tmp_path / "like.gpkg",
        {
            "change": [(70, 90), (80, 100), (90, 120), (75, 115), (95, 85)],
            "other": [(20, 30), (30, 50), (140, 30), (120, 160), (20, 150), (35, 25)],
        },
    )
    everything = geodino.change(before, after, tmp_path / "all.tif", method=method, backbone=backbone)
    geodino.change(before, after, tmp_path / "kind.tif", like=like, method=method, backbone=backbone)
    dark = np.s_[12:38, 22:58]
    assert (read(tmp_path / "all.tif")[dark] == 1).mean() > 0.8
    assert (read(tmp_path / "kind.tif")[dark] == 1).mean() < 0.1
    assert (read(tmp_path / "kind.tif")[truth()] == 1).mean() > 0.8
    assert everything.share > 0.1


def test_examples_must_say_which_class_is_wanted(tmp_path: Path) -> None:
    before, after = pair(tmp_path)
    like = examples(tmp_path / "l.gpkg", {"a": [(70, 90)], "b": [(20, 20)]})
    with pytest.raises(InputError, match="the wanted one called one of"):
        geodino.change(before, after, tmp_path / "c.tif", like=like, method="spectral")


def test_examples_of_one_class_only_are_refused(tmp_path: Path) -> None:
    before, after = pair(tmp_path)
    like = examples(tmp_path / "l.gpkg", {"change": [(70, 90), (80, 100)]})
    for field, message in ((None, "no field .* with two values or more"), ("kind", "labels only 'change' .* two cla")):
        with pytest.raises(InputError, match=message):
            geodino.change(before, after, tmp_path / "c.tif", like=like, field=field, method="spectral")
    assert not (tmp_path / "c.tif").exists()


def test_examples_that_teach_nothing_are_refused(tmp_path: Path) -> None:
    first = ground()
    before = write(tmp_path / "b.tif", first, nodata=0)
    with rasterio.open(before, "r+") as file:
        file.write(np.zeros((4, 20, 30), np.uint8), window=((0, 20), (0, 30)))
    after = write(tmp_path / "a.tif", second_date(first))
    arguments: dict[str, Any] = {"method": "spectral"}
    with pytest.raises(InputError, match="does not exist"):
        geodino.change(before, after, tmp_path / "c.tif", like=tmp_path / "none.gpkg", **arguments)
    like = examples(tmp_path / "l.gpkg", {"yes": [(5, 5), (8, 12)], "no": [(140, 30), (120, 160)]})
    with pytest.raises(InputError, match="examples of both classes are needed"):
        geodino.change(before, after, tmp_path / "c.tif", like=like, **arguments)
    assert not (tmp_path / "c.tif").exists()


def test_a_segmentation_model_says_from_what_to_what(tmp_path: Path, backbone: Backbone) -> None:
    before, after = two_kinds(tmp_path)
    points = examples(
        tmp_path / "l.gpkg",
        {"dark": [(15, 25), (20, 40), (35, 55), (30, 30)], "light": [(70, 90), (140, 30), (120, 160), (20, 150)]},
    )
    model = tmp_path / "m.safetensors"
    geodino.segment(after, tmp_path / "s.tif", labels=points, backbone=backbone, save_model=model)
    result = geodino.change(
        before, after, tmp_path / "c.tif", model=model, vector=tmp_path / "v.gpkg", method="spectral",
        backbone=backbone,
    )  # fmt: skip
    polygons = gpd.read_file(tmp_path / "v.gpkg")
    at = polygons[polygons.contains(Point(TRANSFORM @ (40.5, 25.5)))].iloc[0]
    assert (at["from_class"], at["to_class"]) == ("light", "dark")
    assert result.transitions is not None
    assert result.transitions.counts[1, 0] > 800  # light to dark
    assert any("light → dark" in line for line in result.transitions.describe())
    with pytest.raises(InputError, match=r"m\.safetensors was trained with --upscale 1; leave --upscale out"):
        geodino.change(before, after, tmp_path / "d.tif", model=model, upscale=2, backbone=backbone)
    assert not (tmp_path / "d.tif").exists()
    assert sorted(p.name for p in tmp_path.iterdir() if "part" in p.name) == []


def test_a_model_of_another_backbone_is_refused(tmp_path: Path, backbone: Backbone) -> None:
    before, after = two_kinds(tmp_path)
    points = examples(tmp_path / "l.gpkg", {"dark": [(15, 25), (20, 40)], "light": [(70, 90), (140, 30)]})
    model = tmp_path / "m.safetensors"
    geodino.segment(after, tmp_path / "s.tif", labels=points, backbone=backbone, save_model=model)
    other = untrained_backbone("vit_tiny_patch16_dinov3_qkvb", seed=3, device="cpu", precision="fp32", **TINY)
    with pytest.raises(InputError, match="was made for backbone"):
        geodino.change(before, after, tmp_path / "c.tif", model=model, method="spectral", backbone=other)
    words: dict[str, Any] = {"model": model, "method": "spectral", "backbone": backbone}
    with pytest.raises(InputError, match="reads layers of its own; leave --layers or --model out"):
        geodino.change(before, after, tmp_path / "c.tif", layers=(0,), **words)
    reflectance = open_scene(before, sensor="reflectance")
    with pytest.raises(InputError, match=r"trained on display values .* and the scene holds reflectance values"):
        geodino.change(reflectance, after, tmp_path / "c.tif", **words)
