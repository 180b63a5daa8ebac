"""Tiles: what is read and how it is painted."""

import io
import json
from pathlib import Path

import morecantile
import numpy as np
import pytest
import rasterio
from app_testing import landscape, write_raster
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from rasterio.transform import from_origin

from app.map.render import TileNumbers, encode_scores, paint, png, read_point, read_tile, stretched
from app.map.source import ClassColor, Meaning, open_source
from app.map.style import Paint, Style, default_style
from tiles.writing.cog import CLASSES_TAG

MERCATOR = morecantile.tms.get("WebMercatorQuad")


def tile_over(source, zoom: int) -> tuple[int, int, int]:
    west, south, east, north = source.bounds
    tile = MERCATOR.tile((west + east) / 2, (south + north) / 2, zoom)
    return tile.z, tile.x, tile.y


def test_a_tile_shows_the_pixel_values_and_nodata_is_transparent(tmp_path: Path) -> None:
    values = np.full((1, 64, 64), 100, np.uint16)
    values[:, :, 32:] = 0
    source = open_source(write_raster(tmp_path / "a.tif", values, nodata=0, crs="EPSG:3857", pixel=100.0))
    numbers = read_tile(source, (0,), *tile_over(source, source.max_zoom - 1), smooth=True)
    assert numbers is not None
    assert set(np.unique(numbers.values[0][numbers.valid])) == {100}
    style = Style(Paint.ramp, (0,), ((0.0, 200.0),))
    painted = paint(numbers, style)
    assert np.array_equal(painted[..., 3] > 0, numbers.valid)
    assert 0 < numbers.valid.mean() < 1


@pytest.mark.parametrize(("dtype", "shown"), [(np.uint8, True), (np.uint16, False)])
def test_a_pixel_without_one_band_is_nodata_except_in_8_bit_pictures(tmp_path: Path, dtype: type, shown: bool) -> None:
    """The rule of `tiles.scenes.reader`, so that what the backbone sees is what the map shows."""
    values = np.full((3, 64, 64), 9, dtype)
    values[0] = 0
    source = open_source(write_raster(tmp_path / "a.tif", values, nodata=0, crs="EPSG:3857", pixel=100.0))
    numbers = read_tile(source, (0, 1, 2), *tile_over(source, source.max_zoom - 1), smooth=False)
    assert (numbers is not None) == shown


def test_a_mask_beside_the_file_counts_and_a_changed_one_is_read_anew(tmp_path: Path) -> None:
    values = np.full((3, 64, 64), 9, np.uint8)
    path = write_raster(tmp_path / "a.tif", values, crs="EPSG:3857", pixel=100.0)
    for shown in (32, 16):
        mask = np.zeros((64, 64), np.uint8)
        mask[:, :shown] = 255
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(path, "r+") as file:
            file.write_mask(mask)
        assert Path(f"{path}.msk").exists()
        source = open_source(path)
        west, south, east, north = source.bounds
        seen = [len(read_point(source, west + (east - west) * share, (south + north) / 2)) for share in (0.2, 0.4, 0.7)]
        assert seen == [3, 3 if shown == 32 else 0, 0]
        numbers = read_tile(source, (0, 1, 2), *tile_over(source, source.max_zoom - 2), smooth=True)
        assert numbers is not None and set(np.unique(numbers.values[:, numbers.valid])) == {9}


def test_georeference_in_sidecars_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    values = np.random.default_rng(0).integers(1, 255, (3, 64, 64), np.uint8)
    profile = {"driver": "PNG", "count": 3, "height": 64, "width": 64, "dtype": "uint8", "crs": "EPSG:32633"}
    with rasterio.open(path, "w", transform=from_origin(500_000, 5_000_000, 10, 10), **profile) as file:
        file.write(values)
    source = open_source(path)
    numbers = read_tile(source, (0, 1, 2), *tile_over(source, source.max_zoom), smooth=False)
    assert numbers is not None and numbers.valid.any()


def test_a_look_from_afar_reads_a_thinned_raster(tmp_path: Path) -> None:
    values = np.full((3, 512, 512), 9, np.uint16)
    values[:, :, 256:] = 0
    source = open_source(write_raster(tmp_path / "a.tif", values, nodata=0, crs="EPSG:3857", pixel=10.0))
    numbers = read_tile(source, (0, 1, 2), *tile_over(source, source.max_zoom - 5), smooth=True)
    assert numbers is not None and numbers.valid.any() and not numbers.valid.all()
    assert (numbers.values[:, numbers.valid] == 9).all()


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_a_stretch_is_monotonic_and_fills_its_range(low: float, span: float) -> None:
    values = np.linspace(low - span, low + 2 * span, 50, dtype=np.float64)
    shown = stretched(values, low, low + span).astype(int)
    assert (np.diff(shown) >= 0).all()
    assert (shown[0], shown[-1]) == (0, 255)


@given(st.lists(st.floats(-50, 50), min_size=2, max_size=30), st.floats(-40, 40))
def test_a_threshold_on_codes_cuts_as_one_on_scores_does(scores: list[float], threshold: float) -> None:
    """What the browser does with 16-bit codes is what Python does with the numbers, to one step of the code."""
    low, high = -50.0, 50.0
    array = np.array(scores)
    codes = encode_scores(array, low, high)
    limit = encode_scores(np.array([threshold]), low, high)[0]
    step = (high - low) / 65534
    sure = np.abs(array - threshold) > step
    assert np.array_equal((codes >= limit)[sure], (array >= threshold)[sure])
    assert codes.min() >= 1


def test_classes_keep_their_colours_and_are_never_mixed(tmp_path: Path) -> None:
    values = np.ones((1, 64, 64), np.uint8)
    values[:, ::2] = 2
    values[:, :8] = 0
    tag = json.dumps([[1, "water", [0, 0, 255]], [2, "field", [0, 255, 0]]])
    path = write_raster(tmp_path / "c.tif", values, nodata=0, crs="EPSG:3857", pixel=50.0, tags={CLASSES_TAG: tag})
    source = open_source(path)
    assert source.meaning is Meaning.classes
    assert [one.name for one in source.classes] == ["water", "field"]
    style = default_style(source)
    numbers = read_tile(source, (0,), *tile_over(source, source.max_zoom - 2), smooth=False)
    assert numbers is not None
    painted = paint(numbers, style)
    colors = {tuple(color) for color in painted[numbers.valid].tolist()}
    assert colors == {(0, 0, 255, 255), (0, 255, 0, 255)}


def test_the_largest_score_wins_where_bands_are_scores() -> None:
    scores = np.zeros((2, 256, 256), np.uint8)
    scores[0, :, :128], scores[1, :, 128:] = 9, 9
    classes = (ClassColor(1, "a", (255, 0, 0)), ClassColor(2, "b", (0, 0, 255)))
    painted = paint(TileNumbers(scores, np.ones((256, 256), bool)), Style(Paint.argmax, (0, 1), classes=classes))
    assert tuple(painted[0, 0]) == (255, 0, 0, 255)
    assert tuple(painted[0, 255]) == (0, 0, 255, 255)


def test_values_at_a_point(tmp_path: Path) -> None:
    values = np.arange(64 * 64, dtype=np.uint16).reshape(1, 64, 64)
    source = open_source(write_raster(tmp_path / "a.tif", values, crs="EPSG:4326", origin=(10.0, 50.0), pixel=0.01))
    (found,) = read_point(source, 10.0 + 3.5 * 0.01, 50.0 - 2.5 * 0.01)
    assert found.value == 2 * 64 + 3
    assert read_point(source, 0.0, 0.0) == []


@pytest.mark.parametrize("crs", ["EPSG:32633", "EPSG:3031", "EPSG:4326", "EPSG:3035"])
def test_rasters_of_any_crs_have_a_place_on_the_map(tmp_path: Path, crs: str) -> None:
    origin, pixel = {
        "EPSG:32633": ((500_000, 5_000_000), 10),
        "EPSG:3031": ((1_000_000, 1_500_000), 500),
        "EPSG:4326": ((-71.5, -60.0), 0.01),
        "EPSG:3035": ((4_321_000, 3_210_000), 30),
    }[crs]
    source = open_source(write_raster(tmp_path / "a.tif", landscape(size=128), crs=crs, origin=origin, pixel=pixel))
    tiles = [tile_over(source, zoom) for zoom in (source.max_zoom - 2, source.max_zoom)]
    assert any(read_tile(source, (0, 1, 2), *tile, smooth=True) is not None for tile in tiles)


@pytest.mark.parametrize("opaque", [False, True])
def test_a_png_comes_back_as_it_was(opaque: bool) -> None:
    painted = np.random.default_rng(0).integers(0, 256, (256, 256, 4), dtype=np.uint8)
    painted[..., 3] |= 255 if opaque else 0
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(png(painted))).convert("RGBA")), painted)
