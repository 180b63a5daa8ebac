"""What the tests of the web map share: generated rasters, a running server, a watched page."""

import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import rasterio
from odc.geo.geobox import GeoBox
from rasterio.transform import from_origin

from app.work.cube import Cube

if TYPE_CHECKING:
    from playwright.sync_api import Page
    from starlette.applications import Starlette

ARTEFACTS = Path(__file__).resolve().parents[2] / "test-artifacts"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
# Without these the browser itself asks its maker's servers; the tests assert that nothing leaves the machine.
QUIET_BROWSER = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
SCHEMES: tuple[Literal["dark"], Literal["light"]] = ("dark", "light")
# Two frames without an animation under way.
SETTLED = """async () => {
    const frame = () => new Promise(done => requestAnimationFrame(() => setTimeout(done, 60)));
    await frame();
    await Promise.race([
        Promise.all(document.getAnimations().filter(a => a.effect?.getComputedTiming().iterations === 1).map(a => a.finished.catch(() => 0))),
        new Promise(done => setTimeout(done, 1500)),
    ]);
    await frame();
}"""  # noqa: E501
WAIT_MS = (
    240_000  # a job that begins with importing PyTorch takes two minutes on a machine with ten other busy processes
)


def write_raster(
    path: Path,
    values: np.ndarray,
    *,
    nodata: float | None = None,
    crs: str | None = "EPSG:32631",
    origin: tuple[float, float] = (500_000, 5_000_000),
    pixel: float = 10.0,
    names: tuple[str, ...] = (),
    tags: dict[str, str] | None = None,
    colors: dict[int, tuple[int, int, int, int]] | None = None,
) -> Path:
    """Write ``[C, H, W]`` (or ``[H, W]``) as a tiled GeoTIFF."""
    values = values if values.ndim == 3 else values[None]
    profile = {
        "driver": "GTiff", "count": values.shape[0], "height": values.shape[1], "width": values.shape[2],
        "dtype": values.dtype.name, "nodata": nodata, "crs": crs, "tiled": True, "blockxsize": 128, "blockysize": 128,
        "transform": from_origin(*origin, pixel, pixel),
    }  # fmt: skip
    with rasterio.open(path, "w", **profile) as target:
        target.write(values)
        if names:
            target.descriptions = names
        if tags:
            target.update_tags(**tags)
        if colors:
            target.write_colormap(1, colors)
    return path


def landscape(seed: int = 0, size: int = 384, *, built: bool = False) -> np.ndarray:
    """Water to the west, fields to the north-east, town to the south-east: uint8 ``[3, size, size]``.

    Args:
        seed: Of the texture.
        size: Pixels a side.
        built: Whether a new quarter stands in the fields (columns 5/8 to 7/8, rows 1/8 to 3/8 of the size) and a new
            pond lies in the town (columns 5/8 to 6/8, rows 6/8 to 7/8).
    """
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:size, :size]
    color = np.empty((size, size, 3))
    color[:] = (60, 130, 50)
    stripes = (rows // 6 % 2 == 0)[..., None]
    color = np.where(stripes, color, color * 0.75)
    town = rows > size // 2
    blocks = ((rows // 8 + columns // 8) % 2 == 0)[..., None]
    street = np.where(blocks, (190, 170, 160), (90, 85, 90))
    if built:
        part = size // 8
        town = town | ((rows >= part) & (rows < 3 * part) & (columns >= 5 * part) & (columns < 7 * part))
    color = np.where(town[..., None], street, color)
    water = columns < size // 3
    if built:
        water = water | ((rows >= 6 * part) & (rows < 7 * part) & (columns >= 5 * part) & (columns < 6 * part))
    color = np.where(water[..., None], (20, 50, 110), color)
    noisy = color + rng.normal(0, 6, color.shape)
    return np.clip(noisy, 1, 254).astype(np.uint8).transpose(2, 0, 1)


def cube_of(features: np.ndarray, valid: np.ndarray | None = None) -> Cube:
    """Features ``[D, H, W]`` as a cube on a grid of 160 m."""
    channels, height, width = features.shape
    mask = np.ones((height, width), bool) if valid is None else valid
    unit = features / np.maximum(np.linalg.norm(features, axis=0), 1e-9)
    index = np.full(height * width, -1, dtype=np.int64)
    index[mask.ravel()] = np.arange(int(mask.sum()))
    tokens = unit.reshape(channels, -1).T[mask.ravel()].astype(np.float16)
    geobox = GeoBox((height, width), from_origin(500_000, 5_000_000, 160, 160), "EPSG:32631")
    return Cube(tokens, index.reshape(height, width), geobox)


def blocks(seed: int = 0, height: int = 12, width: int = 18, channels: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """Features of three kinds side by side, and which kind each token is."""
    rng = np.random.default_rng(seed)
    kind = np.repeat(np.arange(3), width // 3)[None].repeat(height, 0)
    centres = rng.normal(0, 1, (3, channels))
    return centres[kind].transpose(2, 0, 1) + rng.normal(0, 0.2, (channels, height, width)), kind


@dataclass
class Server:
    """A running `geodino app`."""

    folder: Path
    work: Path
    arguments: list[str]
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        self.launch()
        self.wait()

    def launch(self) -> None:
        """Begin to start."""
        command = [sys.executable, "-c", "from geodino.cli import main; main()", "app", *self.arguments]
        options = ["--port", str(self.port), "--work", str(self.work)]
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen([*command, *options], cwd=self.folder, stdout=log, stderr=log)

    def wait(self) -> None:
        """Until it answers."""
        assert self.process
        deadline = time.monotonic() + WAIT_MS / 1000
        while True:
            try:
                with urllib.request.urlopen(self.url + "/_stcore/health", timeout=2):
                    return
            except (urllib.error.URLError, OSError):
                assert self.process.poll() is None, (self.folder / "server.log").read_text()
                assert time.monotonic() < deadline, "the server did not come up"
                time.sleep(0.1)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        if self.process and self.process.poll() is None:
            self.process.send_signal(how)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


@contextmanager
def serving(app: "Starlette") -> Iterator[str]:
    """An ASGI app on a port of its own."""
    import uvicorn

    runner = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
    thread = threading.Thread(target=runner.run)
    thread.start()
    while not runner.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{runner.servers[0].sockets[0].getsockname()[1]}"
    runner.should_exit = True
    thread.join()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Watched:
    """A page with what must stay empty: requests to elsewhere and errors of the console."""

    page: "Page"
    external: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def maps_made(self) -> int:
        return int(self.page.evaluate("document.documentElement.dataset.geodinoMaps ?? 0"))

    def quiet(self) -> bool:
        return not self.external and not self.errors

    def keep(self, name: str) -> None:
        """Keep a screenshot among the artefacts of the tests."""
        ARTEFACTS.mkdir(exist_ok=True)
        self.page.screenshot(path=ARTEFACTS / f"{name}.png")

    def look(self, name: str) -> None:
        """Keep the page as a laptop and a phone show it, light and dark; it must not scroll sideways on either."""
        for width, height in ((390, 844), (1440, 900)):
            self.page.set_viewport_size({"width": width, "height": height})
            for scheme in SCHEMES:
                self.page.emulate_media(color_scheme=scheme)
                self.page.evaluate(SETTLED)
                self.keep(f"{name}-{width}-{scheme}")
            overflow = self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
            assert overflow <= 0, (name, width)
            if width == 390:  # what lies below the first screen
                self.page.evaluate("document.querySelector('[data-testid=stMain]').scrollBy(0, 760)")
                self.page.evaluate(SETTLED)
                self.keep(f"{name}-{width}-below")
                self.page.evaluate("document.querySelector('[data-testid=stMain]').scrollTo(0, 0)")
