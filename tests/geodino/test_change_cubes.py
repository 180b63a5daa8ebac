"""Change from cubes that lie there: no backbone is run, and what cannot be corrected is said."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from change_testing import TRANSFORM, ground, pair, read, second_date, truth, write

import geodino
from geodino.api import change_series
from geodino.backbones.backbone import Backbone
from geodino.dense.stream import DenseSettings
from tiles.errors import InputError, OutputError


def cubes(folder: Path, backbone: Backbone, *scenes: Path, **settings: Any) -> list[Path]:
    found = [folder / f"{scene.stem}{''.join(settings)}.zarr" for scene in scenes]
    for scene, cube in zip(scenes, found, strict=True):
        geodino.features(scene, cube, backbone=backbone, settings=DenseSettings(**settings), overwrite=True)
    return found


def test_cubes_of_both_dates_are_compared_without_a_backbone(tmp_path: Path, backbone: Backbone) -> None:
    before, after = pair(tmp_path, gain=1.0)
    made = cubes(tmp_path, backbone, before, after)
    result = geodino.change(before, after, tmp_path / "c.tif", features=made)
    found = read(tmp_path / "c.tif")
    assert (found[truth()] == 1).mean() > 0.7
    assert (found[~truth()] == 1).mean() < 0.05
    assert any("before shift and light could be corrected" in note for note in result.notes)
    with rasterio.open(tmp_path / "c.tif") as file:
        tags = file.tags()
    assert tags["GEODINO_BACKBONE_HASH"] == backbone.hash
    assert json.loads(tags["GEODINO_CUBE_SOURCE"]) == ["b.zarr", "after.zarr"]
    item = json.loads((tmp_path / "c.tif.stac.json").read_text())
    settings = item["properties"]["processing:expression"]["expression"]["settings"]
    assert (settings["cubes"], settings["weights_sha256"]) == (["b.zarr", "after.zarr"], backbone.hash)
    assert all(cube.exists() for cube in made)


def test_what_a_cube_does_not_have_is_nodata(tmp_path: Path, backbone: Backbone) -> None:
    first = ground()
    before, after = write(tmp_path / "b.tif", first, nodata=0), write(tmp_path / "a.tif", second_date(first))
    with rasterio.open(before, "r+") as file:
        file.write(np.zeros((4, 32, 40), np.uint8), window=((0, 32), (0, 40)))
    made = cubes(tmp_path, backbone, before, after)
    geodino.change(before, after, tmp_path / "c.tif", features=made, method="features")
    gone = read(tmp_path / "c.tif") == 255
    # A token that is half nodata, columns 32 to 48, is kept or not as a whole where the cube was made.
    assert gone[:32, :40].all()
    assert not gone[40:, :].any()
    assert not gone[:, 56:].any()


def test_a_score_of_cubes_is_not_that_of_a_backbone(tmp_path: Path, backbone: Backbone) -> None:
    before, after = pair(tmp_path)
    made = cubes(tmp_path, backbone, before, after)
    words: dict[str, Any] = {"features": made, "score": tmp_path / "s.tif"}
    geodino.change(before, after, tmp_path / "c.tif", **words)
    result = geodino.change(before, after, tmp_path / "d.tif", threshold=5, **words)
    assert any("taken as it is" in note for note in result.notes)
    with pytest.raises(OutputError, match="was not made from these dates and settings"):
        geodino.change(before, after, tmp_path / "e.tif", score=tmp_path / "s.tif", backbone=backbone)


def test_a_series_takes_a_cube_for_each_date(tmp_path: Path, backbone: Backbone) -> None:
    first = ground()
    scenes = [write(tmp_path / f"{name}.tif", first) for name in ("a", "bb")]
    scenes += [write(tmp_path / "ccc.tif", second_date(first, gain=1.0))]
    made = cubes(tmp_path, backbone, *scenes)
    change_series(scenes, tmp_path / "y.tif", features=made)
    found = read(tmp_path / "y.tif")
    assert (found[truth()] == 2).mean() > 0.6
    assert (found[~truth()] == 0).mean() > 0.95
    with pytest.raises(InputError, match="3 dates need as many cubes, one --features each, not 2"):
        change_series(scenes, tmp_path / "z.tif", features=made[:2])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"upscale": 2}, "leave --upscale out"),
        ({"layers": (0,)}, "leave --layers out"),
        ({"device": "cpu"}, "leave --device out"),
        ({"method": "spectral"}, "method spectral compares no features; leave --features out"),
    ],
)
def test_what_cubes_bring_themselves_is_refused_beside_them(
    tmp_path: Path, words: dict[str, Any], message: str
) -> None:
    scenes = pair(tmp_path)
    with pytest.raises(InputError, match=message):
        geodino.change(*scenes, tmp_path / "c.tif", features=["b.zarr", "after.zarr"], **words)
    with pytest.raises(InputError, match=message):
        change_series([*scenes, scenes[1]], tmp_path / "c.tif", features=["b.zarr"], **words)


def test_cubes_that_cannot_be_compared_are_refused(tmp_path: Path, backbone: Backbone) -> None:
    first = ground()
    before = write(tmp_path / "b.tif", first)
    elsewhere = write(tmp_path / "a.tif", second_date(first), transform=TRANSFORM @ Affine.translation(8, 8))
    far = write(tmp_path / "far.tif", second_date(first, changed=False, rows=20))
    made = cubes(tmp_path, backbone, before, elsewhere, far)
    finer = cubes(tmp_path, backbone, far, upscale=2)
    for after, pair_of_cubes, message in (
        (elsewhere, made[:2], "lie on different pixel grids"),
        (far, [made[0], made[1]], "was not made of this scene"),
        (far, [made[0], *finer], "were not made by the same backbone with the same settings"),
        (far, [made[0], made[2]], r"displaced by \d+\.\d px, more than a token of 16 px"),
    ):
        with pytest.raises(InputError, match=message):
            geodino.change(before, after, tmp_path / "c.tif", features=pair_of_cubes)
    assert sorted(path.name for path in tmp_path.iterdir() if "c.tif" in path.name) == []
