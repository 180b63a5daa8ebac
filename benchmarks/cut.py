"""How fast scenes are cut: ratios over a bare block-by-block read, and of two workers over one.

    python benchmarks/cut.py [--pixels 8192] [--rounds 3] [--kinds uint8-deflate,uint8-zstd,…]

Every ratio is of two things done in turn in this run, on two cores. The bare read has one thread. One process cuts in
several, so it is measured on both cores and held to one; two workers, which have a core and a thread each, are compared
with the one that is held to a core.
"""

import argparse
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import rasterio
from affine import Affine

from tiles.cutting.cut import cut
from tiles.cutting.plan import CutSettings, Request

KINDS = ("uint8-deflate", "uint8-zstd", "uint16-deflate", "uint16-zstd")
BANDS = ("red", "green", "blue")


def write_scene(path: Path, side: int, dtype: str, compress: str) -> None:
    """A raster that compresses about as imagery does: smooth ground, sharp fields, noise in the last bits."""
    generator = np.random.default_rng(0)
    top = 255 if dtype == "uint8" else 3000
    blocks = []  # a large scene repeats them, and each is compressed by itself
    for _ in range(64):
        fields = generator.uniform(0.2, 0.8, (3, 16, 16)).repeat(32, axis=1).repeat(32, axis=2)
        noise = generator.normal(0, 0.02, (3, 512, 512))
        blocks.append(np.clip((fields + noise) * top, 1, top).astype(dtype))
    profile = {"driver": "GTiff", "count": 3, "height": side, "width": side, "dtype": dtype, "compress": compress}
    tiled = {"tiled": True, "blockxsize": 512, "blockysize": 512, "predictor": 2, "photometric": "RGB"}
    place = {"crs": "EPSG:32633", "transform": Affine(10, 0, 400000, 0, -10, 5000000), "num_threads": "all_cpus"}
    with rasterio.open(path, "w", **profile, **tiled, **place) as target:
        for row in range(0, side, 512):
            for column in range(0, side, 512):
                block = blocks[int(generator.integers(len(blocks)))]
                target.write(block, window=rasterio.windows.Window(column, row, 512, 512))


def bare_read(path: Path) -> None:
    """Read every block of every band, once."""
    with rasterio.open(path, sharing=False) as source:
        for _, window in source.block_windows(1):
            source.read([1, 2, 3], window=window)


def interleaved(
    jobs: dict[str, Callable[[], object]], rounds: int, before: Callable[[], object] = lambda: None
) -> dict[str, float]:
    """Median seconds of each job, done in turn; what is done before each is not timed."""
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(rounds):
        for name, job in jobs.items():
            before()
            start = time.perf_counter()
            job()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def on_cores(count: int, job: Callable[[], object]) -> None:
    """Do a job on so many cores; processes that it starts are held to them as well."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[:count])
    try:
        job()
    finally:
        os.sched_setaffinity(0, before)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pixels", type=int, default=8192, help="side of the raster")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kinds", default=",".join(KINDS))
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="geodino-bench-"))
    try:
        for kind in options.kinds.split(","):
            dtype, compress = kind.split("-")
            path = folder / f"{kind}.tif"
            write_scene(path, options.pixels, dtype, compress)
            request = [Request(str(path), sensor="planetscope-sr" if dtype == "uint16" else None)]

            def cutting(workers: int, request: list[Request] = request) -> None:
                cut(request, folder / "T", CutSettings(256, BANDS), workers=workers)

            jobs = {
                "read": lambda path=path: bare_read(path),
                "one core": lambda cutting=cutting: on_cores(1, lambda: cutting(1)),
                "one": lambda cutting=cutting: on_cores(2, lambda: cutting(1)),
                "two": lambda cutting=cutting: on_cores(2, lambda: cutting(2)),
            }
            bare_read(path)
            seconds = interleaved(jobs, options.rounds, lambda: shutil.rmtree(folder / "T", ignore_errors=True))
            megabytes = 3 * options.pixels**2 * np.dtype(dtype).itemsize / 1e6
            print(
                f"{dtype} {compress} ({path.stat().st_size / megabytes / 1e6:.2f} of raw size), {options.pixels}²: "
                f"cutting / bare read {seconds['read'] / seconds['one']:.2f} (aim ≥ 0.8), "
                f"held to one core {seconds['read'] / seconds['one core']:.2f}; "
                f"two workers / bare read {seconds['read'] / seconds['two']:.2f} (aim ≥ 1.36), "
                f"two workers / one on one core {seconds['one core'] / seconds['two']:.2f} (aim ≥ 1.7)",
                flush=True,
            )
            path.unlink()
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
