"""Two Dask workers over one, on this machine, on the same scenes.

Run as ``python benchmarks/cut_dask.py [--pixels 8192] [--rounds 3]``.
"""

import argparse
import shutil
import tempfile
from pathlib import Path

from cut import interleaved, write_scene
from distributed import LocalCluster

from tiles.cutting.cut import cut
from tiles.cutting.plan import CutSettings, Request


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pixels", type=int, default=8192)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="geodino-bench-"))
    try:
        write_scene(folder / "scene.tif", options.pixels, "uint8", "deflate")
        settings = {"threads_per_worker": 1, "processes": True, "dashboard_address": "127.0.0.1:0"}
        with LocalCluster(n_workers=1, **settings) as one, LocalCluster(n_workers=2, **settings) as two:

            def cutting(address: str) -> None:
                cut([Request(str(folder / "scene.tif"))], folder / "T", CutSettings(256), dask=address)

            def clean() -> None:
                shutil.rmtree(folder / "T", ignore_errors=True)

            for cluster in (one, two):  # the first job imports GDAL in the workers
                cutting(cluster.scheduler_address)
                clean()
            jobs = {"one": lambda: cutting(one.scheduler_address), "two": lambda: cutting(two.scheduler_address)}
            seconds = interleaved(jobs, options.rounds, clean)
        print(f"two Dask workers / one {seconds['one'] / seconds['two']:.2f} (aim ≥ 1.6)")
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
