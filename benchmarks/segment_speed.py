"""A few-shot map from an existing feature cube: trained and written, against the bare read of the cube.

    python benchmarks/segment_speed.py [--side 10000] [--channels 384]

The cube is random float16 in the layout that `geodino features` writes; ten labelled points a class. The ratio is of
the whole job (read, train, classify 100 million pixels, write a COG with overviews) over reading the cube alone, in
the same run; the aim of the whole job is 2 s on an idle machine of two cores.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import _share_cores  # noqa: F401 - before torch
import numpy as np
from affine import Affine
from geodino.segmentation.cube_map import _read, segment_cube
from odc.geo.geobox import GeoBox

from geodino.dense.cube import CubeSpec, CubeWriter
from geodino.dense.stream import TokenRows
from geodino.heads.labels import Labels
from geodino.heads.legend import Legend

PATCH, CLASSES = 16, 5


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=10_000)
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

        writer = CubeWriter(CubeSpec(cube, tokens, options.channels, "float16", {}), {"benchmark": 1})
        for wanted in writer.missing():
            for _ in writer.write(stream(wanted)):
                pass
        writer.finish()
        row, col = rng.integers(0, options.side, size=(2, 4000))
        found = kinds[row // PATCH, col // PATCH]
        keep = np.concatenate([np.flatnonzero(found == k)[:10] for k in range(CLASSES)])
        labels = Labels(row[keep], col[keep], found[keep], np.arange(len(keep)), Legend.of(list("abcde")))
        bare, whole = [], []
        for number in range(options.rounds):
            started = time.perf_counter()
            _read(cube)
            bare.append(time.perf_counter() - started)
            started = time.perf_counter()
            segment_cube(cube, grid, labels, Path(folder) / f"map{number}.tif")
            whole.append(time.perf_counter() - started)
    one, other = min(bare), min(whole)
    print(
        f"few-shot map of {options.side} × {options.side} px from {options.channels} channels: {other / one:.2f} "
        f"× the bare read of the cube ({other:.2f} s and {one:.2f} s, best of {options.rounds}; "
        f"medians {statistics.median(whole):.2f} s and {statistics.median(bare):.2f} s)"
    )


if __name__ == "__main__":
    main()
