"""Whole change maps on tiny generated pairs, with a tiny untrained backbone."""

import math
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import rasterio
from affine import Affine
from change_testing import SIZE, TINY, TRANSFORM, ground, pair, read, second_date, truth, write
from typer.testing import CliRunner

import geodino
from geodino.api import change_series
from geodino.backbones.backbone import Backbone, untrained_backbone
from geodino.change_detection.alignment import Pair, align, common_grid, measure_shift
from geodino.change_detection.pipeline import AUTO_TAG
from geodino.change_detection.score import PairScore
from geodino.change_detection.score_method import Method
from geodino.change_detection.token_distance import TokenChange
from geodino.cli import build
from geodino.dense.engine import LocalEngine
from geodino.dense.settings import DenseSettings
from tiles.errors import InputError, OutputError
from tiles.scenes.opening import open_scene


@pytest.mark.parametrize("method", ["spectral", "fused"])
def test_an_object_that_came_is_found_and_the_rest_is_left(tmp_path: Path, backbone: Backbone, method: str) -> None:
    before, after = pair(tmp_path)
    result = geodino.change(
        before, after, tmp_path / "c.tif", score=tmp_path / "s.tif", vector=tmp_path / "v.gpkg",
        backbone=backbone, method=method,
    )  # fmt: skip
    found = read(tmp_path / "c.tif")
    assert set(np.unique(found)) == {0, 1}
    assert (found[truth()] == 1).mean() > 0.85
    assert (found[~truth()] == 1).mean() < 0.02
    score = read(tmp_path / "s.tif")
    assert score.dtype == np.float32
    np.testing.assert_array_equal(found == 1, score > np.float32(result.threshold.value))
    with rasterio.open(tmp_path / "c.tif") as file, rasterio.open(before) as source:
        assert (file.dtypes[0], file.nodata, file.transform, file.shape) == ("uint8", 255, source.transform, SIZE)
        assert ("GEODINO_BACKBONE_HASH" in file.tags()) == (method == "fused")
        assert float(file.tags()["GEODINO_FALSE_ALARM_RATE"]) <= 0.001
    polygons = gpd.read_file(tmp_path / "v.gpkg")
    assert polygons["area_m2"][0] == pytest.approx(40 * 50 * 100, rel=0.25)
    assert polygons["score"][0] > 3
    assert list(polygons.columns[:5]) == ["area_m2", "score", "score_max", "date_before", "date_after"]
    assert result.share == pytest.approx((found == 1).mean())
    assert sorted(p.name for p in tmp_path.iterdir() if "part" in p.name) == []


def test_light_alone_is_no_change(tmp_path: Path) -> None:
    before, after = pair(tmp_path, changed=False, gain=1.3)
    result = geodino.change(before, after, tmp_path / "c.tif", method="spectral")
    assert result.share < 0.02


def test_the_same_file_twice_is_no_change(tmp_path: Path, backbone: Backbone) -> None:
    before, _ = pair(tmp_path)
    for method in ("spectral", "features"):
        result = geodino.change(before, before, tmp_path / f"{method}.tif", method=method, backbone=backbone)
        assert result.share == 0


def test_tokens_alone_make_no_change_in_a_fused_map(
    tmp_path: Path, backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, after = pair(tmp_path, changed=False)
    geodino.change(before, after, tmp_path / "own.tif", method="fused", backbone=backbone)
    own_score = PairScore._token_score

    def lit(score: PairScore, tokens: Any, readers: Any, start: int, stop: int) -> np.ndarray:
        scores = own_score(score, tokens, readers, start, stop)
        scores[:, 40:80] += 30
        return scores

    monkeypatch.setattr(PairScore, "_token_score", lit)
    geodino.change(before, after, tmp_path / "lit.tif", method="fused", backbone=backbone)
    own, changed = (read(tmp_path / name) == 1 for name in ("own.tif", "lit.tif"))
    assert own.mean() < 0.005
    assert changed[:, 40:80].mean() < 0.02
    geodino.change(before, after, tmp_path / "features.tif", method="features", backbone=backbone)
    assert (read(tmp_path / "features.tif") == 1)[:, 40:80].mean() > 0.9


def test_a_shift_is_measured_reported_and_taken_out(tmp_path: Path) -> None:
    before, after = pair(tmp_path, rows=1.6, cols=-2.3)
    aligned = align(open_scene(before), open_scene(after))
    assert aligned.shift == pytest.approx((1.6, -2.3), abs=0.2)
    assert "corrected" in aligned.notes[0]
    left = measure_shift(Pair(open_scene(before), aligned.scene))
    assert abs(left.rows) < 0.15
    assert abs(left.cols) < 0.15
    result = geodino.change(before, after, tmp_path / "c.tif", method="spectral")
    assert (read(tmp_path / "c.tif")[truth()] == 1).mean() > 0.85
    assert result.share < 0.2


def test_grids_may_differ_in_place_size_and_reference_system(tmp_path: Path) -> None:
    first = ground()
    before = write(tmp_path / "b.tif", first)
    later = second_date(first)
    plain = write(tmp_path / "plain.tif", later)
    warped = tmp_path / "warped.tif"
    with rasterio.open(plain) as source:
        from rasterio.vrt import WarpedVRT
        from rasterio.warp import Resampling

        with WarpedVRT(source, crs="EPSG:4326", resampling=Resampling.cubic, nodata=0) as vrt:
            profile = {**vrt.profile, "driver": "GTiff", "nodata": 0}
            for key in ("blockxsize", "blockysize", "tiled"):
                profile.pop(key, None)
            with rasterio.open(warped, "w", **profile) as out:
                out.write(vrt.read())
    geodino.change(before, warped, tmp_path / "c.tif", method="spectral")
    found = read(tmp_path / "c.tif")
    assert found.shape == SIZE
    assert (found[truth()] == 1).mean() > 0.8
    assert (found[~truth()] == 1).mean() < 0.04


def test_only_the_common_part_is_mapped_on_the_first_dates_grid(tmp_path: Path) -> None:
    first = ground()
    before = write(tmp_path / "b.tif", first)
    moved = TRANSFORM @ Affine.translation(30.4, 20.4)
    after = write(tmp_path / "a.tif", second_date(first)[:, 20:120, 30:150], transform=moved)
    grid = common_grid(open_scene(before), open_scene(after))
    assert grid.affine == TRANSFORM @ Affine.translation(30, 20)
    assert tuple(grid.shape) == (101, 121)
    geodino.change(before, after, tmp_path / "c.tif", method="spectral")
    with rasterio.open(tmp_path / "c.tif") as file:
        assert file.transform == grid.affine
        assert file.shape == (101, 121)


def test_nodata_of_either_date_is_nodata(tmp_path: Path, backbone: Backbone) -> None:
    first = ground()
    before, after = tmp_path / "b.tif", tmp_path / "a.tif"
    write(before, first, nodata=0)
    write(after, second_date(first), nodata=0)
    for path, corner in ((before, np.s_[:, :16, :24]), (after, np.s_[:, -20:, -12:])):
        with rasterio.open(path, "r+") as file:
            values = file.read()
            values[corner] = 0
            file.write(values)
    for method in ("spectral", "fused"):
        out = tmp_path / f"{method}.tif"
        geodino.change(before, after, out, method=method, backbone=backbone, score=tmp_path / f"{method}_s.tif")
        gone = np.zeros(SIZE, dtype=bool)
        gone[:16, :24] = gone[-20:, -12:] = True
        mask = read(out) == 255
        # The second date is resampled by the measured shift: its nodata may grow by the resampling kernel.
        assert mask[gone].all()
        assert (mask & ~gone).sum() < 200
        np.testing.assert_array_equal(np.isnan(read(tmp_path / f"{method}_s.tif")), mask)


def test_another_threshold_on_a_kept_score_needs_no_backbone_and_changes_only_the_mask(
    tmp_path: Path, backbone: Backbone
) -> None:
    before, after = pair(tmp_path)
    arguments: dict[str, Any] = {"score": tmp_path / "s.tif", "backbone": backbone, "method": "fused"}
    geodino.change(before, after, tmp_path / "a.tif", **arguments)
    stamp = (tmp_path / "s.tif").stat().st_mtime_ns
    result = geodino.change(before, after, tmp_path / "other.tif", threshold=8.0, **arguments)
    assert (tmp_path / "s.tif").stat().st_mtime_ns == stamp
    assert any("taken as it is" in note for note in result.notes)
    np.testing.assert_array_equal(read(tmp_path / "other.tif") == 1, read(tmp_path / "s.tif") > 8)


def test_a_score_of_other_dates_or_settings_is_not_taken(tmp_path: Path, backbone: Backbone) -> None:
    before, after = pair(tmp_path)
    score = tmp_path / "s.tif"
    geodino.change(before, after, tmp_path / "a.tif", score=score, method="spectral")
    with pytest.raises(OutputError, match="was not made from these dates and settings"):
        geodino.change(after, before, tmp_path / "other.tif", score=score, method="spectral")
    with pytest.raises(OutputError, match="was not made from these dates and settings"):
        geodino.change(before, after, tmp_path / "other.tif", score=score, method="fused", backbone=backbone)


def test_a_kept_score_without_a_calibrated_threshold_is_cut_by_a_given_one_only(tmp_path: Path) -> None:
    before, after = pair(tmp_path)
    score = tmp_path / "s.tif"
    geodino.change(before, after, tmp_path / "a.tif", score=score, method="spectral")
    with rasterio.open(score) as file:
        values, profile, tags = file.read(), {**file.profile, "driver": "GTiff"}, file.tags()
    del tags[AUTO_TAG]
    with rasterio.open(score, "w", **profile) as file:
        file.write(values)
        file.update_tags(**tags)
    with pytest.raises(InputError, match=r"s\.tif holds no calibrated threshold; give a number with --threshold"):
        geodino.change(before, after, tmp_path / "c.tif", score=score, method="spectral")
    assert not (tmp_path / "c.tif").exists()
    geodino.change(before, after, tmp_path / "c.tif", score=score, method="spectral", threshold=5)
    np.testing.assert_array_equal(read(tmp_path / "c.tif") == 1, values[0] > 5)


def test_layers_are_compared_each_on_its_own() -> None:
    rng = np.random.default_rng(0)
    before, after = rng.normal(size=(2, 12, 5, 6)).astype(np.float32)
    centres, valid = rng.normal(size=(2, 12)).astype(np.float32), np.ones((5, 6), bool)
    both = TokenChange(centres, 2, 0.3).distances(before, after, valid)
    parts = [
        TokenChange(centres[:, part], 1, 0.3).distances(before[part], after[part], valid)
        for part in (slice(6), slice(6, 12))
    ]
    np.testing.assert_array_equal(both, np.concatenate(parts, axis=1))


def test_layers_are_named_in_tags_and_kept_scores(tmp_path: Path) -> None:
    words = {**TINY, "depth": 2}
    deep = untrained_backbone("vit_tiny_patch16_dinov3_qkvb", device="cpu", precision="fp32", **words)
    before, after = pair(tmp_path)
    arguments: dict[str, Any] = {"backbone": deep, "method": "features"}
    geodino.change(before, after, tmp_path / "last.tif", score=tmp_path / "s.tif", **arguments)
    geodino.change(before, after, tmp_path / "c.tif", score=tmp_path / "t.tif", layers=(0, -1), **arguments)
    assert np.abs(read(tmp_path / "s.tif") - read(tmp_path / "t.tif")).max() > 1e-3
    change_series([before, after, after], tmp_path / "y.tif", layers=(0, -1), **arguments)
    for path, layers in (("last.tif", "last"), ("c.tif", "[0, -1]"), ("t.tif", "[0, -1]"), ("y.tif", "[0, -1]")):
        with rasterio.open(tmp_path / path) as file:
            assert file.tags()["GEODINO_LAYERS"] == layers
    with pytest.raises(OutputError, match="was not made from these dates and settings"):
        geodino.change(before, after, tmp_path / "d.tif", score=tmp_path / "s.tif", layers=(0, -1), **arguments)
    with pytest.raises(InputError, match="has layers 0 to 1"):
        geodino.change(before, after, tmp_path / "d.tif", layers=(2,), **arguments)
    assert not (tmp_path / "d.tif").exists()


class Interrupting:
    """Progress that stops the run like Ctrl-C."""

    def update(self, done: float, note: str = "") -> None:
        if done > 0.3:
            raise KeyboardInterrupt


def test_an_interrupted_run_leaves_no_map_and_goes_on_to_the_same_bytes(tmp_path: Path, backbone: Backbone) -> None:
    from geodino.change_detection.pipeline import ChangeOutputs, ChangeQuestion, change_scenes

    before, after = (open_scene(path) for path in pair(tmp_path))
    arguments: dict[str, Any] = {"engine": LocalEngine(backbone), "settings": DenseSettings(window=4, halo=1)}
    asked = ChangeQuestion(Method.features)
    change_scenes(before, after, ChangeOutputs(tmp_path / "whole.tif"), asked, **arguments)
    with pytest.raises(KeyboardInterrupt):
        change_scenes(before, after, ChangeOutputs(tmp_path / "c.tif"), asked, **arguments, progress=Interrupting())
    assert not (tmp_path / "c.tif").exists()
    change_scenes(before, after, ChangeOutputs(tmp_path / "c.tif"), asked, **arguments)
    assert (tmp_path / "c.tif").read_bytes() == (tmp_path / "whole.tif").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir() if "part" in p.name) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("b.tif",), "two dates or more"),
        (("b.tif", "a.tif", "--threshold", "often"), "neither auto nor a number"),
        (("b.tif", "a.tif", "--threshold", "nan"), "neither auto nor a number"),
        (("b.tif", "a.tif", "--method", "magic"), "'magic' is not one of 'auto', 'features', 'spectral', 'fused'"),
        (("b.tif", "a.tif", "--layers", "3,last"), "layers are numbers such as 5,11 or -4,-1, not '3,last'"),
        (("b.tif", "a.tif", "l.tif", "--score", "s.tif", "--objects"), "--score, --objects go with two dates only"),
        (("b.tif", "a.tif", "l.tif", "--min-area", "9", "--field", "k"), "--min-area, --field go with two dates only"),
    ],
)
def test_bad_requests_are_refused_before_a_file_is_opened(
    tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    done = CliRunner().invoke(
        build(), ["change", *arguments, "-o", str(tmp_path / "c.tif")], env={"COLUMNS": "200", "NO_COLOR": "1"}
    )
    assert done.exit_code == 2 or isinstance(done.exception, InputError)
    assert message in f"{done.output}{done.exception}"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "magic"}, "method 'magic' is none of auto, features, spectral, fused"),
        ({"threshold": math.nan}, "a threshold is a finite number, or left out to be calibrated, not nan"),
        ({"threshold": "auto"}, "a threshold is a finite number, or left out to be calibrated, not 'auto'"),
        ({"min_area_m2": math.nan}, "the smallest area is a number of m² from 0 on, not nan"),
        ({"device": "tpu"}, "--device takes auto, cpu or cuda, not tpu"),
        ({"precision": "fp8"}, "--precision takes auto, fp32 or bf16, not fp8"),
    ],
)
def test_bad_arguments_of_the_functions_get_one_sentence(
    tmp_path: Path, arguments: dict[str, Any], message: str
) -> None:
    before, after = pair(tmp_path)
    with pytest.raises(InputError, match=message):
        geodino.change(before, after, tmp_path / "c.tif", **arguments)
    if {"method", "threshold"} & set(arguments):
        with pytest.raises(InputError, match=message):
            change_series([before, after, after], tmp_path / "c.tif", **arguments)
    assert not (tmp_path / "c.tif").exists()


def test_the_commands_layers_reach_the_backbone_of_pairs_and_series(tmp_path: Path) -> None:
    before, after = (str(path) for path in pair(tmp_path))
    for scenes in ((before, after), (before, after, after)):
        done = CliRunner().invoke(build(), ["change", *scenes, "-o", str(tmp_path / "c.tif"), "--layers", "1,99"])
        assert isinstance(done.exception, InputError)
        assert "not 1,99; choose others with --layers" in str(done.exception)


def test_dates_in_reverse_are_said(tmp_path: Path) -> None:
    first, second = ground(), second_date(ground())
    before, after = write(tmp_path / "x_20210601.tif", first), write(tmp_path / "x_20190601.tif", second)
    said = "the dates are not in order of time: 2021-06-01 is taken as before 2019-06-01"
    for dates, told in (((before, after), True), ((after, before), False), ((before, before), False)):
        notes = geodino.change(*dates, tmp_path / "c.tif", method="spectral", overwrite=True).notes
        assert (said in notes) is told


def test_rasters_that_do_not_overlap_are_refused(tmp_path: Path) -> None:
    first = ground()
    before = write(tmp_path / "b.tif", first)
    far = write(tmp_path / "far.tif", first, transform=TRANSFORM @ Affine.translation(500, 0))
    other_zone = write(tmp_path / "zone.tif", first, crs="EPSG:32633")
    for after in (far, other_zone):
        with pytest.raises(InputError, match="do not overlap"):
            geodino.change(before, after, tmp_path / "c.tif", method="spectral")
    assert not (tmp_path / "c.tif").exists()


def test_a_raster_without_reference_system_is_refused(tmp_path: Path) -> None:
    before, _ = pair(tmp_path)
    bare = write(tmp_path / "bare.tif", ground(), crs=None, transform=Affine.identity())
    with pytest.raises(InputError, match="no coordinate reference system"):
        geodino.change(before, bare, tmp_path / "c.tif", method="spectral")


def test_fewer_bands_than_the_backbone_needs_are_refused(tmp_path: Path, backbone: Backbone) -> None:
    first = ground(bands=1)
    before, after = write(tmp_path / "b.tif", first), write(tmp_path / "a.tif", first)
    with pytest.raises(InputError, match="red"):
        geodino.change(before, after, tmp_path / "c.tif", method="features", backbone=backbone)


def test_dates_without_a_common_band_are_refused(tmp_path: Path) -> None:
    gray, colour = write(tmp_path / "b.tif", ground(bands=1)), write(tmp_path / "a.tif", ground())
    with pytest.raises(InputError, match="share no band"):
        geodino.change(gray, colour, tmp_path / "c.tif", method="spectral")


def test_existing_outputs_are_kept_unless_told(tmp_path: Path) -> None:
    before, after = pair(tmp_path)
    for name in ("c.tif", "v.gpkg", "s.tif"):
        (tmp_path / name).write_text("mine")
        with pytest.raises(OutputError, match="exists already"):
            geodino.change(
                before, after, tmp_path / "c.tif", vector=tmp_path / "v.gpkg", score=tmp_path / "s.tif",
                method="spectral",
            )  # fmt: skip
        assert (tmp_path / name).read_text() == "mine"
        (tmp_path / name).unlink()


def test_the_method_is_fused_unless_told() -> None:
    assert Method.auto.settled() is Method.fused
    assert Method.spectral.settled() is Method.spectral


def test_dates_without_a_valid_pixel_in_common_are_refused(tmp_path: Path) -> None:
    values = ground()
    before = write(tmp_path / "b.tif", values, nodata=0)
    after = write(tmp_path / "a.tif", values, nodata=0)
    for path, rows in ((before, (0, 80)), (after, (80, 160))):
        with rasterio.open(path, "r+") as file:
            file.write(np.zeros((4, 80, SIZE[1]), np.uint8), window=(rows, (0, SIZE[1])))
    with pytest.raises(InputError, match="hardly a valid pixel in common"):
        geodino.change(before, after, tmp_path / "c.tif", method="spectral")


@pytest.mark.parametrize("method", ["spectral", "fused"])
def test_scores_do_not_depend_on_the_blocks(
    tmp_path: Path, backbone: Backbone, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, after = pair(tmp_path)
    geodino.change(before, after, tmp_path / "c.tif", score=tmp_path / "s.tif", method=method, backbone=backbone)
    monkeypatch.setattr("geodino.change_detection.score._BLOCK_ROWS", 32)
    geodino.change(before, after, tmp_path / "d.tif", score=tmp_path / "t.tif", method=method, backbone=backbone)
    np.testing.assert_allclose(read(tmp_path / "s.tif"), read(tmp_path / "t.tif"), atol=1e-3)
