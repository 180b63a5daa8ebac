"""What Gram anchoring changes: one recipe trained twice from the same seed, with and without it.

    python docs/experiments/gram_anchoring.py TILES -o OUT [--steps 250] [--dense FOLDER]...

TILES is a tile set of `geodino tile` with labels (its drift monitor's nearest neighbours use them); a FOLDER holds
images/ and masks/ and is probed with one linear layer on frozen patch tokens (`geodino eval --protocol segmentation`).
Both runs share crops, masks, order and first weights, and are the same run until the Gram teacher first appears. An
interrupted experiment goes on where it stopped. The tables are printed as Markdown.
"""

import argparse
import csv
from pathlib import Path

from geodino.backbones.backbone import load_backbone
from geodino.evaluation.open import open_data
from geodino.evaluation.run import EvaluationSettings, Protocol, evaluate
from pretrain.engine.run import Run, pretrain
from pretrain.recipes.loading import load_recipe
from tiles.archive.dataset import TileDataset

ARMS = {"with": [], "without": ["gram.weight=0", "crops.gram_scale=null"]}
MEASURES = (
    "drift_cls_patch_cosine",
    "drift_similarity_near",
    "drift_similarity_far",
    "drift_locality",
    "drift_teacher_entropy",
    "drift_prototype_balance",
    "drift_nearest_distance",
    "drift_knn",
)


def main() -> None:
    """Train both, measure both, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tiles", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--recipe", default="tiny")
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--dense", type=Path, action="append", default=[])
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    tiles = TileDataset(options.tiles)
    for arm, changes in ARMS.items():
        shared = [
            f"max_steps={options.steps}",
            f"monitor.every={max(1, options.steps // 5)}",
            f"monitor.knn={options.tiles}",
            "checkpoint_every=50",
        ]
        recipe = load_recipe(options.recipe, [*shared, *options.settings, *changes])
        pretrain(Run(tiles, str(options.tiles), options.output / arm, recipe), resume=True, show=True)
    print(_drift(options.output))
    print(_probes(options.output, options.dense))


def _drift(output: Path) -> str:
    """Each measure of the monitor over the steps of both runs."""
    rows = {}
    for arm in ARMS:
        with (output / arm / "drift.csv").open() as file:
            rows[arm] = list(csv.DictReader(file))
    steps = [row["step"] for row in rows["with"]]
    lines = ["| measure | Gram | " + " | ".join(f"step {step}" for step in steps) + " |"]
    lines.append("|---|---|" + "---|" * len(steps))
    for measure in MEASURES:
        for arm in ARMS:
            values = " | ".join(f"{float(row[measure]):.3f}" for row in rows[arm])
            lines.append(f"| {measure.removeprefix('drift_').replace('_', ' ')} | {arm} | {values} |")
    return "\n".join(lines) + "\n"


def _probes(output: Path, folders: list[Path]) -> str:
    """Mean IoU of a linear layer on frozen patch tokens, with its 95 % interval."""
    lines = ["| dense probe | Gram | mIoU | 95 % interval | test images |", "|---|---|---|---|---|"]
    for folder in folders:
        images = open_data(str(folder))
        for arm in ARMS:
            backbone = load_backbone(output / arm)
            settings = EvaluationSettings(protocols=(Protocol.segmentation,), with_floors=arm == "with")
            for found in evaluate(backbone, images, settings, output / "evaluation", arm):
                interval = f"{found.low:.3f} to {found.high:.3f}"
                name = f"floor: {found.model}" if found.floor else arm
                lines.append(f"| {found.dataset} | {name} | {found.value:.3f} | {interval} | {found.test} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
