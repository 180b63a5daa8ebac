"""The web map in a real browser: page opened → first tile, threshold moved → redrawn, each over a floor.

Opened is a 16,384 × 16,384 uint16 COG (``--small``: a quarter of the side), by a browser that has seen nothing of the
server yet: the very first page of a server just started, then others. The floor of opening is the same server's page
without any layer (Streamlit and the map's JavaScript); the floor of redrawing is one frame of the browser. At last a
day in short: tabs opened, every page with the map visited, tabs closed, and the server's memory late over early.
Needs a Chromium; says so and ends where there is none.
"""

import argparse
import json
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from _app_scene import FULL, SMALL, make_cog
from odc.geo.geobox import GeoBox
from playwright.sync_api import Browser, Page, sync_playwright
from rasterio.transform import from_origin

from tiles.writing.cog import CogWriter

SIDE = 4096
ROUNDS = 5
TABS = 16
QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
LOADED = """() => [...document.querySelectorAll('*')].map(e => e.shadowRoot).filter(Boolean)
    .some(r => r.querySelector('.leaflet-tile-loaded'))"""
REDRAW = """async () => {
    const slider = [...document.querySelectorAll('*')].map(e => e.shadowRoot).filter(Boolean)
        .map(r => r.querySelector('.gd-threshold')).find(Boolean);
    const frame = () => new Promise(done => requestAnimationFrame(() => setTimeout(done)));
    const times = [], frames = [];
    for (let i = 0; i < 12; i++) {
        let start = performance.now();
        await frame();
        frames.push(performance.now() - start);
        start = performance.now();
        slider.value = Number(slider.min) + (slider.max - slider.min) * (0.3 + 0.04 * i);
        slider.dispatchEvent(new Event('input'));
        await frame();
        times.push(performance.now() - start);
    }
    return {times, frames};
}"""


def make_score(path: Path) -> Path:
    """A score raster as `geodino change` keeps one."""
    geobox = GeoBox((SIDE, SIDE), from_origin(400_000, 5_200_000, 10, 10), "EPSG:32631")
    rng = np.random.default_rng(0)
    tags = {"GEODINO_CHANGE_IDENTITY": json.dumps("benchmark")}
    with CogWriter(path, geobox, dtype="float32", nodata=float("nan"), tags=tags) as out:
        for row in range(0, SIDE, 512):
            out.write(row, rng.normal(0, 1, (1, 512, SIDE)).astype(np.float32))
    return path


@dataclass(frozen=True)
class Served:
    """A running server."""

    address: str
    pid: int

    def resident_mb(self) -> float:
        """Its memory."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * resource.getpagesize() / 1e6


@contextmanager
def serving(folder: Path, scenes: list[Path]) -> Iterator[Served]:
    """A server of its own on a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (folder / "work" / "cache").mkdir(parents=True, exist_ok=True)
    (folder / "work" / "cache" / "tour-seen").touch()
    command = [sys.executable, "-c", "from geodino.cli import main; main()", "app", *map(str, scenes)]
    options = ["--port", str(port), "--work", str(folder / "work")]
    process = subprocess.Popen([*command, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        while True:
            try:
                urllib.request.urlopen(address + "/_stcore/health", timeout=1).close()
                break
            except (urllib.error.URLError, OSError):
                time.sleep(0.1)
        yield Served(address, process.pid)
    finally:
        process.terminate()
        process.wait()


def measure_memory(browser: Browser, served: Served) -> None:
    """Tabs and pages again and again."""
    held = []
    for _ in range(TABS):
        context = browser.new_context(viewport={"width": 1440, "height": 900})
        page = context.new_page()
        opening(page, served.address, LOADED)
        for name in ("Explore", "Segment", "Change", "Scenes"):
            page.get_by_role("link", name=name, exact=True).click()
            page.wait_for_timeout(500)
        context.close()
        held.append(served.resident_mb())
    early, late = (statistics.median(part) for part in (held[TABS // 4 : TABS // 2], held[-TABS // 4 :]))
    print(f"memory after {TABS} tabs over that after {TABS // 2}: {late / early:.3f} ({early:.0f} to {late:.0f} MB)")


def opening(page: Page, address: str, ready: str) -> float:
    """Seconds from asking for the page until ``ready`` holds."""
    start = time.perf_counter()
    page.goto(address)
    page.wait_for_function(ready, timeout=120_000, polling=20)
    return time.perf_counter() - start


def main() -> None:
    """Measure in one run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true")
    side = SMALL if parser.parse_args().small else FULL
    found = next(
        (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
    )
    if found is None:
        print("no Chromium here: nothing measured")
        return
    panel = LOADED.replace(".leaflet-tile-loaded", ".gd-panel")
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        folder = Path(name)
        score = make_score(folder / "score.tif")
        browser = playwright.chromium.launch(executable_path=found, args=QUIET)
        scene = make_cog(side)
        with (
            serving(folder / "a", [scene]) as shown,
            serving(folder / "b", []) as empty,
            serving(folder / "c", [score]) as cut,
        ):
            floor, full = [], []
            for number in range(ROUNDS + 1):
                for address, ready, times in ((empty.address, panel, floor), (shown.address, LOADED, full)):
                    context = browser.new_context(viewport={"width": 1440, "height": 900})
                    times.append(opening(context.new_page(), address, ready))
                    context.close()
                if number == 0:
                    time.sleep(20)  # both servers import in peace what their other pages need
            first, bare = statistics.median(full[1:]), statistics.median(floor[1:])
            print(f"{side} x {side} x 3 uint16: server just started -> first tile: {full[0]:.2f} s (aim: < 2 s)")
            print(
                f"page opened -> first tile: {first:.2f} s = {first / bare:.2f} x the page without a layer (aim: < 2 s)"
            )
            page = browser.new_page(viewport={"width": 1440, "height": 900})
            opening(page, cut.address, LOADED)
            page.wait_for_timeout(3000)
            drawn = page.evaluate(REDRAW)
            redraw, frame = statistics.median(drawn["times"]), statistics.median(drawn["frames"])
            print(f"threshold moved -> redrawn: {redraw:.0f} ms = {redraw / frame:.1f} x one frame (aim: < 300 ms)")
            measure_memory(browser, shown)
        browser.close()


if __name__ == "__main__":
    main()
