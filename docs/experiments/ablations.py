"""What each part of the packaged backbone's recipe does in a short run: one change at a time, same seed and steps.

    python docs/experiments/ablations.py TILES DATA -o OUT [--steps 150] [--arm NAME]...

TILES is a tile set, DATA labelled images that are not for testing (``fit.zip`` of ``packaged_backbone.py``, or a part
of it): kNN and linear accuracy are those of ``geodino eval`` on its own split. An interrupted experiment goes on where
it stopped. The table is printed as Markdown.
"""

import argparse
from pathlib import Path

from geodino.backbones.backbone import load_backbone
from geodino.evaluation.open import open_data
from geodino.evaluation.run import EvaluationSettings, Protocol, evaluate
from pretrain.engine.run import Run, pretrain
from pretrain.recipes.loading import load_recipe
from tiles.archive.dataset import TileDataset

ARMS = {
    "the recipe": [],
    "random patch filters": ["backbone.whiten_patches=false"],
    "ImageNet normalisation": ["normalization=imagenet"],
    "no local crops": ["crops.local_count=0"],
    "eight local crops": ["crops.local_count=8"],
    "without iBOT": ["ibot.weight=0"],
    "without KoLeo": ["koleo.weight=0"],
    "with Gram anchoring": ["gram.weight=1", "crops.gram_scale=1", "gram.first_update=0.3", "gram.every=0.3"],
    "teacher temperature 0.06": ["teacher.temperature=0.06"],
    "centring at 0.04": ["teacher.centering=softmax", "teacher.center_momentum=0.97", "teacher.temperature=0.04"],
    "patches of 16 pixels": [
        "backbone.arguments.patch_size=16",
        "crops.global_size=64",
        "crops.local_size=32",
        "crops.global_scale=[0.25, 1]",
    ],
}


def main() -> None:
    """Train every arm, measure it, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tiles", type=Path)
    parser.add_argument("data")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--arm", action="append", choices=list(ARMS), help="only these")
    options = parser.parse_args()
    tiles, images = TileDataset(options.tiles), open_data(options.data)
    settings = EvaluationSettings(protocols=(Protocol.knn, Protocol.linear), with_floors=False)
    print("| " + " | ".join(["", "kNN-5", "linear"]) + " |\n|---|---|---|", flush=True)
    for arm in options.arm or ARMS:
        folder = options.output / arm.replace(" ", "_")
        shared = [f"max_steps={options.steps}", "monitor.every=0", "checkpoint_every=50", "backbone.compile=false"]
        recipe = load_recipe("sentinel", [*shared, *ARMS[arm]])
        pretrain(Run(tiles, str(options.tiles), folder, recipe), resume=True)
        found = list(evaluate(load_backbone(folder), images, settings, folder / "evaluation"))
        cells = []
        for protocol in (Protocol.knn, Protocol.linear):
            row = next(row for row in found if row.protocol == protocol and "k=20" not in row.setting)
            cells.append(f"{100 * row.value:.1f} [{100 * row.low:.1f}, {100 * row.high:.1f}]")
        print(f"| {arm} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
