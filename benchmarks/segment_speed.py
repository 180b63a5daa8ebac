"""A few-shot map from the labels and the feature cube of a scene, against the bare read of cube and scene.

    python benchmarks/segment_speed.py [--side 4096] [--channels 384]

The cube is random float16 in the layout that `geodino features` writes; ten labelled points a class. The ratio is of
the whole job (read, train, classify, write a COG with overviews) over reading the cube and the scene alone, in the same
run.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import _share_cores  # noqa: F401 - before torch
import numpy as np
import rasterio
from affine import Affine
from odc.geo.geobox import GeoBox

from geodino.dense.cube import CubeSpec, CubeWriter
from geodino.dense.settings import DenseSettings
from geodino.dense.stream import TokenRows
from geodino.dense.tokens import tokens_from_cube
from geodino.heads.labels import Labels
from geodino.heads.legend import Legend
from geodino.segmentation.pipeline import SegmentationOutputs, SegmentationQuestion, segment_scene
from tiles.scenes.opening import open_scene

PATCH, CLASSES = 16, 5


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=4096)
    parser.add_argument("--channels", type=int, default=384)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    grid = GeoBox((options.side, options.side), Affine(10, 0, 500_000, 0, -10, 4_000_000), "EPSG:32618")
    side = -(-options.side // PATCH)
    tokens = GeoBox((side, side), grid.affine @ Affine.scale(PATCH), grid.crs)
    with tempfile.TemporaryDirectory() as folder:
        cube = Path(folder) / "cube.zarr"
        centres = rng.normal(size=(CLASSES, options.channels)).astype(np.float32)
        rows, cols = np.mgrid[:side, :side] / side
        kinds = ((np.sin(9 * rows) + np.cos(7 * cols + 3 * rows) + 2) * 1.2).astype(int).clip(0, CLASSES - 1)

        def stream(wanted: range) -> object:
            for start in range(wanted.start, wanted.stop, 32):
                here = kinds[start : min(start + 32, wanted.stop)]
                values = centres[here].transpose(2, 0, 1) + rng.normal(size=(options.channels, *here.shape))
                values /= np.linalg.norm(values, axis=0)
                high = here.shape[0] * PATCH
                mask = np.ones((high, options.side), bool)
                yield TokenRows(start, values.astype(np.float32), np.ones(here.shape, bool), mask)

        tags = {
            "GEODINO_BACKBONE": "random",
            "GEODINO_BACKBONE_HASH": "0",
            "GEODINO_BANDS": ["red", "green", "blue"],
            "GEODINO_NORMALIZATION": {"mean": [0.5] * 3, "std": [0.25] * 3},
            "GEODINO_SETTINGS": DenseSettings().identity(),
        }
        writer = CubeWriter(CubeSpec(cube, tokens, options.channels, "float16", tags), {"benchmark": 1})
        for wanted in writer.missing():
            for _ in writer.write(stream(wanted)):
                pass
        writer.finish()
        path = Path(folder) / "scene.tif"
        with rasterio.open(
            path, "w", driver="GTiff", width=options.side, height=options.side, count=3, dtype="uint8",
            crs="EPSG:32618", transform=grid.affine, tiled=True, compress="zstd", photometric="RGB",
        ) as out:  # fmt: skip
            colours = rng.integers(30, 220, (CLASSES, 3))
            for band in range(3):
                pixels = colours[kinds, band].repeat(PATCH, 0).repeat(PATCH, 1)[: options.side, : options.side]
                out.write((pixels + rng.integers(-9, 9, pixels.shape)).astype(np.uint8), band + 1)
        scene = open_scene(path)
        row, col = rng.integers(0, options.side, size=(2, 4000))
        found = kinds[row // PATCH, col // PATCH]
        keep = np.concatenate([np.flatnonzero(found == k)[:10] for k in range(CLASSES)])
        labels = Labels(row[keep], col[keep], found[keep], np.arange(len(keep)), Legend.of(list("abcde")))
        bare, whole = [], []
        for number in range(options.rounds):
            started = time.perf_counter()
            held = tokens_from_cube(cube, scene).tokens()
            for start in range(0, side, 64):
                held.read(start, min(start + 64, side))
            with rasterio.open(path) as file:
                file.read()
            bare.append(time.perf_counter() - started)
            started = time.perf_counter()
            outputs = SegmentationOutputs(Path(folder) / f"map{number}.tif")
            segment_scene(scene, tokens_from_cube(cube, scene), outputs, SegmentationQuestion(labels))
            whole.append(time.perf_counter() - started)
    one, other = min(bare), min(whole)
    print(
        f"few-shot map of {options.side} × {options.side} px from {options.channels} channels: {other / one:.2f} "
        f"× the bare read of cube and scene ({other:.2f} s and {one:.2f} s, best of {options.rounds}; "
        f"medians {statistics.median(whole):.2f} s and {statistics.median(bare):.2f} s)"
    )


if __name__ == "__main__":
    main()
