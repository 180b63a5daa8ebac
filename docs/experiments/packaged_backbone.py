"""Train the packaged backbone again, from imagery to the two files in ``geodino/weights``.

``python docs/experiments/packaged_backbone.py EUROSAT_ZIP OUTPUT [SCENE...]`` makes, and after an interruption goes on
making:

1. OUTPUT/fit.zip, the images that ``geodino eval EUROSAT_ZIP`` with seed 0 does not test on, and OUTPUT/tiles, those
   and the scenes at 10 m. Labels go along for whoever sets ``monitor.knn``; no loss sees them;
2. OUTPUT/run, the recipe ``sentinel``, and OUTPUT/hires, which goes on from it with ``sentinel_hires``;
3. OUTPUT/levelled: the teacher in bf16, the directions of its tokens levelled (``pretrain.level``);
4. OUTPUT/evaluation, ``geodino eval`` of it beside its floors;
5. ``geodino/weights``: the same with its card.
"""

import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

import geodino.backbone
from geodino.backbone import load_backbone, save_backbone
from geodino.card import CARD_FILE, read_card
from geodino.evaluation.open import open_data
from geodino.evaluation.split import split
from geodino.normalize import standardize
from pretrain.level import level_tokens
from tiles.dataset import TileDataset

TILE_PIXELS = 64
LEVELLED_BY = 3000  # tiles
DATA = (
    "EuroSAT RGB (Helber et al. 2019, Sentinel-2, 10 m): the images that geodino eval does not test on with seed 0; "
    "Sentinel-2 L1C of 2018-10-13 from open-geo-tutorial and L2A T48QUE of 2020-02-23 from Major TOM; "
    "{tiles} tiles of 64 pixels"
)
LIMITS = (
    "Small and briefly trained: some thirty-six epochs on one processor, far from what hundreds give. Sentinel-2 RGB "
    "at 10 m of Europe, one scene of the eastern United States and one of south-east Asia; other sensors, bands and "
    "ground resolutions were never seen."
)


def run(*arguments: Any) -> None:
    """Run a geodino command."""
    subprocess.run([str(Path(sys.executable).with_name("geodino")), *map(str, arguments)], check=True)


def write_fit(source: Path, target: Path) -> None:
    """Copy the training and validation images of ``geodino eval``'s split into a zip."""
    images = open_data(str(source))
    partial = target.with_name(target.name + ".part")
    with zipfile.ZipFile(source) as whole, zipfile.ZipFile(partial, "w") as part:
        for i in split(images, seed=0).fit:
            name = images.keys[i]
            part.writestr("/".join(Path(name).parts[-2:]), whole.read(name))
    partial.replace(target)


def summary(results: Path) -> dict[str, Any]:
    """Accuracies of the backbone on EuroSAT's test images with their 95 % intervals, by protocol and setting."""
    return {
        f"eurosat_rgb {row['protocol']} {row['setting']}": [round(row[key], 4) for key in ("value", "low", "high")]
        for row in json.loads(results.read_text())
        if not row["floor"] and row["metric"] == "accuracy"
    }


def level(trained: Path, tiles: TileDataset, target: Path) -> None:
    """Level the tokens of a run's teacher by those of a seeded sample of its tiles; bf16."""
    backbone = load_backbone(trained, device="cpu", precision="fp32")
    chosen = np.sort(np.random.default_rng(0).permutation(len(tiles))[:LEVELLED_BY])
    read = tiles.read_batch(chosen)
    pixels = torch.from_numpy(standardize(read.values, read.valid, backbone.normalization))
    tokens = [backbone.encode(part).patches.flatten(2).mT.flatten(0, 1) for part in pixels.split(100)]
    level_tokens(backbone.module, torch.cat(tokens))
    save_backbone(backbone.module, read_card(trained / CARD_FILE), target, dtype=torch.bfloat16)


def pack(source: Path, runs: tuple[Path, ...], metrics: dict[str, Any], target: Path) -> None:
    """Write a backbone in bf16, and a card that tells what it is worth and how long its runs took."""
    backbone = load_backbone(source, device="cpu", precision="fp32")
    card = read_card(source / CARD_FILE)
    card = card.model_copy(
        update={
            "name": "geodino-sentinel",
            "data": DATA.format(tiles=card.data.split()[0]),
            "licence": "Apache-2.0",
            "metrics": metrics,
            "hours": round(sum(read_card(run / CARD_FILE).hours or 0 for run in runs), 2),
            "limits": LIMITS,
        }
    )
    save_backbone(backbone.module, card, target, dtype=torch.bfloat16)


def main() -> None:
    """Go through the steps."""
    source, output, scenes = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]
    output.mkdir(parents=True, exist_ok=True)
    names = "fit.zip", "tiles", "run", "hires", "levelled"
    fit, tiles, first, second, levelled = (output / name for name in names)
    if not fit.exists():
        write_fit(source, fit)
    run("tile", fit, *scenes, "--gsd", "10", "--size", TILE_PIXELS, "-o", tiles)
    shared = "--set", f"monitor.knn={tiles}", "--resume"
    run("pretrain", tiles, "-o", first, "--recipe", "sentinel", *shared)
    run("pretrain", tiles, "-o", second, "--recipe", "sentinel_hires", "--set", f"previous={first}", *shared)
    level(second, TileDataset(tiles), levelled)
    run("eval", levelled, source, "-o", output / "evaluation", "--json", output / "evaluation.json")
    pack(levelled, (first, second), summary(output / "evaluation.json"), geodino.backbone.PACKAGED)


if __name__ == "__main__":
    main()
