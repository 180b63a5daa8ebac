"""Dense features end to end over the bare model, on the same windows, precision and batch, alternating in one run.

Prints the ratio of pixels per second for a ViT-S and a ViT-L shape and for Zarr and COG outputs, and for the bare
stream without an output, so that a loss can be told apart. End to end is decoding, standardising, blending and writing.
"""

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import rasterio
import torch
from rasterio.transform import from_origin

from geodino.backbone import Backbone, untrained_backbone
from geodino.dense import DenseSettings, encode_unit, stream_tokens, token_grid
from geodino.extraction import Extraction
from tiles.scene import Scene, open_scene
from tiles.stitch import Axis


def make_scene(path: Path, height: int, width: int) -> Scene:
    """A tiled, compressed raster of smooth noise, which decodes about as fast as imagery does."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 200, (3, height // 16 + 1, width // 16 + 1), dtype=np.uint8)
    array = coarse.repeat(16, 1).repeat(16, 2)[:, :height, :width] + rng.integers(
        0, 40, (3, height, width), dtype=np.uint8
    )
    profile = {"tiled": True, "blockxsize": 512, "blockysize": 512, "compress": "DEFLATE", "photometric": "RGB"}
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        count=3,
        height=height,
        width=width,
        dtype="uint8",
        crs="EPSG:32633",
        transform=from_origin(5e5, 5e6, 10, 10),
        **profile,
    ) as out:
        out.write(array)
    return open_scene(path)


def bare(backbone: Backbone, scene: Scene, settings: DenseSettings) -> Callable[[], None]:
    """The model alone over as many windows of as many pixels in the same batches, from memory."""
    grid = token_grid(scene, backbone, settings)
    down, across = (Axis(n, settings.window, 2 * settings.halo) for n in (grid.rows, grid.columns))
    count = len(down.starts) * len(across.starts)
    side = grid.pixels
    window = torch.randn(settings.batch_size or 1, len(backbone.bands), down.size * side, across.size * side)

    def run() -> None:
        left = count
        while left:
            batch = min(left, len(window))
            encode_unit(backbone, window[:batch], settings)
            left -= batch

    return run


def seconds(work: Callable[[], object]) -> npt.NDArray[np.float64]:
    """Wall time of one call, and processor time of all its threads, which a busy machine distorts less."""
    wall, processor = time.perf_counter(), time.process_time()
    work()
    return np.array([time.perf_counter() - wall, time.process_time() - processor])


def drain(scene: Scene, backbone: Backbone, settings: DenseSettings) -> None:
    """Stream the features to nowhere."""
    for _ in stream_tokens(scene, backbone, settings):
        pass


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="a smaller scene and ViT-S only")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", type=int, default=2100, help="side of the scene in pixels; half of it for ViT-L")
    options = parser.parse_args()
    shapes = {"ViT-S": ("vit_small_patch16_dinov3", 1100 if options.small else options.size)}
    if not options.small:
        shapes["ViT-L"] = ("vit_large_patch16_dinov3", options.size // 2)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for label, (architecture, size) in shapes.items():
            backbone = untrained_backbone(architecture)
            settings = DenseSettings().resolved(backbone)
            scene = make_scene(folder / f"{label}.tif", size, size)

            def extract(suffix: str) -> None:
                output = folder / f"out{suffix}"
                Extraction.plan(scene, backbone, output, settings).run(overwrite=True)  # noqa: B023 - called at once
                shutil.rmtree(output) if output.is_dir() else output.unlink()

            ways: dict[str, Callable[[], object]] = {
                "stream": lambda: drain(scene, backbone, settings),  # noqa: B023
                "zarr": lambda: extract(".zarr"),
                "int8 cog": lambda: extract(".tif"),
            }
            model = bare(backbone, scene, settings)
            model()
            ratios: dict[str, list[npt.NDArray[np.float64]]] = {way: [] for way in ways}
            for _ in range(options.rounds):
                for way, work in ways.items():
                    # The bare model before and after: what else the machine does meanwhile falls on both alike.
                    before, whole, after = seconds(model), seconds(work), seconds(model)
                    ratios[way].append((before + after) / 2 / whole)
            for way, found in ratios.items():
                wall, processor = np.transpose(found)
                print(
                    f"features {label} {way}: end to end / bare model = {statistics.median(wall):.2f} "
                    f"({min(wall):.2f} to {max(wall):.2f}; by processor time {statistics.median(processor):.2f}; "
                    f"{str(backbone.dtype).removeprefix('torch.')}, batch {settings.batch_size}, "
                    f"{torch.get_num_threads()} threads)",
                    flush=True,
                )


if __name__ == "__main__":
    main()
