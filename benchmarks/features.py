"""Dense features end to end over the bare model, on the same windows, precision and batch, alternating in one run.

Prints the ratio of pixels per second for a ViT-S and a ViT-L shape and for Zarr and COG outputs; `--ways stream` adds
the stream without an output, so that a loss can be told apart. End to end is decoding, standardising, blending,
writing and renaming.
"""

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import _share_cores  # noqa: F401 - before torch
import numpy as np
import numpy.typing as npt
import rasterio
import torch
from rasterio.transform import from_origin

from geodino.backbones.backbone import Backbone, untrained_backbone
from geodino.dense.extraction import Extraction
from geodino.dense.settings import DenseSettings
from geodino.dense.stream import encode_unit, stream_tokens, token_grid
from tiles.scenes.opening import open_scene
from tiles.scenes.scene import Scene
from tiles.writing.stitch import Axis


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
    assert settings.window is not None and settings.halo is not None
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


def extract(scene: Scene, backbone: Backbone, settings: DenseSettings, output: Path) -> None:
    """Make a cube and throw it away."""
    Extraction.plan(scene, backbone, output, settings).run(overwrite=True)
    shutil.rmtree(output) if output.is_dir() else output.unlink()


def measure(label: str, backbone: Backbone, scene: Scene, folder: Path, rounds: int, ways: list[str]) -> None:
    """Time the ways in turn, the bare model before and after each, and print the ratios."""
    settings = DenseSettings().resolved(backbone)
    known: dict[str, Callable[[], object]] = {
        "stream": lambda: drain(scene, backbone, settings),
        "zarr": lambda: extract(scene, backbone, settings, folder / "out.zarr"),
        "int8 cog": lambda: extract(scene, backbone, settings, folder / "out.tif"),
    }
    model = bare(backbone, scene, settings)
    # Loading what writes a cube is part of starting up, and a long scene hides it: not part of the ratio.
    small = make_scene(folder / "small.tif", 64, 64)
    for suffix in (".zarr", ".tif"):
        extract(small, backbone, settings, folder / f"out{suffix}")
    times: dict[str, list[npt.NDArray[np.float64]]] = {way: [] for way in ways}
    bares = [seconds(model)]
    for _ in range(rounds):
        for way in ways:
            times[way].append(seconds(known[way]))
            bares.append(seconds(model))
    # A machine's speed drifts: each run is set against the mean of the bare runs just before and after it.
    for place, (way, found) in enumerate(times.items()):
        pairs = [
            (bares[turn * len(ways) + place] + bares[turn * len(ways) + place + 1]) / 2 / whole
            for turn, whole in enumerate(found)
        ]
        wall, processor = np.median(pairs, axis=0)
        print(
            f"features {label} {way}: end to end / bare model = {wall:.3f} by the clock ("
            f"{', '.join(f'{pair[0]:.2f}' for pair in pairs)}), {processor:.3f} by processor time ("
            f"{scene.height} × {scene.width} pixels, {str(backbone.dtype).removeprefix('torch.')}, "
            f"batch {settings.batch_size}, {torch.get_num_threads()} threads; bare model "
            f"{np.min(bares, axis=0)[0]:.1f} to {np.max(bares, axis=0)[0]:.1f} s)",
            flush=True,
        )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="a smaller scene and ViT-S only")
    parser.add_argument("--rounds", type=int, default=2, help="of ViT-S; ViT-L, whose scene takes longer, has one")
    parser.add_argument("--size", type=int, default=2100, help="side of the scene in pixels; half of it for ViT-L")
    parser.add_argument("--ways", nargs="+", default=["zarr", "int8 cog"], choices=["stream", "zarr", "int8 cog"])
    parser.add_argument("--shapes", nargs="+", default=["ViT-S", "ViT-L"], choices=["ViT-S", "ViT-L"])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if "ViT-S" in options.shapes:
            backbone = untrained_backbone("vit_small_patch16_dinov3")
            side = 1100 if options.small else options.size
            scene = make_scene(folder / "s.tif", side, side)
            measure("ViT-S", backbone, scene, folder, options.rounds, options.ways)
        if "ViT-L" in options.shapes and not options.small:
            backbone = untrained_backbone("vit_large_patch16_dinov3")
            scene = make_scene(folder / "l.tif", options.size // 2, options.size // 2)
            measure("ViT-L", backbone, scene, folder, 1, options.ways)


if __name__ == "__main__":
    main()
