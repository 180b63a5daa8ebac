"""How fast the packaged backbone segments, beside the bare model: megapixels a second and their ratio.

    python benchmarks/packaged_speed.py [--side 2048] [--rounds 3] [--window TOKENS] [--halo TOKENS]

A saved head on a made scene of RGB uint8, at the native token grid; `geodino segment` whole (opening, tokens, borders,
map and its overviews) and the bare model over as many windows from memory, in turn. Also the stream of tokens alone.
Aim: 1 megapixel a second on two cores that compute in bf16.
"""

import argparse
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path

import _share_cores  # noqa: F401 - before torch
import geopandas
import numpy as np
from shapely.geometry import Point

import geodino
from geodino.backbones.backbone import load_backbone
from geodino.dense.settings import DenseSettings

from features import bare, drain, make_scene, seconds  # isort: skip - the neighbour, when run as a script


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--window", type=int, help="other windows than the backbone's own, for the stream alone")
    parser.add_argument("--halo", type=int)
    options = parser.parse_args()
    backbone = load_backbone()
    settings = replace(DenseSettings(), window=options.window, halo=options.halo).resolved(backbone)
    megapixels = options.side**2 / 1e6
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        scene = make_scene(folder / "scene.tif", options.side, options.side)
        ways = {
            "bare model": bare(backbone, scene, settings),
            "tokens": lambda: drain(scene, backbone, settings),
        }
        if options.window is None and options.halo is None:
            places = np.random.default_rng(0).integers(0, options.side, (40, 2))
            points = [Point(*(scene.geobox.affine * (float(x) + 0.5, float(y) + 0.5))) for x, y in places]
            kinds = [str(number % 4) for number in range(len(points))]
            labels, model, target = folder / "labels.gpkg", folder / "head.safetensors", folder / "map.tif"
            geopandas.GeoDataFrame({"kind": kinds}, geometry=points, crs=scene.geobox.crs).to_file(labels)
            geodino.segment(scene, target, labels=labels, save_model=model, backbone=backbone)
            ways["segment"] = lambda: geodino.segment(scene, target, model=model, backbone=backbone, overwrite=True)
        times: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(options.rounds):
            for way, work in ways.items():
                times[way].append(float(seconds(work)[0]))
    middle = {way: statistics.median(found) for way, found in times.items()}
    for way, wall in middle.items():
        print(
            f"{way}: {megapixels / wall:.2f} Mpx/s, {middle['bare model'] / wall:.2f} of the bare model "
            f"(window {settings.window}, halo {settings.halo} tokens, {str(backbone.dtype).removeprefix('torch.')}, "
            f"{options.side} × {options.side} px, median of {options.rounds})"
        )


if __name__ == "__main__":
    main()
