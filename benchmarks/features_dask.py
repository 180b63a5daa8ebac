"""Two Dask workers over one, one thread each, on the same scene, alternating in one run.

Prints the ratio of the times of whole extractions, planning, writing and renaming included.
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import _share_cores  # noqa: F401 - before torch
from distributed import LocalCluster

from geodino.backbones.backbone import save_backbone, untrained_backbone
from geodino.dense.extraction import Extraction
from geodino.dense.settings import DenseSettings
from geodino.jobs.cluster import Cluster
from geodino.jobs.run_options import RunOptions
from tiles.scenes.opening import open_scene
from tiles.scenes.scene import Scene

from features import make_scene  # isort: skip - the neighbour, when run as a script


def seconds(cluster: Cluster, scene: Scene, output: Path) -> float:
    """Time of one extraction."""
    start = time.perf_counter()
    plan = Extraction.plan(scene, cluster, output, DenseSettings(window=20, batch_size=2))
    plan.run(overwrite=True)
    return time.perf_counter() - start


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--height", type=int, default=16 * 64 * 8)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        backbone = untrained_backbone("vit_small_patch16_dinov3", precision="fp32", device="cpu")
        assert backbone.card is not None
        save_backbone(backbone.module, backbone.card, folder / "run")
        make_scene(folder / "scene.tif", options.height, 640)
        scene = open_scene(folder / "scene.tif")
        spec = RunOptions(folder / "run", "cpu", "fp32")
        ratios = []
        with (
            LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address="127.0.0.1:0") as one,
            LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0") as two,
            Cluster(one.scheduler_address, spec) as single,
            Cluster(two.scheduler_address, spec) as double,
        ):
            for cluster in (single, double):  # every worker loads its model before the clock runs
                seconds(cluster, scene, folder / "warm.zarr")
            for _ in range(options.rounds):
                alone = seconds(single, scene, folder / "one.zarr")
                ratios.append(alone / seconds(double, scene, folder / "two.zarr"))
        print(
            f"dask: one worker's time / two workers' = {statistics.median(ratios):.2f} "
            f"({min(ratios):.2f} to {max(ratios):.2f}; one thread each, {os.cpu_count()} cores)"
        )


if __name__ == "__main__":
    main()
