"""Make app-scenes.png and app-explore.png of docs/app.md: `python docs/images/app_pictures.py [--backbone B]`.

Needs a Chromium. Imagery: the Landsat 7 scene of the Great Salt Lake that the package localtileserver carries (USGS);
its second date is semi-synthetic (geodino.demo.second_date). Everything shown is made by clicking in the app, but the
features, which are prepared beforehand as the app's own job would.
"""

import argparse
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import rasterio
from playwright.sync_api import Page, sync_playwright
from pyproj import Transformer
from rasterio.windows import Window

import geodino
from app.map.source import open_source
from app.pages.features_box import cube_path
from app.store.workspace import Workspace
from geodino.demo.imagery import salt_lake
from geodino.demo.second_date import make_second_date

HERE = Path(__file__).resolve().parent
PLACE = Window(540, 240, 768, 768)
WAIT_MS = 60_000


def scenes(folder: Path) -> tuple[Path, Path]:
    """Two dates of one place."""
    with rasterio.open(salt_lake(folder).path) as file:
        first = file.read(window=PLACE)
        profile = {
            "driver": "GTiff", "count": 3, "height": 768, "width": 768, "dtype": "uint8",
            "crs": file.crs, "transform": file.window_transform(PLACE), "tiled": True,
        }  # fmt: skip
    rng = np.random.default_rng(3)
    second = make_second_date(first, (first > 0).any(axis=0), rng, patches=10, radius_px=(20, 50)).values
    paths = folder / "lake.tif", folder / "lake, second date (semi-synthetic).tif"
    for path, values in zip(paths, (first, second), strict=True):
        with rasterio.open(path, "w", **profile) as out:
            out.write(values)
            out.descriptions = ("red", "green", "blue")
    return paths


class Clicks:
    """From pixels of the scenes to the screen."""

    def __init__(self, page: Page, scene: Path) -> None:
        self.page = page
        with rasterio.open(scene) as file:
            self.transform, crs = file.transform, file.crs
        self.degrees = Transformer.from_crs(crs, 4326, always_xy=True)
        box = page.locator(".gd-map").bounding_box()
        assert box
        ends = [(box["x"] + 150, box["y"] + 430), (box["x"] + 450, box["y"] + 560)]
        (lng0, lat0), (lng1, lat1) = (self._ask(*end) for end in ends)
        (x0, y0), (x1, y1) = ends
        self.x, self.y = (x0, (x1 - x0) / (lng1 - lng0), lng0), (y0, (y1 - y0) / (lat1 - lat0), lat0)

    def _ask(self, x: float, y: float) -> tuple[float, float]:
        self.page.mouse.move(x - 1, y)
        self.page.mouse.move(x, y)
        words = self.page.locator(".gd-position").inner_text().replace("°", "").split()
        return float(words[2]) * (-1 if words[3] == "W" else 1), float(words[0]) * (-1 if words[1] == "S" else 1)

    def at(self, column: float, row: float) -> None:
        """Click a pixel."""
        lng, lat = self.degrees.transform(*(self.transform * (column, row)))
        self.page.mouse.click(self.x[0] + (lng - self.x[2]) * self.x[1], self.y[0] + (lat - self.y[2]) * self.y[1])
        self.page.wait_for_timeout(80)


def quiet(page: Page) -> None:
    """Nothing is run or loaded any more."""
    page.wait_for_timeout(900)
    page.wait_for_function(
        "() => document.querySelector('[data-testid=stApp]')?.dataset.testScriptState === 'notRunning'"
    )
    page.wait_for_load_state("networkidle")
    page.wait_for_timeout(600)


def go(page: Page, name: str) -> None:
    """Open a page and bring the scene into view."""
    page.get_by_role("link", name=name, exact=True).click()
    page.locator(".gd-map").focus()
    page.keyboard.press("f")
    quiet(page)


def shoot(page: Page, scene: Path) -> None:
    """Click through the pages."""

    def keep(name: str) -> None:
        page.mouse.move(10, 890)
        quiet(page)
        page.screenshot(path=HERE / f"app-{name}.png")

    page.locator(".leaflet-tile-loaded").nth(3).wait_for(state="attached")
    quiet(page)
    page.locator(".gd-swipe-on").check()
    page.get_by_text("About this layer").click()
    keep("scenes")
    page.locator(".gd-swipe-on").uncheck()

    go(page, "Explore")
    page.get_by_role("button", name="Show principal components").click()
    page.locator(".gd-name", has_text="PCA of").wait_for()
    Clicks(page, scene).at(585, 150)
    page.locator(".gd-name", has_text="Like the clicks").wait_for()
    keep("explore")


def main() -> None:
    """Serve, click, keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone")
    backbone = parser.parse_args().backbone
    browser = next(path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name)))
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        folder = Path(name)
        dates = scenes(folder)
        workspace = Workspace.at(folder / "work", backbone=backbone)
        (workspace.folder / "cache" / "tour-seen").touch()
        for date in dates:
            geodino.features(date, cube_path(workspace, open_source(date)), backbone=backbone)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        command = [sys.executable, "-m", "geodino", "app", *map(str, dates), "--port", str(port)]
        command += ["--work", str(workspace.folder), *(["--backbone", backbone] if backbone else [])]
        server = subprocess.Popen(command)
        try:
            while True:
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/_stcore/health", timeout=1).close()
                    break
                except (urllib.error.URLError, OSError):
                    time.sleep(0.2)
            launched = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox", "--disable-gpu"])
            page = launched.new_page(viewport={"width": 1440, "height": 900})
            page.set_default_timeout(WAIT_MS)
            page.goto(f"http://127.0.0.1:{port}")
            shoot(page, dates[0])
            launched.close()
        finally:
            server.terminate()
            server.wait()


if __name__ == "__main__":
    main()
