"""The web map's tiles and live maps, on a 16,384 × 16,384 uint16 COG made at first use.

Prints ratios of two things measured in the same run, with the plain numbers beside them:

- a warm tile (held by the server) and a cold one (24 asked for at once) over one read of the same tile by rio-tiler;
- ten sessions at once over one session;
- a new example's map of a 10,000 × 10,000 scene over the bare matrix product that it cannot do without;
- memory after many requests over memory after few.

``--small`` takes a quarter of the side, for CI.
"""

import argparse
import multiprocessing
import os
import resource
import statistics
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

import _share_cores  # noqa: F401 - before torch
import morecantile
import numpy as np
import rasterio
import uvicorn
from _app_scene import FULL, SMALL, make_cog
from odc.geo.geobox import GeoBox
from rasterio.transform import from_origin
from rio_tiler.io import Reader
from starlette.applications import Starlette

from app.map.preview import Preview
from app.map.source import Source, open_source
from app.map.style import default_style
from app.map.tile_routes import routes
from app.store.workspace import Workspace
from app.work.cube import Cube
from app.work.live_maps import LabelledTokens, classify
from geodino.heads.labels import Labels
from geodino.heads.legend import Legend

MERCATOR = morecantile.tms.get("WebMercatorQuad")
AT_ONCE = 24
SESSIONS = 10
SCREEN, SCREENS = 12, 6  # tiles of a screenful, and how many an analyst goes through


def tiles_of(source: Source, count: int) -> list[tuple[int, int, int]]:
    """Tiles over the middle of the scene, at the zoom levels that an analyst goes through."""
    west, south, east, north = source.bounds
    found: list[tuple[int, int, int]] = []
    for zoom in range(source.max_zoom - 4, source.max_zoom + 1):
        box = (west * 0.7 + east * 0.3, south * 0.7 + north * 0.3, west * 0.3 + east * 0.7, south * 0.3 + north * 0.7)
        found += [(tile.z, tile.x, tile.y) for tile in MERCATOR.tiles(*box, zooms=zoom)]
    return found[:: max(1, len(found) // count)][:count]


def timed(work: Callable[[], object]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def ask(url: str) -> float:
    """Seconds of one request, body included."""
    return timed(lambda: urllib.request.urlopen(url).read())


def quantile(times: list[float], share: float) -> float:
    """Milliseconds."""
    return 1000 * float(np.quantile(times, share))


def resident_mb(pid: int) -> float:
    """Resident memory of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def serve(folder: Path, path: Path, said: Connection) -> None:
    """The app's routes in a process of their own, so that the asker shares no lock with it."""
    workspace = Workspace.at(folder)
    start = time.perf_counter()
    source = open_source(path)
    layer = workspace.registry.add(source, default_style(source, workspace.statistics))
    opened = time.perf_counter() - start
    server = uvicorn.Server(uvicorn.Config(Starlette(routes=routes(workspace.registry)), port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    said.send((f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/geodino/tiles/{layer}", opened))
    thread.join()


@contextmanager
def serving(folder: Path, path: Path) -> Iterator[tuple[str, float, int]]:
    """Address of the layer's tiles, seconds that opening the scene took, and the server's process."""
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(folder, path, there), daemon=True)
    process.start()
    base, opened = here.recv()
    assert process.pid is not None
    yield base, opened, process.pid
    process.terminate()
    process.join()


def measure_tiles(folder: Path, side: int) -> None:
    """Tiles over HTTP against rio-tiler alone."""
    path = make_cog(side)
    print(f"{side} x {side} x 3 uint16 COG, {path.stat().st_size / 1e9:.2f} GB, {os.cpu_count()} cores")
    source = open_source(path)
    tiles = tiles_of(source, 144)
    with serving(folder / "work", path) as (base, opened, pid):
        urls = [f"{base}/{z}/{x}/{y}.png" for z, x, y in tiles]
        print(f"opening, statistics and first tile: {opened + ask(urls[0]):.2f} s")
        with rasterio.open(path) as dataset:
            reader = Reader(None, dataset=dataset)
            bare = [timed(lambda t=t: reader.tile(t[1], t[2], t[0], nodata=0)) for t in tiles[:36]]
        alone = [ask(url) for url in urls[:36]]
        with ThreadPoolExecutor(AT_ONCE) as pool:
            cold = list(pool.map(ask, urls[36:]))
            warm = list(pool.map(ask, urls * 2))
        read = quantile(bare, 0.5)
        one, many, held = (quantile(times, 0.5) for times in (alone, cold, warm))
        print(f"one tile, cold, alone: {one:.0f} ms = {one / read:.2f} x rio-tiler's read")
        late, later = quantile(cold, 0.95), quantile(warm, 0.95)
        print(f"cold, {AT_ONCE} at once: median {many:.0f} ms, 95 % {late:.0f} ms = {many / read:.1f} x that read")
        print(f"warm, {AT_ONCE} at once: median {held:.0f} ms, 95 % {later:.0f} ms = {held / many:.3f} x cold")
        print("(aims: warm median < 60 ms, 95 % < 150 ms)")
        measure_sessions(urls)
        measure_memory(base, pid, source)


def measure_sessions(urls: list[str]) -> None:
    """Analysts who pan, look for a second and pan again: ten at once against one."""

    def session(number: int) -> list[float]:
        times: list[float] = []
        with ThreadPoolExecutor(6) as browser:  # as many connections as a browser opens
            for screen in range(SCREENS):
                first = (number * 7 + screen * SCREEN) % len(urls)
                times += browser.map(ask, (urls * 2)[first : first + SCREEN])
                time.sleep(1)
        return times

    one = session(0)
    with ThreadPoolExecutor(SESSIONS) as pool:
        many = [t for times in pool.map(session, range(SESSIONS)) for t in times]
    few, lots = statistics.median(one), statistics.median(many)
    print(
        f"{SESSIONS} sessions at once: {len(many)} tiles, no error, median {1000 * lots:.0f} ms = "
        f"{lots / few:.2f} x that of one (aim: < 3)"
    )


def measure_memory(base: str, pid: int, source: Source) -> None:
    """A scripted hour in short: ever new tiles and values, memory before and after."""
    more = tiles_of(source, 3000)
    half = len(more) // 2
    everything = [f"{base}/{z}/{x}/{y}.png" for z, x, y in more]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, everything[:half]))
        before = resident_mb(pid)
        list(pool.map(ask, everything[half:]))
    after = resident_mb(pid)
    print(
        f"memory after {len(more)} tiles over that after {half}: {after / before:.2f} ({before:.0f} to {after:.0f} MB)"
    )


def measure_live(folder: Path, side: int) -> None:
    """A new example on a scene with cached features, until the map's tiles can be asked for."""
    tokens = -(-side // 16)
    rng = np.random.default_rng(0)
    kinds = rng.normal(0, 1, (4, 384)).astype(np.float32)
    kind = (np.add.outer(np.arange(tokens) // 40, np.arange(tokens) // 40) % 4).ravel()
    features = np.empty((tokens * tokens, 384), np.float16)
    for start in range(0, len(features), 65_536):
        part = kinds[kind[start : start + 65_536]]
        part = part + rng.normal(0, 0.7, part.shape).astype(np.float32)
        features[start : start + 65_536] = part / np.linalg.norm(part, axis=1, keepdims=True)
    geobox = GeoBox((tokens, tokens), from_origin(400_000, 5_200_000, 160, 160), "EPSG:32631")
    cube = Cube(features, np.arange(tokens * tokens).reshape(tokens, tokens), geobox)
    rows, cols = rng.integers(0, tokens, 400), rng.integers(0, tokens, 400)
    labels = Labels(
        rows, cols, kind.reshape(tokens, tokens)[rows, cols], np.arange(400), Legend.of(["a", "b", "c", "d"])
    )
    bare = min(timed(lambda: cube.product(kinds)) for _ in range(3))

    def whole() -> None:
        made = classify(cube, LabelledTokens.on(cube, labels))
        open_source(Preview(made.probabilities, geobox, 255, labels.legend.names).write(folder / "live.tif"))

    took = min(timed(whole) for _ in range(3))
    ratio = f"{took / bare:.1f} x the bare product of features and weights"
    print(f"new example -> map of {side} x {side} with cached features: {took:.2f} s = {ratio} (aim: < 3 s)")


def main() -> None:
    """Measure everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure_tiles(Path(folder), SMALL if arguments.small else FULL)
        measure_live(Path(folder), 2500 if arguments.small else 10_000)


if __name__ == "__main__":
    main()
