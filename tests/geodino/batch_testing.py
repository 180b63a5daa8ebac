"""What the tests of many scenes share: generated scenes, a job on them, digests of what it wrote."""

import hashlib

import numpy as np
import rasterio
from affine import Affine

from geodino.jobs.batch_job import BatchJob


def make_scenes(folder, count=3, height=200):
    folder.mkdir(exist_ok=True)
    for i in range(count):
        write_scene(folder / f"s{i}.tif", np.random.default_rng(i).integers(0, 255, (3, height, 96), dtype=np.uint8))


def write_scene(path, array):
    count, height, width = array.shape
    place = {"crs": "EPSG:32633", "transform": Affine(10, 0, 5e5, 0, -10, 5e6)}
    colours = {"photometric": "rgb"} if count == 3 else {}
    with rasterio.open(
        path, "w", driver="GTiff", count=count, height=height, width=width, dtype="uint8", **place, **colours
    ) as out:
        out.write(array)


def job(tmp_path, run_folder, **more):
    words = {"window": 8, "halo": 1, "batch_size": 2, "precision": "fp32", "device": "cpu"}
    return BatchJob.model_validate(
        {
            "scenes": [str(tmp_path / "in" / "*.tif")],
            "output": str(tmp_path / "out" / "{name}.tif"),
            "backbone": str(run_folder),
        }
        | words
        | more
    )


def land_job(tmp_path, run_folder, model, output):
    """A land-cover map of every scene by a saved model."""
    return BatchJob(
        task="segment",
        scenes=[str(tmp_path / "in" / "*.tif")],
        model=model,
        output=str(tmp_path / output / "{name}-land.tif"),
        backbone=str(run_folder),
        device="cpu",
        precision="fp32",
    )


def digests(folder):
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and "batch" not in p.name
    }
