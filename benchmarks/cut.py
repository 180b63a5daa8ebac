"""How fast scenes are cut: ratios over a bare block-by-block read, and of two workers over one.

Every ratio is of two things done in turn in this run. Run as ``python benchmarks/cut.py [--pixels 8192] [--rounds 3]``.
"""

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import rasterio
from affine import Affine

from tiles.cut import cut
from tiles.plan import CutSettings, Request

BANDS = ("red", "green", "blue")


def write_scene(path: Path, side: int, dtype: str, compress: str) -> None:
    """A raster that compresses about as imagery does: smooth ground, sharp fields, noise in the last bits."""
    generator = np.random.default_rng(0)
    top = 255 if dtype == "uint8" else 3000
    profile = {"driver": "GTiff", "count": 3, "height": side, "width": side, "dtype": dtype, "compress": compress}
    tiled = {"tiled": True, "blockxsize": 512, "blockysize": 512, "predictor": 2, "photometric": "RGB"}
    place = {"crs": "EPSG:32633", "transform": Affine(10, 0, 400000, 0, -10, 5000000)}
    with rasterio.open(path, "w", **profile, **tiled, **place) as target:
        for row in range(0, side, 512):
            for column in range(0, side, 512):
                fields = generator.uniform(0.2, 0.8, (3, 16, 16)).repeat(32, axis=1).repeat(32, axis=2)
                noise = generator.normal(0, 0.02, (3, 512, 512))
                block = np.clip((fields + noise) * top, 1, top).astype(dtype)
                target.write(block, window=rasterio.windows.Window(column, row, 512, 512))


def bare_read(path: Path) -> None:
    """Read every block of every band, once."""
    with rasterio.open(path, sharing=False) as source:
        for _, window in source.block_windows(1):
            source.read([1, 2, 3], window=window)


def interleaved(
    jobs: dict[str, Callable[[], object]], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """Median seconds of each job by a clock, done in turn."""
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(rounds):
        for name, job in jobs.items():
            start = clock()
            job()
            times[name].append(clock() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pixels", type=int, default=8192, help="side of the raster")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="geodino-bench-"))
    try:
        for dtype in ("uint8", "uint16"):
            for compress in ("deflate", "zstd"):
                path = folder / f"{dtype}-{compress}.tif"
                write_scene(path, options.pixels, dtype, compress)
                request = [Request(str(path), sensor="planetscope-sr" if dtype == "uint16" else None)]

                def cutting(workers: int, request: list[Request] = request) -> None:
                    cut(request, folder / f"T{workers}", CutSettings(256, BANDS), workers=workers, overwrite=True)

                jobs = {
                    "read": lambda path=path: bare_read(path),
                    "one": lambda: cutting(1),
                    "two": lambda: cutting(2),
                }
                bare_read(path)
                seconds = interleaved(jobs, options.rounds)
                # Processor time is what other work on the machine disturbs least; reading ahead does not shorten it.
                busy = interleaved({"read": jobs["read"], "one": jobs["one"]}, options.rounds, time.process_time)
                megabytes = 3 * options.pixels**2 * np.dtype(dtype).itemsize / 1e6
                ratio = path.stat().st_size / megabytes / 1e6
                print(
                    f"{dtype} {compress} ({ratio:.2f} of raw size), {options.pixels}²: "
                    f"cutting / bare read {seconds['read'] / seconds['one']:.2f} (aim ≥ 0.8), "
                    f"two workers / bare read {seconds['read'] / seconds['two']:.2f} (aim ≥ 1.36), "
                    f"two workers / one {seconds['one'] / seconds['two']:.2f} (aim ≥ 1.7); "
                    f"processor time of bare read / of cutting {busy['read'] / busy['one']:.2f}",
                    flush=True,
                )
                path.unlink()
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
