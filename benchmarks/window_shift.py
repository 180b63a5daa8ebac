"""How much a token depends on where windows fall: cosine of the same token when every window lies elsewhere.

    python benchmarks/window_shift.py [SCENE] [--backbone BACKBONE] [--windows 24,4 36,2]

The scene (by default the demo's Great Salt Lake) is encoded in blended windows, then again from a few tokens further
down and to the right on. The same ground then lies elsewhere in its windows, with other things beside it; a map shows
what differs as seams. Printed for each window and halo: the mean and the 5th percentile of the cosine, the cosine of
tokens of different places beside it, and the time over that of the first windows.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from rasterio.windows import Window
from segment_quality import encode_windows

from geodino.backbones.backbone import load_backbone
from geodino.backbones.normalize import standardize
from geodino.demo.imagery import salt_lake
from geodino.dense.settings import DenseSettings
from geodino.process import settle_process
from tiles.scenes.opening import open_scene
from tiles.scenes.reader import SceneReader

# Tokens down and to the right.
_SHIFTS = ((3, 7), (7, 3), (11, 13), (5, 18))
# Tokens along the scene's edges that are left out: no neighbouring window has a say there.
_EDGE = 20


def main() -> None:
    """Encode and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scene", nargs="?")
    parser.add_argument("--backbone", default="packaged")
    parser.add_argument("--windows", nargs="+", default=["24,4", "24,3", "16,3", "32,4", "36,2"])
    options = parser.parse_args()
    settle_process()
    backbone = load_backbone(options.backbone, device="cpu")
    with tempfile.TemporaryDirectory() as folder:
        scene = open_scene(options.scene or str(salt_lake(Path(folder)).path)).select(backbone.bands)
        with SceneReader(scene) as reader:
            pixels = reader.read(Window(0, 0, scene.width, scene.height))
    x = torch.from_numpy(np.asarray(standardize(pixels.values, pixels.valid, backbone.normalization)))

    def encode(down: int, right: int, settings: DenseSettings) -> np.ndarray:
        side = backbone.patch_size
        rows, cols = x.shape[1] // side, x.shape[2] // side
        part = x[:, down * side : rows * side, right * side : cols * side]
        return encode_windows(backbone, part, settings, np.ones((rows - down, cols - right), bool))

    print(f"backbone {backbone.name} ({backbone.hash[:8]}), {scene.height} x {scene.width} pixels\n")
    print("| window, halo | same token, elsewhere in its window | 5th percentile | other tokens | time |")
    print("|---|---|---|---|---|")
    first = None
    encode(0, 0, DenseSettings().resolved(backbone))  # so that no window pays for what is done once
    for text in options.windows:
        window, halo = map(int, text.split(","))
        settings = DenseSettings(window=window, halo=halo).resolved(backbone)
        start = time.perf_counter()
        tokens = encode(0, 0, settings)
        took = time.perf_counter() - start
        first = first or took
        same, other = [], []
        for down, right in _SHIFTS:
            moved = encode(down, right, settings)[:, _EDGE:-_EDGE, _EDGE:-_EDGE]
            here = tokens[:, down + _EDGE : -_EDGE, right + _EDGE : -_EDGE]
            same.append((here * moved).sum(0).ravel())
            far = np.roll(moved, (moved.shape[1] // 2, moved.shape[2] // 2), (1, 2))
            other.append((here * far).sum(0).ravel())
        likeness = np.concatenate(same)
        print(
            f"| {window}, {halo} | {likeness.mean():.3f} | {np.percentile(likeness, 5):.3f} "
            f"| {np.concatenate(other).mean():.3f} | {took / first:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
