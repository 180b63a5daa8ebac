"""Train the packaged backbone again, from imagery to the two files in ``geodino/weights``.

``python docs/experiments/packaged_backbone.py EUROSAT_ZIP OUTPUT [SCENE...]`` makes, and after an interruption goes on
making:

1. OUTPUT/fit.zip, the images that ``geodino eval EUROSAT_ZIP`` with seed 0 does not test on, and OUTPUT/tiles, those
   and the scenes at 10 m. Labels go along for whoever sets ``monitor.knn``; no loss sees them;
2. OUTPUT/run, the recipe ``sentinel``;
3. OUTPUT/evaluation, ``geodino eval`` of it beside its floors;
4. ``geodino/weights``: its teacher in bf16 and its card.
"""

import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import torch

import geodino.backbone
from geodino.backbone import load_backbone, save_backbone
from geodino.card import CARD_FILE, read_card
from geodino.evaluation.open import open_data
from geodino.evaluation.split import split

TILE_PIXELS = 64
DATA = (
    "EuroSAT RGB (Helber et al. 2019, Sentinel-2, 10 m): the images that geodino eval does not test on with seed 0; "
    "Sentinel-2 L1C of 2018-10-13 from open-geo-tutorial and L2A T48QUE of 2020-02-23 from Major TOM; "
    "{tiles} tiles of 64 pixels"
)
LIMITS = (
    "Small and briefly trained: some twenty epochs on one processor, far from what hundreds give. Sentinel-2 RGB "
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


def pack(source: Path, metrics: dict[str, Any], target: Path) -> None:
    """Write the teacher of a run in bf16, and a card that tells what it is worth."""
    backbone = load_backbone(source, device="cpu", precision="fp32")
    card = read_card(source / CARD_FILE)
    card = card.model_copy(
        update={
            "name": "geodino-sentinel",
            "data": DATA.format(tiles=card.data.split()[0]),
            "licence": "Apache-2.0",
            "metrics": metrics,
            "limits": LIMITS,
        }
    )
    save_backbone(backbone.module, card, target, dtype=torch.bfloat16)


def main() -> None:
    """Go through the steps."""
    source, output, scenes = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]
    output.mkdir(parents=True, exist_ok=True)
    fit, tiles, trained = (output / name for name in ("fit.zip", "tiles", "run"))
    if not fit.exists():
        write_fit(source, fit)
    run("tile", fit, *scenes, "--gsd", "10", "--size", TILE_PIXELS, "-o", tiles)
    run("pretrain", tiles, "-o", trained, "--recipe", "sentinel", "--set", f"monitor.knn={tiles}", "--resume")
    run("eval", trained, source, "-o", output / "evaluation", "--json", output / "evaluation.json")
    pack(trained, summary(output / "evaluation.json"), geodino.backbone.PACKAGED)


if __name__ == "__main__":
    main()
