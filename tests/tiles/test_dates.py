"""Dates of acquisition: where they come from, impossible ones, and comparing precisions."""

import numpy as np
import pytest

from tiles.scenes.dates import certainly_before, first_date, interval, year_of
from tiles.scenes.opening import open_scene


@pytest.mark.parametrize(
    "text",
    [
        "20210431",
        "2021-02-30",
        "2021-13-01",
        "2021-00-10",
        "0000",
        "2021-06-01T25:00:00Z",
        "9999",
        "soon",
        "",
        None,
        "-",
    ],
)
def test_impossible_dates_are_no_dates(text):
    assert interval(text) is None and year_of(text) is None


@pytest.mark.parametrize(
    ("text", "date"),
    [
        ("tile_20210431", None),
        ("tile_2021-02-30_b", None),
        ("20211301_20210601", "2021-06-01"),  # the first possible one
        ("S2A_MSIL2A_20200223T033731_N0214_20200223T070000", "2020-02-23T03:37:31Z"),
        ("x_20200223T996199_y", "2020-02-23"),
        ("LC08_L2SP_001066_20200229_20200906_02", "2020-02-29"),
        ("x_20210229", None),
        ("120200601", None),
        ("HLS.L30.T33UUP.2020153T100559.v2.0.B04", "2020-06-01T10:05:59Z"),
        ("MOD09GA.A2020366.h18v04.061", "2020-12-31"),
        ("MOD09GA.A2021366.h18v04.061", None),
    ],
)
def test_the_first_possible_date_of_a_name(text, date):
    assert first_date(text) == date


@pytest.mark.parametrize(
    ("one", "other", "before"),
    [
        ("2019", "2020-06-01", True),
        ("2020", "2020-06-01", False),
        ("2020-06-01", "2020", False),
        ("2020-06-01T23:00:00-05:00", "2020-06-02", False),
        ("2020-06-01T23:00:00Z", "2020-06-02", True),
        ("2020-05", "2020-06-01T00:00:00Z", True),
        (None, "2020", False),
    ],
)
def test_dates_are_compared_as_intervals(one, other, before):
    assert certainly_before(one, other) is before


@pytest.mark.parametrize(
    ("name", "tags", "date"),
    [
        ("x_20200601.tif", {"TIFFTAG_DATETIME": "2023:08:01 10:00:00"}, "2020-06-01"),  # processed later
        ("x_20200601.tif", {"DATE": "2023-08-01"}, "2020-06-01"),
        ("x.tif", {"TIFFTAG_DATETIME": "2023:08:01 10:00:00"}, "2023-08-01T10:00:00Z"),
        ("x_20230801.tif", {"ACQUISITION_DATE": "2020-06-01", "TIFFTAG_DATETIME": "2024:01:01 00:00:00"}, "2020-06-01"),
        ("x_20230801.tif", {"ACQUISITION_DATE": "2021-02-30"}, "2023-08-01"),
        ("x.tif", {"NC_GLOBAL#time_coverage_start": "2020-06-01T12:00:00+02:00"}, "2020-06-01T10:00:00Z"),
        ("x_20210431.tif", {}, None),
        ("2020-06.tif", {}, "2020-06"),
        ("2020/x.tif", {}, "2020"),
    ],
)
def test_what_states_the_acquisition_beats_the_time_of_processing(write_raster, ramp, name, tags, date):
    scene = open_scene(write_raster(name, ramp(3, 4, 4), tags=tags, photometric="RGB"))
    assert scene.datetime == date
    said = [note for note in scene.notes if note.startswith("date ")]
    assert len(said) == (date is not None)
    if "TIFFTAG_DATETIME" in tags and name == "x.tif":
        assert "may be the time of processing" in said[0]


def test_the_offset_of_a_year_is_that_of_its_larger_part(write_raster):
    values = np.full((1, 4, 4), 2000, np.uint16)
    scene = open_scene(write_raster("S2A_T33UUP/2022.tif", values, descriptions=("B04",)))
    assert any(note.startswith("Sentinel-2 offset -1000: acquired 2022, most of which") for note in scene.notes)
