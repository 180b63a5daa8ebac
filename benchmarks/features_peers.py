"""Speed and seams beside terratorch's and geoai's tiled inference: same timm model, weights, tile size and precision.

Neither peer is a dependency. Install them with geodino into an environment of their own and run this file there:

    pip install terratorch geoai-py -e . && python benchmarks/features_peers.py

Each way turns the same file into the same kind of map: K scores (a fixed linear head on unit-length tokens) brought to
the pixels, in memory beside terratorch and in a file beside geoai. Prints the peers' time over ours, alternating, and
how much larger the step between neighbouring columns is across the borders of tiles than elsewhere at the same phase of
the patch (1.00 = no seam), mean and worst.
"""

import argparse
import importlib.util
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import _share_cores  # noqa: F401 - before torch
import numpy as np
import numpy.typing as npt
import rasterio
import torch
from rasterio.transform import from_origin
from rasterio.windows import Window
from torch import Tensor, nn
from torch.nn import functional

from geodino.backbones.backbone import Backbone, load_backbone, untrained_backbone
from geodino.backbones.normalize import standardize
from geodino.dense.settings import DenseSettings
from geodino.dense.stream import encode_unit, stream_tokens
from tiles.scenes.opening import open_scene
from tiles.scenes.scene import Scene
from tiles.writing.cog import CogWriter
from tiles.writing.stitch import upsample_rows

TILE, OVERLAP, SCORES, BATCH = 512, 64, 8, 4
Scores = npt.NDArray[np.float32]


def settings_for(backbone: Backbone) -> DenseSettings:
    """The same tiles and overlaps as the peers have, counted in this backbone's patches."""
    patch = backbone.patch_size
    return DenseSettings(window=TILE // patch, halo=OVERLAP // (2 * patch), batch_size=BATCH)


class PixelScores(nn.Module):
    """What the peers call: standardised pixels in, scores at the pixels out."""

    def __init__(self, backbone: Backbone, head: Tensor) -> None:
        super().__init__()
        self.backbone, self.head, self.settings = backbone, head, settings_for(backbone)

    @torch.inference_mode()
    def forward(self, x: Tensor) -> Tensor:
        """``[B, 3, H, W]`` to ``[B, K, H, W]``."""
        tokens = encode_unit(self.backbone, x, self.settings)
        scores = torch.einsum("kd,bdhw->bkhw", self.head, tokens)
        return functional.interpolate(
            scores, scale_factor=self.backbone.patch_size, mode="bilinear", align_corners=False
        )


def make_scene(path: Path, side: int) -> Path:
    """Smooth structure at many scales under noise: what a window sees at its edge depends on the rest of it."""
    rng = np.random.default_rng(0)
    total = np.zeros((3, side, side))
    for step in (256, 64, 16, 4):
        coarse = torch.from_numpy(rng.standard_normal((1, 3, side // step + 2, side // step + 2)))
        total += functional.interpolate(coarse, size=(side, side), mode="bicubic")[0].numpy()
    array = np.clip(110 + 35 * total, 1, 255).astype(np.uint8)
    return write_scene(path, array)


def cut_scene(path: Path, source: str, side: int) -> Path:
    """The upper left part of a raster whose first three bands are red, green and blue in 8 bits."""
    with rasterio.open(source) as file:
        return write_scene(path, file.read((1, 2, 3), window=Window(0, 0, side, side)))


def write_scene(path: Path, array: npt.NDArray[np.uint8]) -> Path:
    """Write ``[3, H, W]`` as all ways read it."""
    options = {"tiled": True, "blockxsize": 512, "blockysize": 512, "compress": "DEFLATE", "photometric": "RGB"}
    place = {"crs": "EPSG:32633", "transform": from_origin(5e5, 5e6, 10, 10)}
    height, width = array.shape[1:]
    with rasterio.open(
        path, "w", driver="GTiff", count=3, height=height, width=width, dtype="uint8", **options, **place
    ) as out:
        out.write(array)
    return path


def ours(scene: Scene, backbone: Backbone, head: Scores) -> Iterator[tuple[int, Scores]]:
    """Stream, project, bring to the pixels."""
    stream = stream_tokens(scene, backbone, settings_for(backbone))
    rows = (np.einsum("kd,dhw->khw", head, r.features) for r in stream)
    return upsample_rows(rows, backbone.patch_size, scene.height, scene.width)


def ours_in_memory(scene: Scene, backbone: Backbone, head: Scores) -> Scores:
    """As an array, like terratorch's."""
    return np.concatenate([piece for _, piece in ours(scene, backbone, head)], axis=1)


def ours_to_file(scene: Scene, backbone: Backbone, head: Scores, folder: Path) -> Scores:
    """As a COG with overviews; geoai's has none."""
    out = folder / "geodino.tif"
    options = {"dtype": "float32", "nodata": float("nan"), "count": len(head), "overwrite": True}
    with CogWriter(out, scene.geobox, **options) as writer:
        for row, piece in ours(scene, backbone, head):
            writer.write(row, piece)
    with rasterio.open(out) as file:
        return file.read()


def read_standardised(scene: Scene, backbone: Backbone) -> Tensor:
    """The whole scene in memory, as the peers' users do."""
    with rasterio.open(scene.source) as file:
        values = file.read().astype(np.float32) / 255
    return torch.from_numpy(standardize(values, None, backbone.normalization))[None]


def terratorch_way(scene: Scene, model: PixelScores) -> Scores:
    """Terratorch's tiled inference with its own padding, border crop and blending."""
    from terratorch.tasks.tiled_inference import tiled_inference

    image = read_standardised(scene, model.backbone)
    found = tiled_inference(model, image, crop=TILE, stride=TILE - OVERLAP, batch_size=BATCH, delta=8)
    return found[0].numpy()


def geoai_way(scene: Scene, model: PixelScores, folder: Path) -> Scores:
    """Geoai's tiled prediction of a raster, with its cosine blending, as probabilities."""
    from geoai.inference import predict_geotiff

    mean = torch.tensor(model.backbone.normalization.mean)[:, None, None]
    std = torch.tensor(model.backbone.normalization.std)[:, None, None]

    class Raw(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return model((x - mean) / std)

    out = folder / "geoai.tif"
    predict_geotiff(
        model=Raw(),
        input_raster=str(scene.source),
        output_raster=str(out),
        tile_size=TILE,
        overlap=OVERLAP,
        batch_size=BATCH,
        num_classes=SCORES,
        preprocess_fn=lambda tile: tile.astype(np.float32) / 255,
        blend_mode="cosine",
        device="cpu",
        verbose=False,
    )
    with rasterio.open(out) as file:
        return file.read().astype(np.float32)


def seam(scores: Scores, borders: list[int], patch: int) -> tuple[float, float]:
    """Step across tile borders over the median step elsewhere at the same phase of the patch: mean and worst."""
    steps = np.abs(np.diff(scores, axis=2)).mean((0, 1))
    near = {b + d for b in borders for d in (-1, 0, 1)}
    found = []
    for border in borders:
        if patch < border < len(steps) - patch:
            here = max((border - 1, border, border + 1), key=lambda c: steps[c])
            phase = range(here % patch + patch, len(steps) - patch, patch)
            same = [steps[c] for c in phase if c not in near]
            found.append(float(steps[here] / max(np.median(same), 1e-12)))
    return statistics.mean(found), max(found)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scene", help="raster of red, green and blue in 8 bits, cut to the side; made if not given")
    parser.add_argument("--backbone", help="ViT-S/16 with random weights if not given")
    options = parser.parse_args()
    peers = [name for name in ("terratorch", "geoai") if importlib.util.find_spec(name)]
    if not peers:
        print("peers: neither terratorch nor geoai is installed here; the head of this file says how")
        return
    precision = {"device": "cpu", "precision": "fp32"}
    backbone = (
        load_backbone(options.backbone, **precision)
        if options.backbone
        else untrained_backbone("vit_small_patch16_dinov3", **precision)
    )
    head = torch.from_numpy(np.random.default_rng(1).standard_normal((SCORES, backbone.embed_dim)).astype(np.float32))
    model = PixelScores(backbone, head).eval()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / "scene.tif"
        made = cut_scene(path, options.scene, options.side) if options.scene else make_scene(path, options.side)
        scene = open_scene(made)
        ways: dict[str, Callable[[], Scores]] = {}
        if "terratorch" in peers:
            ways["geodino"] = lambda: ours_in_memory(scene, backbone, head.numpy())
            ways["terratorch"] = lambda: terratorch_way(scene, model)
        if "geoai" in peers:
            ways["geodino to a file"] = lambda: ours_to_file(scene, backbone, head.numpy(), folder)
            ways["geoai"] = lambda: geoai_way(scene, model, folder)
        times: dict[str, list[float]] = {way: [] for way in ways}
        maps: dict[str, Scores] = {}
        for _ in range(options.rounds):
            for way, work in ways.items():
                start = time.perf_counter()
                maps[way] = work()
                times[way].append(time.perf_counter() - start)
        stride = TILE - OVERLAP
        starts = [*range(0, options.side - TILE, stride), options.side - TILE]
        # A tile's own edges, and 8 pixels inside them, where terratorch crops.
        borders = sorted(
            {edge - 1 + d for s in starts for edge in (s, s + TILE) for d in (-8, 0, 8)} & set(range(options.side))
        )
        for way, found in maps.items():
            mean, worst = seam(found, borders, backbone.patch_size)
            print(f"peers: steps across tile borders over the interior, {way}: mean {mean:.2f}, worst {worst:.2f}")
        for mine, theirs in (("geodino", "terratorch"), ("geodino to a file", "geoai")):
            if theirs in times:
                ratios = [b / a for a, b in zip(times[mine], times[theirs], strict=True)]
                best = min(times[theirs]) / min(times[mine])
                spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
                print(f"peers: {theirs}'s time / ours = {best:.2f} of the best times ({spread})")


if __name__ == "__main__":
    main()
