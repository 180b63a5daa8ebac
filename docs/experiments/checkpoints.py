"""What the checkpoints of a run are worth: kNN-5 of its levelled tokens on labelled images that are not for testing.

    python docs/experiments/checkpoints.py RUN TILES DATA [--images 12000]

RUN is a folder of ``geodino pretrain``, TILES what it was trained on, DATA ``fit.zip`` of ``packaged_backbone.py``. Of
a seeded draw of images three quarters are the bank and a quarter is asked. Printed as Markdown, a row for each kept
checkpoint: class token, mean patch, and both, each of unit length.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from packaged_backbone import TILE_PIXELS

from geodino.backbones.backbone import Backbone, load_backbone, save_backbone
from geodino.backbones.card import CARD_FILE, read_card
from geodino.evaluation.dataset import ImageSet
from geodino.evaluation.extract import BackboneExtractor, batches
from geodino.evaluation.knn import knn_accuracy
from geodino.evaluation.open import open_data
from pretrain.after.level import level_tokens, sample_tokens
from pretrain.engine.checkpoint import checkpoints, load_checkpoint
from pretrain.recipes.loading import load_recipe
from tiles.archive.dataset import TileDataset

PREFIX = "backbone."


def describe(backbone: Backbone, images: ImageSet, chosen: np.ndarray) -> dict[str, torch.Tensor]:
    """Class token, mean patch and both of images, ``[N, D]`` or ``[N, 2 D]``, each part of unit length."""
    describe_batch = BackboneExtractor(backbone).describe
    found = [describe_batch(x) for x in batches(images, chosen, TILE_PIXELS, backbone.normalization, 250)]
    parts = torch.cat([one.summary for one in found]), torch.cat([one.mean for one in found])
    cls, mean = (torch.nn.functional.normalize(part.float(), dim=1) for part in parts)
    return {"CLS": cls, "mean patch": mean, "both": torch.cat([cls, mean], dim=1)}


def main() -> None:
    """Measure every checkpoint and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("tiles", type=Path)
    parser.add_argument("data")
    parser.add_argument("--images", type=int, default=12_000)
    options = parser.parse_args()
    tiles, images = TileDataset(options.tiles), open_data(options.data)
    chosen = np.random.default_rng(0).permutation(len(images))[: options.images]
    labels = np.asarray(images.labels)[chosen]
    crops = load_recipe(options.run / "recipe.yaml").crops
    bank = len(chosen) * 3 // 4
    print("| step | CLS | mean patch | both |\n|---|---|---|---|")
    for step, path in sorted(checkpoints(options.run / "checkpoints").items()):
        backbone = load_backbone(options.run, device="cpu", precision="fp32")
        state = load_checkpoint(path)["teacher"]
        own = {name.removeprefix(PREFIX): value for name, value in state.items() if name.startswith(PREFIX)}
        backbone.module.load_state_dict(own)
        level_tokens(backbone.module, sample_tokens(backbone, tiles, crops))
        with tempfile.TemporaryDirectory() as folder:
            save_backbone(backbone.module, read_card(options.run / CARD_FILE), Path(folder), dtype=torch.bfloat16)
            found = describe(load_backbone(folder, device="cpu"), images, chosen)
        cells = [
            f"{100 * knn_accuracy(x[:bank], labels[:bank], x[bank:], labels[bank:], k=5):.1f}" for x in found.values()
        ]
        print("| " + " | ".join([f"{step:,}", *cells]) + " |", flush=True)


if __name__ == "__main__":
    main()
