"""Tiles: what is read, how it is painted, and how it is served."""

import io
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import morecantile
import numpy as np
import pytest
from app_testing import landscape, serving, write_raster
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from starlette.applications import Starlette

from app.map.layers import LayerList, for_browser
from app.map.render import TileNumbers, encode_scores, paint, png, read_point, read_tile, stretched
from app.map.source import ClassColor, Meaning, open_source, threshold_of
from app.map.style import Paint, Style, channel_statistics, combinations, default_style, describe, rgb_style
from app.map.tile_routes import ROUTES, TileCache
from app.store.registry import Registry, stored_secret
from app.store.workspace import Workspace, use
from tiles.errors import InputError
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


@pytest.mark.filterwarnings("ignore::rio_tiler.errors.NoOverviewWarning")  # a small raster needs none
def test_the_stretch_comes_from_the_whole_raster_so_tiles_agree(tmp_path: Path) -> None:
    """Two tiles paint the same number the same way: nothing is stretched by a tile's own range."""
    ramp = np.broadcast_to(np.arange(1024, dtype=np.uint16) + 1, (3, 1024, 1024)).copy()
    source = open_source(write_raster(tmp_path / "ramp.tif", ramp, pixel=10.0, names=("red", "green", "blue")))
    style = default_style(source)
    seen: dict[int, set[int]] = {}
    z, x, y = tile_over(source, source.max_zoom)
    for column in (x - 1, x, x + 1):
        numbers = read_tile(source, style.channels, z, column, y, smooth=False)
        assert numbers is not None
        painted = paint(numbers, style)
        for value, color in zip(numbers.values[0][numbers.valid], painted[..., 0][numbers.valid], strict=True):
            seen.setdefault(int(value), set()).add(int(color))
    assert all(len(colors) == 1 for colors in seen.values())
    assert len(seen) > 300


def test_statistics_are_stored_and_read_back(tmp_path: Path) -> None:
    source = open_source(write_raster(tmp_path / "a.tif", landscape()))
    first = channel_statistics(source, 0, tmp_path / "cache")
    (stored,) = (tmp_path / "cache").iterdir()
    stored.write_text(stored.read_text().replace(f'"low": {first.low}', '"low": -7.0'))
    assert channel_statistics(source, 0, tmp_path / "cache").low == -7.0


def test_statistics_of_a_sample_are_those_of_numpy() -> None:
    sample = np.ma.masked_equal(np.array([0, 1, 2, 3, 4, 0]), 0)
    found = describe(sample)
    assert (found.minimum, found.maximum, found.mean, found.valid) == (1, 4, 2.5, 4 / 6)
    assert found.low == pytest.approx(np.percentile([1, 2, 3, 4], 2))
    assert sum(found.histogram) == 4
    empty = describe(np.ma.masked_all((4,)))
    assert empty.high > empty.low


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


def test_a_colour_table_alone_makes_classes_and_no_change_is_not_painted(tmp_path: Path) -> None:
    table = {1: (10, 20, 30, 255), 2: (200, 0, 0, 255)}
    plain = open_source(write_raster(tmp_path / "t.tif", np.ones((1, 32, 32), np.uint8), colors=table))
    assert [(one.value, one.color) for one in plain.classes] == [(1, (10, 20, 30)), (2, (200, 0, 0))]
    tag = json.dumps([[0, "no change", [0, 0, 0]], [1, "change", [255, 0, 0]]])
    changed = open_source(write_raster(tmp_path / "ch.tif", np.ones((1, 32, 32), np.uint8), tags={CLASSES_TAG: tag}))
    assert [one.name for one in default_style(changed).classes] == ["change"]


def test_the_largest_score_wins_where_bands_are_scores() -> None:
    scores = np.zeros((2, 256, 256), np.uint8)
    scores[0, :, :128], scores[1, :, 128:] = 9, 9
    classes = (ClassColor(1, "a", (255, 0, 0)), ClassColor(2, "b", (0, 0, 255)))
    painted = paint(TileNumbers(scores, np.ones((256, 256), bool)), Style(Paint.argmax, (0, 1), classes=classes))
    assert tuple(painted[0, 0]) == (255, 0, 0, 255)
    assert tuple(painted[0, 255]) == (0, 0, 255, 255)


def test_a_change_score_is_known_by_its_tag_and_its_threshold_by_the_map_beside_it(tmp_path: Path) -> None:
    score = np.random.default_rng(0).normal(0, 1, (64, 64)).astype(np.float32)
    path = write_raster(tmp_path / "score.tif", score, tags={"GEODINO_CHANGE_IDENTITY": "x"}, nodata=float("nan"))
    source = open_source(path)
    assert source.meaning is Meaning.score
    change = write_raster(tmp_path / "change.tif", np.ones((64, 64), np.uint8), tags={"GEODINO_THRESHOLD": "2.5"})
    assert threshold_of([str(path), str(change)]) == 2.5
    assert default_style(source).paint is Paint.score


def test_features_of_a_backbone_are_no_imagery_for_a_backbone(tmp_path: Path) -> None:
    tagged = write_raster(tmp_path / "pca.tif", landscape(size=64), tags={"GEODINO_BACKBONE": "x"})
    assert open_source(tagged).meaning is Meaning.values
    assert open_source(write_raster(tmp_path / "a.tif", landscape(size=64))).meaning is Meaning.imagery


def test_band_combinations_are_offered_as_far_as_bands_exist(tmp_path: Path) -> None:
    names = ("blue", "green", "red", "nir")
    assert list(combinations(names)) == ["Natural colour", "Colour infrared (vegetation red)"]
    source = open_source(write_raster(tmp_path / "a.tif", np.ones((4, 32, 32), np.uint8), names=names))
    assert rgb_style(source, ("red", "green", "blue")).channels == (2, 1, 0)


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


def test_what_has_no_place_is_refused_in_one_sentence(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "bare.tif", landscape(size=64), crs=None)
    with pytest.raises(InputError, match="coordinate reference system"):
        open_source(path)


def test_an_id_is_the_pictures_own_and_cannot_be_made_without_the_key(tmp_path: Path) -> None:
    source = open_source(write_raster(tmp_path / "a.tif", landscape(size=64)))
    style = default_style(source)
    registry, other = Registry(b"one key"), Registry(b"another key")
    assert registry.add(source, style) == registry.add(source, style)
    assert registry.add(source, style) != other.add(source, style)
    assert registry.add(source, style) != registry.add(source, Style(Paint.ramp, (0,), ((0.0, 1.0),)))
    cut = Style(Paint.score, (0,), ((0.0, 1.0),), threshold=0.2)
    assert registry.add(source, cut) == registry.add(source, replace(cut, threshold=0.7))  # no tile is asked for again
    secret = stored_secret(tmp_path / "k" / "key")
    assert stored_secret(tmp_path / "k" / "key") == secret
    assert (tmp_path / "k" / "key").stat().st_mode & 0o077 == 0


def test_the_tile_cache_stays_within_its_bytes() -> None:
    cache = TileCache(100)
    for x in range(20):
        cache.put(("l", 0, x, 0), bytes(30))
    held = [x for x in range(20) if cache.get(("l", 0, x, 0)) is not None]
    assert held == [17, 18, 19]


def test_an_arrangement_made_on_the_map_is_taken_and_new_layers_keep_their_place(
    workspace: Workspace, tmp_path: Path
) -> None:
    layers = LayerList()
    source = open_source(write_raster(tmp_path / "a.tif", landscape(size=64)))
    for key in ("a", "b"):
        layers.add(workspace, source, key=key)
    layers.arrange([{"id": "a", "visible": False, "opacity": 0.5}, {"id": "b", "visible": True, "opacity": 7}])
    layers.add(workspace, source, key="new")
    assert [(one.key, one.visible, one.opacity) for one in layers.layers] == [
        ("new", True, 1.0),
        ("a", False, 0.5),
        ("b", True, 1.0),
    ]
    told = for_browser(layers.layers[0], workspace)
    assert str(tmp_path) not in json.dumps(told)


# ---------------------------------------------------------------- over HTTP


@pytest.fixture
def http(workspace: Workspace) -> Iterator[str]:
    """The routes on a port of their own."""
    use(workspace)
    with serving(Starlette(routes=ROUTES)) as base:
        yield f"{base}/geodino"


def status_of(url: str, **headers: str) -> int:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers)) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_tiles_over_http_are_cached_for_ever_under_their_own_address(
    http: str, workspace: Workspace, tmp_path: Path
) -> None:
    source = open_source(write_raster(tmp_path / "a.tif", landscape(size=256)))
    layer = workspace.registry.add(source, default_style(source))
    z, x, y = tile_over(source, source.max_zoom - 1)
    url = f"{http}/tiles/{layer}/{z}/{x}/{y}.png"
    with urllib.request.urlopen(url) as answer:
        picture = Image.open(io.BytesIO(answer.read()))
        tag = answer.headers["ETag"]
        assert "immutable" in answer.headers["Cache-Control"]
    assert picture.size == (256, 256)
    assert status_of(url, **{"If-None-Match": tag}) == 304
    assert status_of(url, **{"If-None-Match": '"other"'}) == 200
    with urllib.request.urlopen(f"{http}/tiles/{layer}/3/0/0.png") as answer:  # far from the raster
        assert np.asarray(Image.open(io.BytesIO(answer.read())))[..., 3].max() == 0


@pytest.mark.parametrize(
    "address",
    [
        "tiles/unknown/3/1/1.png",
        "tiles/..%2f..%2fetc%2fpasswd/3/1/1.png",
        "tiles/%2fetc%2fpasswd/3/1/1.png",
        "tiles/{layer}/3/99/1.png",
        "tiles/{layer}/99/1/1.png",
        "tiles/{layer}/-1/1/1.png",
        "tiles/{layer}/3/1/1.png.exe",
        "tiles/unknown/point?lng=1&lat=1",
        "files/unknown",
        "files/..%2f..%2fkey",
        "assets/..%2f..%2f..%2fserver.py",
        "assets/map.js",
    ],
)
def test_addresses_that_were_not_given_lead_nowhere(
    http: str, workspace: Workspace, tmp_path: Path, address: str
) -> None:
    source = open_source(write_raster(tmp_path / "a.tif", landscape(size=64)))
    layer = workspace.registry.add(source, default_style(source))
    assert status_of(f"{http}/{address.format(layer=layer)}") == 404


def test_a_download_streams_the_registered_file_only(http: str, workspace: Workspace, tmp_path: Path) -> None:
    path = tmp_path / "result.gpkg"
    path.write_bytes(b"12345")
    name = workspace.registry.add_file(path)
    with urllib.request.urlopen(f"{http}/files/{name}") as answer:
        assert answer.read() == b"12345"
        assert "attachment" in answer.headers["Content-Disposition"]
    path.unlink()
    assert status_of(f"{http}/files/{name}") == 404


def test_a_point_that_is_no_place_is_refused(http: str, workspace: Workspace, tmp_path: Path) -> None:
    source = open_source(write_raster(tmp_path / "a.tif", landscape(size=64)))
    layer = workspace.registry.add(source, default_style(source))
    assert status_of(f"{http}/tiles/{layer}/point?lng=x&lat=1") == 400
    assert status_of(f"{http}/tiles/{layer}/point?lng=9999&lat=1") == 404


@pytest.mark.parametrize("opaque", [False, True])
def test_a_png_comes_back_as_it_was(opaque: bool) -> None:
    painted = np.random.default_rng(0).integers(0, 256, (256, 256, 4), dtype=np.uint8)
    painted[..., 3] |= 255 if opaque else 0
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(png(painted))).convert("RGBA")), painted)
