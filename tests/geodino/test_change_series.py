from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from change_testing import ground, second_date, write
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from geodino.api import change_series
from geodino.backbones.backbone import Backbone
from geodino.change_detection.date_tokens import DateTokens
from geodino.change_detection.pair import Comparison
from geodino.change_detection.score_method import Method
from geodino.change_detection.series import first_lasting_change
from geodino.change_detection.token_distance import distance_rows, fit_token_change
from geodino.dense.engine import LocalEngine
from geodino.dense.settings import DenseSettings
from geodino.dense.tokens import SceneTokens
from tiles.errors import InputError, OutputError
from tiles.scenes.opening import open_scene

SIZE = (96, 128)


@given(st.lists(st.integers(0, 3), min_size=3, max_size=7))
@settings(max_examples=60, deadline=None)
def test_first_lasting_change_by_its_definition(states: list[int]) -> None:
    dates = len(states)
    changed = np.array([[states[i] != states[j] for j in range(dates)] for i in range(dates)])
    expected = 0
    for date in range(1, dates):
        differ = [states[i] != states[j] for i in range(date) for j in range(date, dates)]
        if states[date] != states[date - 1] and sum(differ) >= 0.9 * len(differ):
            expected = date
            break
    assert int(first_lasting_change(changed[..., None])[0]) == expected


@pytest.mark.parametrize(
    ("states", "expected"), [([0, 0, 5, 0, 0], 0), ([0, 5, 0, 1, 1], 3), ([0, 0, 1, 1, 2, 2], 2), ([0, 0, 0, 1], 3)]
)
def test_an_odd_date_does_not_last_and_a_change_for_good_does(states: list[int], expected: int) -> None:
    places = np.array(states)
    changed = places[:, None] != places[None]
    assert first_lasting_change(changed[..., None])[0] == expected


def dates(folder: Path, names: list[str]) -> list[Path]:
    """A place where a corner changes for good at the third date and another flickers at the second."""
    rng = np.random.default_rng(0)
    fields = np.stack([gaussian_filter(rng.normal(size=SIZE), 2 + band) for band in range(3)])
    ground = 110 + 15 * fields / fields.std(axis=(1, 2), keepdims=True)
    paths = []
    for number, name in enumerate(names):
        image = ground * (1 + 0.05 * number)
        if number >= 2:
            image[:, 60:90, 80:120] = 230 - 0.7 * image[:, 10:40, 20:60]
        if number == 1:
            image[:, 10:30, 20:60] = 220 - 0.6 * image[:, 50:70, 20:60]
        image = image + rng.normal(0, 1.5, image.shape)
        paths.append(folder / f"{name}.tif")
        with rasterio.open(
            paths[-1], "w", driver="GTiff", height=SIZE[0], width=SIZE[1], count=3, dtype="uint8", crs="EPSG:32618",
            transform=Affine(30, 0, 500_000, 0, -30, 4_000_000), photometric="RGB",
        ) as out:  # fmt: skip
            out.write(image.clip(1, 255).astype(np.uint8))
    return paths


def test_the_year_of_the_lasting_change_is_mapped(tmp_path: Path) -> None:
    paths = dates(tmp_path, ["1990", "1995", "2001", "2010"])
    result = change_series(paths, tmp_path / "year.tif", method="spectral")
    assert result.values == (1995, 2001, 2010)
    with rasterio.open(tmp_path / "year.tif") as file:
        found = file.read(1)
        assert (file.dtypes[0], file.nodata) == ("uint16", 65535)
    assert (found[62:88, 82:118] == 2001).mean() > 0.8
    assert (found[12:28, 22:58] == 0).mean() > 0.9
    rest = np.ones(SIZE, dtype=bool)
    rest[55:95, 75:125] = rest[5:35, 15:65] = False
    assert (found[rest] == 0).mean() > 0.97


def test_dates_without_years_are_numbered(tmp_path: Path) -> None:
    paths = dates(tmp_path, ["a", "b", "c"])
    result = change_series(paths, tmp_path / "when.tif", method="spectral")
    assert result.values == (1, 2)
    assert "1 = b, 2 = c" in result.notes[0]


def test_two_dates_are_no_series_and_time_runs_forward(tmp_path: Path) -> None:
    paths = dates(tmp_path, ["1990", "1995", "2001"])
    with pytest.raises(InputError, match="three dates or more"):
        change_series(paths[:2], tmp_path / "y.tif", method="spectral")
    with pytest.raises(InputError, match="not in order of time"):
        change_series(paths[::-1], tmp_path / "y.tif", method="spectral")
    (tmp_path / "y.tif").write_text("mine")
    with pytest.raises(OutputError, match="exists already"):
        change_series(paths, tmp_path / "y.tif", method="spectral")


def test_dates_of_several_precisions_are_compared_as_times(tmp_path: Path) -> None:
    paths = dates(tmp_path, ["2020-06-01", "2020", "2021-02-28"])
    result = change_series(paths, tmp_path / "y.tif", method="spectral")
    assert result.values == (2020, 2021)
    assert "2020-06-01 and 2020 may be either way round: taken in the order given" in result.notes
    with pytest.raises(InputError, match="not in order of time: 2021-02-28, 2020-06-01, 2020;"):
        change_series([paths[2], *paths[:2]], tmp_path / "z.tif", method="spectral")


def shifted_dates(folder: Path) -> list[Path]:
    """One place at three dates: as it is, in other light and displaced by six pixels, and again as it is."""
    first = ground()
    moved = second_date(first, changed=False, gain=1.1, rows=6)
    return [write(folder / f"{name}.tif", date) for name, date in (("a", first), ("bb", moved), ("ccc", first))]


def test_every_date_of_a_series_is_seen_on_the_grid_and_in_the_light_of_the_first(
    tmp_path: Path, backbone: Backbone
) -> None:
    scenes = [open_scene(path) for path in shifted_dates(tmp_path)]
    made = DateTokens.of_backbone(LocalEngine(backbone), DenseSettings())

    def mean_distance(before: SceneTokens, after: SceneTokens) -> float:
        change = fit_token_change(before, after, layers=1, tolerance=0.0)
        return float(distance_rows(change, before, after, 0, len(before.valid))[0, 0].mean())

    as_they_are = [made.source(n, scenes[n], tmp_path / f"{n}.part", overwrite=False).tokens() for n in (0, 1)]
    assert mean_distance(*as_they_are) > 0.3
    with Comparison(scenes, tmp_path / "y.tif", Method.features, made) as comparison:
        for first, second in ((0, 1), (1, 2), (0, 2)):
            assert mean_distance(comparison.tokens[first], comparison.tokens[second]) < 0.15


@pytest.mark.parametrize("method", ["features", "fused", "spectral"])
def test_a_shift_and_other_light_are_no_lasting_change(tmp_path: Path, backbone: Backbone, method: str) -> None:
    result = change_series(shifted_dates(tmp_path), tmp_path / "y.tif", method=method, backbone=backbone)
    assert sum(result.shares) < 0.002
    assert any("residual shift" in note and "corrected" in note for note in result.notes)


class Interrupting:
    """Progress that stops the run like Ctrl-C when so much is done."""

    def __init__(self, done: float) -> None:
        self.done = done

    def update(self, done: float, note: str = "") -> None:
        if done > self.done:
            raise KeyboardInterrupt


@pytest.mark.parametrize("done", [0.3, 0.8, 0.95])
def test_a_series_that_stops_leaves_only_what_the_next_run_goes_on_from(
    tmp_path: Path, backbone: Backbone, done: float
) -> None:
    scenes, output = shifted_dates(tmp_path), tmp_path / "y.tif"
    words: dict[str, Any] = {"method": "fused", "backbone": backbone}
    with pytest.raises(KeyboardInterrupt):
        change_series(scenes, output, progress=Interrupting(done), **words)
    left = {path.name for path in tmp_path.iterdir() if path not in scenes}
    assert left
    assert left <= {f"y.tif.date{number}.part" for number in range(3)}
    change_series(scenes, output, **words)
    change_series(scenes, tmp_path / "whole.tif", **words)
    assert output.read_bytes() == (tmp_path / "whole.tif").read_bytes()
    assert {path.name for path in tmp_path.iterdir() if "part" in path.name} == set()
