"""The web map in a real browser: what an analyst does, from opening it to a file on the disk."""

import re
from pathlib import Path

import geopandas
import pytest
import rasterio
from app_testing import SETTLED, Server, Watched
from browser_testing import Open, go, still, tiles_shown
from pyproj import Transformer

from app.store.session import FIRST_CLASSES
from app.work.jobs import JobStore
from geodino.jobs.command import Command
from tiles.writing.cog import read_classes

pytestmark = [pytest.mark.browser, pytest.mark.timeout(1500)]
TO_DEGREES = Transformer.from_crs(32631, 4326, always_xy=True)


class Place:
    """From pixels of the generated scenes to the screen, found by asking the map where two of its points lie."""

    def __init__(self, watched: Watched) -> None:
        self.mouse = watched.page.mouse
        self.page = watched.page
        found = self._measured()
        while (again := self._measured()) != found:  # the map is still on its way
            found = again
        self.lng, self.lat = found

    def _measured(self) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
        """Of longitude and latitude: a pixel, pixels a degree, and the degree at that pixel."""
        box = self.page.locator(".gd-map").bounding_box()
        assert box
        ends = [(box["x"] + 120, box["y"] + 420), (box["x"] + 420, box["y"] + 560)]
        (x0, y0), (x1, y1) = ends
        (lng0, lat0), (lng1, lat1) = (self._ask(*end) for end in ends)
        return (x0, (x1 - x0) / (lng1 - lng0), lng0), (y0, (y1 - y0) / (lat1 - lat0), lat0)

    def _ask(self, x: float, y: float) -> tuple[float, float]:
        self.mouse.move(x - 1, y)
        self.mouse.move(x, y)
        text = self.page.locator(".gd-position").inner_text()
        found = re.match(r"([\d.]+)° ([NS])\s+([\d.]+)° ([EW])", text)
        assert found, text
        lat = float(found[1]) * (1 if found[2] == "N" else -1)
        return float(found[3]) * (1 if found[4] == "E" else -1), lat

    def screen(self, column: float, row: float) -> tuple[float, float]:
        lng, lat = TO_DEGREES.transform(500_000 + 10 * column, 5_000_000 - 10 * row)
        return self.lng[0] + (lng - self.lng[2]) * self.lng[1], self.lat[0] + (lat - self.lat[2]) * self.lat[1]

    def click(self, column: float, row: float) -> None:
        self.mouse.click(*self.screen(column, row))

    def polygon(self, column: float, row: float, size: float) -> None:
        """Draw a square with the tool that is on."""
        corners = [(0, 0), (size, 0), (size, size), (0, size), (0, 0)]
        for right, down in corners:
            self.click(column + right, row + down)
            self.page.wait_for_timeout(60)  # two clicks in one place would be a double click


def test_first_light(server: Server, open_page: Open) -> None:
    """Open: tiles, opacity, order, values, swipe; nothing asked of anybody else, no error, one map."""
    watched = open_page(server.url)
    page = watched.page
    tiles_shown(watched, 2)
    names = page.locator(".gd-name").all_inner_texts()
    assert names == ["after", "before"]

    opacity = page.locator(".gd-opacity").first
    opacity.fill("30")
    page.locator(".leaflet-layer[style*='opacity: 0.3']").wait_for(state="attached")
    opacity.fill("100")

    place = Place(watched)
    place.click(40, 40)
    row = page.locator(".gd-values tr", has_text="blue").first
    row.wait_for()
    shown = int(row.locator(".gd-value").inner_text())
    with rasterio.open(server.folder / "after.tif") as source:
        around = source.read(3)[37:44, 37:44]
    assert around.min() <= shown <= around.max()

    page.locator(".gd-swipe-on").check()
    page.locator(".gd-swipe").wait_for()
    assert page.locator(".leaflet-pane[style*='clip-path: polygon']").count() == 2
    page.locator(".gd-swipe").press("ArrowLeft")
    assert page.locator(".gd-swipe").get_attribute("aria-valuenow") == "48"
    watched.keep("scenes-swipe")

    page.get_by_role("button", name="Move after down").click()
    assert page.locator(".gd-name").all_inner_texts() == ["before", "after"]
    page.wait_for_timeout(600)  # the map tells Python when nothing has moved for a while
    still(watched)
    assert page.locator(".gd-name").all_inner_texts() == ["before", "after"]
    assert watched.maps_made() == 1
    assert watched.quiet(), (watched.external, watched.errors)


def test_the_map_survives_other_pages_without_asking_for_tiles_again(server: Server, open_page: Open) -> None:
    watched = open_page(server.url)
    tiles_shown(watched, 2)
    watched.page.wait_for_load_state("networkidle")
    asked: list[str] = []
    watched.page.on("request", lambda one: asked.append(one.url) if "/tiles/" in one.url else None)
    for name in ("Change", "Jobs", "Segment", "Scenes"):
        go(watched, name)
        if name == "Jobs":
            watched.page.get_by_role("heading", name="Jobs").wait_for()
        else:
            watched.page.locator(".gd-map").wait_for()
    assert watched.maps_made() == 1
    assert asked == []
    assert watched.quiet(), (watched.external, watched.errors)


def test_draw_segment_correct_export(server: Server, open_page: Open) -> None:
    """Open → draw three classes → segment → correct → export: rasters and vectors on the disk, with their names."""
    watched = open_page(server.url)
    page = watched.page
    tiles_shown(watched, 2)
    go(watched, "Segment")
    page.get_by_text("Draw examples of two classes or more").wait_for()
    page.locator(".gd-map").focus()
    page.keyboard.press("f")
    page.evaluate(SETTLED)
    page.locator(".leaflet-zoom-anim, .leaflet-pan-anim").first.wait_for(state="detached")
    place = Place(watched)
    spots = {0: [(20, 60), (40, 280)], 1: [(190, 40), (160, 150)], 2: [(200, 240), (160, 320)]}
    for number, corners in spots.items():
        page.locator(".gd-chip").nth(number).click()
        for corner in corners:
            place.polygon(*corner, 40)
    page.locator(".gd-name", has_text="Live map").wait_for()
    page.get_by_text("Live map made in").wait_for()
    page.get_by_text("Accuracy").wait_for()

    page.get_by_text("Classes and examples (6)").wait_for()
    page.locator(".gd-chip").nth(1).click()
    place.polygon(230, 130, 30)
    page.get_by_text("Classes and examples (7)").wait_for()
    page.keyboard.press("Escape")
    page.locator(".gd-undo").click()
    page.get_by_text("Classes and examples (6)").wait_for()
    assert watched.maps_made() == 1

    page.get_by_role("button", name="Make the full map").click()
    page.locator(".gd-name", has_text="Land cover of").wait_for()
    land = max(server.work.glob("results/*/land-cover.tif"), key=lambda path: path.stat().st_mtime)
    with rasterio.open(land) as source, rasterio.open(server.folder / "after.tif") as scene:
        assert (source.crs, source.transform, source.shape) == (scene.crs, scene.transform, scene.shape)
        values = source.read(1)
    made = {one.name: one.color for one in read_classes(land)}
    assert made == dict(FIRST_CLASSES)  # names and colours as on the page
    water = next(one.value for one in read_classes(land) if one.name == "water")
    assert (values[:, 10:110] == water).mean() > 0.8
    assert len(geopandas.read_file(land.with_suffix(".gpkg"))) >= 3
    assert (land.parent / "model.safetensors").exists()

    page.get_by_text(land.parent.name).click()
    page.get_by_text("spatially blocked cross-validation").wait_for()
    page.get_by_role("button", name="Draw the map as a picture").click()
    page.get_by_role("link", name="map.png").wait_for()
    assert (land.parent / "map.png").stat().st_size > 10_000
    for ending in (".geojson", ".parquet"):
        assert land.with_suffix(ending).exists()
    with page.expect_download() as waiting:
        page.get_by_role("link", name="land-cover.tif").click()
    assert Path(waiting.value.path()).read_bytes() == land.read_bytes()
    watched.look("segment")
    assert watched.maps_made() == 1
    assert watched.quiet(), (watched.external, watched.errors)


def test_two_dates_change_threshold_polygons(server: Server, open_page: Open) -> None:
    """Two dates → change → move the threshold → export the polygons."""
    watched = open_page(server.url)
    page = watched.page
    tiles_shown(watched, 2)
    go(watched, "Change")
    page.get_by_role("button", name="Find changes").click()
    slider = page.locator(".gd-threshold")
    slider.wait_for()
    places = page.get_by_text(re.compile(r"\d+ places?$"))
    places.wait_for()
    before = page.get_by_text(re.compile("Threshold .* of ")).inner_text()

    # The browser repaints by itself: pixels of the layer change though no tile is asked for.
    asked: list[str] = []
    page.on("request", lambda one: asked.append(one.url) if "/tiles/" in one.url else None)
    painted = """() => [...document.querySelectorAll('*')].map(e => e.shadowRoot).filter(Boolean)
        .flatMap(r => [...r.querySelectorAll('canvas.leaflet-tile')])
        .map(c => c.getContext('2d').getImageData(0, 0, 256, 256).data)
        .reduce((n, data) => n + data.filter((v, i) => i % 4 === 3 && v).length, 0)"""
    first = -1
    page.wait_for_load_state("networkidle")
    while (now := page.evaluate(painted)) != first or now == 0:  # until the last tile has come
        first = now
        page.wait_for_timeout(700)
    asked.clear()
    top = float(slider.get_attribute("max") or 0)
    low = float(slider.input_value())
    slider.evaluate("(e, v) => { e.value = v; e.dispatchEvent(new Event('input')); }", str(low + 0.4 * (top - low)))
    assert page.evaluate(painted) < first
    assert asked == []
    slider.evaluate("e => e.dispatchEvent(new Event('change'))")
    page.wait_for_function("before => !document.body.innerText.includes(before)", arg=before)
    still(watched)

    # A place clicked on the map is chosen in the table, and the others are ranked by how alike their change is.
    place = Place(watched)
    place.click(286, 92)
    page.get_by_role("button", name="More like this").click()
    still(watched)
    assert float(slider.input_value()) > low  # the map and the page keep one threshold
    page.get_by_text("Least likeness").wait_for()
    ranked = page.get_by_text(re.compile(r"\d+ places?$"))
    ranked.wait_for()
    place.click(264, 312)  # the pond: another change than the quarter's
    page.get_by_text("Place 2:").wait_for()
    still(watched)
    page.get_by_role("button", name="Not this").click()
    page.get_by_text("1 wanted, 1 not").wait_for()
    watched.look("change")

    page.get_by_text("Take away").click()
    page.get_by_role("button", name="Write the files at this threshold").click()
    page.get_by_role("link", name="changes-at-threshold.gpkg").wait_for()
    written = max(server.work.glob("results/*/changes-at-threshold.gpkg"), key=lambda path: path.stat().st_mtime)
    frame = geopandas.read_file(written)
    assert {"area_m2", "score"} <= set(frame.columns)
    with rasterio.open(written.with_suffix(".tif")) as source:
        share = (source.read(1) == 1).mean()
        threshold = float(source.tags()["GEODINO_THRESHOLD"])
    assert threshold > low
    # The new quarter is a sixteenth of the scene, and is where the largest place is.
    assert 0 < share < 0.2
    biggest = frame.sort_values("area_m2").geometry.iloc[-1].centroid
    column, row = (biggest.x - 500_000) / 10, (5_000_000 - biggest.y) / 10
    assert 220 < column < 350
    assert 30 < row < 160
    with page.expect_download() as waiting:
        page.get_by_role("link", name="changes-at-threshold.geojson").click()
    assert len(geopandas.read_file(waiting.value.path())) == len(frame)
    ranking = frame.sort_values("likeness", ascending=False)
    assert ranking["likeness"].iloc[0] > 0.99  # the example itself
    assert ranking["likeness"].iloc[-1] < 0.5  # what is not wanted
    assert watched.maps_made() == 1
    assert watched.quiet(), (watched.external, watched.errors)


def test_clicks_show_what_is_alike_and_what_a_head_attends_to(server: Server, open_page: Open) -> None:
    """Principal components, likeness to two clicks, attention of one head: layers on the map, rasters on the disk."""
    watched = open_page(server.url)
    page = watched.page
    tiles_shown(watched, 2)
    go(watched, "Explore")
    page.get_by_role("button", name="Show principal components").click()
    page.locator(".gd-name", has_text="PCA of after").wait_for()
    place = Place(watched)
    place.click(60, 200)
    page.locator(".gd-name", has_text="Like the clicks").wait_for()
    page.get_by_text("not wanted", exact=True).click()
    still(watched)
    place.click(180, 300)
    page.get_by_text("1 wanted, 1 not").wait_for()
    (alike,) = {max(server.work.glob("results/*/alike-*.tif"), key=lambda path: path.stat().st_mtime)}
    with rasterio.open(alike) as source:
        score = source.read(1)
    assert score[:, :7].mean() > score[13:, 9:14].mean()  # water is alike, the town is not

    page.get_by_text("Attention of a click").click()
    page.get_by_text("Head", exact=True).wait_for()
    place.click(200, 120)
    page.locator(".gd-name", has_text="Attention, block 2, all heads").wait_for()
    page.get_by_role("combobox", name="Head").click()
    page.get_by_role("option", name="3", exact=True).click()
    page.locator(".gd-name", has_text="Attention, block 2, head 3").wait_for()
    shown = max(server.work.glob("results/*/attention-*.tif"), key=lambda path: path.stat().st_mtime)
    with rasterio.open(shown) as source:
        attention = source.read(1)
    assert (attention >= 0).all() and 0 < attention.sum() <= 1.001
    watched.look("explore")
    assert watched.maps_made() == 1
    assert watched.quiet(), (watched.external, watched.errors)


def test_the_list_of_jobs_fits(server: Server, open_page: Open) -> None:
    """What the other tests asked for, with their long names."""
    store = JobStore(server.work / "jobs")
    title = f"Land cover of S2B_MSIL2A_{'20240701T101559_N0510_R065_' * 2} with a long name **and** <b>marks</b>"
    store.cancel(store.submit(title, Command(("segment", "x" * 200)), []).id)
    watched = open_page(server.url)
    go(watched, "Jobs")
    watched.page.get_by_text("with a long name **and** <b>marks</b>").wait_for()
    watched.look("jobs")
    assert watched.quiet(), (watched.external, watched.errors)
