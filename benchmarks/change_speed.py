"""What a change map costs beside the features of one date, and what another threshold costs after it.

    python benchmarks/change_speed.py [--side 2048] [--backbone BACKBONE] [--rounds 3]

Two made dates of one place, RGB uint8. In turn, in one run: `features` of the first date (Zarr, float16), `change` of
both (fused, score kept), and `change` once more with another threshold on the kept score. Aims: 2.1 and 0.5 s.
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
from scipy.ndimage import gaussian_filter

import geodino
from geodino.backbones.backbone import Backbone, load_backbone, untrained_backbone
from tiles.scenes.opening import open_scene


def write_dates(folder: Path, side: int) -> tuple[Path, Path]:
    """Smooth textured ground, and the same under other light with one field changed and sensor noise."""
    rng = np.random.default_rng(0)
    ground = np.stack(
        [gaussian_filter(rng.normal(size=(side, side)).astype(np.float32), 2 + band) for band in range(3)]
    )
    ground = 110 + 25 * ground / ground.std(axis=(1, 2), keepdims=True)
    later = ground.copy()
    field = np.s_[:, side // 4 : side // 2, side // 4 : side // 2]
    later[field] = 255 - later[field]
    paths = folder / "before.tif", folder / "after.tif"
    for path, values, gain in zip(paths, (ground, later), (1.0, 1.1), strict=True):
        noisy = values * gain + rng.normal(0, 2, values.shape)
        with rasterio.open(
            path, "w", driver="GTiff", height=side, width=side, count=3, dtype="uint8", crs="EPSG:32618",
            transform=Affine(10, 0, 500_000, 0, -10, 4_000_000), photometric="RGB", tiled=True, compress="deflate",
        ) as out:  # fmt: skip
            out.write(noisy.clip(1, 255).astype(np.uint8))
    return paths


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=2048)
    parser.add_argument("--backbone", help="default: an untrained ViT-S/16")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    backbone: Backbone = (
        load_backbone(options.backbone) if options.backbone else untrained_backbone("vit_small_patch16_dinov3_qkvb")
    )
    times: dict[str, list[float]] = {"features": [], "change": [], "threshold": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        dates = [open_scene(path) for path in write_dates(folder, options.side)]
        for number in range(options.rounds):
            score = folder / f"score{number}.tif"
            jobs = {
                "features": lambda n=number: geodino.features(dates[0], folder / f"f{n}.zarr", backbone=backbone),
                "change": lambda n=number, s=score: geodino.change(
                    *dates, folder / f"c{n}.tif", score=s, backbone=backbone
                ),
                "threshold": lambda n=number, s=score: geodino.change(
                    *dates, folder / f"t{n}.tif", score=s, threshold=5.0, backbone=backbone
                ),
            }
            for job, run in jobs.items():
                started = time.perf_counter()
                run()
                times[job].append(time.perf_counter() - started)
    best = {job: min(values) for job, values in times.items()}
    ratios = [c / f for c, f in zip(times["change"], times["features"], strict=True)]
    print(
        f"{backbone.name}, {backbone.patch_size}-pixel patches, {options.side} × {options.side} pixels: change is "
        f"{best['change'] / best['features']:.2f} × features of one date (best of {options.rounds}; "
        f"median of ratios {statistics.median(ratios):.2f}; {best['change']:.1f} s and {best['features']:.1f} s); "
        f"another threshold {best['threshold']:.2f} s"
    )


if __name__ == "__main__":
    main()
