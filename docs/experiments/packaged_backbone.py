"""Train the packaged backbone again, from imagery to the two files in ``geodino/weights``.

``python docs/experiments/packaged_backbone.py EUROSAT_ZIP OUTPUT [SCENE...]`` makes, and after an interruption goes on
making:

1. OUTPUT/fit.zip, the images that ``geodino eval EUROSAT_ZIP`` with seed 0 does not test on, and OUTPUT/tiles, those
   and the scenes at 10 m. Labels go along for whoever sets ``monitor.knn``; no loss sees them;
2. OUTPUT/first, the recipe ``sentinel``, and OUTPUT/second to /ninth, each of which goes on from the one before with
   ``sentinel_hires``; the fifth from its levelled backbone alone, with new heads;
3. OUTPUT/levelled: the last teacher in bf16, the directions of its tokens levelled (``pretrain.after.level``);
4. OUTPUT/evaluation, ``geodino eval`` of it beside its floors;
5. ``geodino/weights``: the same with its card.
"""

import json
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import geodino.backbones.backbone
from geodino.backbones.backbone import load_backbone, save_backbone
from geodino.backbones.card import CARD_FILE, read_card
from geodino.evaluation.open import open_data
from geodino.evaluation.split import split
from pretrain.after.level import level_tokens, sample_tokens
from pretrain.recipes.loading import load_recipe
from tiles.archive.dataset import TileDataset

TILE_PIXELS = 64


@dataclass(frozen=True)
class Stage:
    """A run of training.

    Attributes:
        name: Of its folder.
        recipe: Packaged recipe.
        settings: What differs from it.
        anew: Starts from the levelled backbone of the run before, with new heads and optimiser; else from its teacher,
            heads included.
        anchor: Stage whose backbone is the Gram teacher; None trains without Gram anchoring.
    """

    name: str
    recipe: str
    settings: tuple[str, ...] = ()
    anew: bool = False
    anchor: str | None = None


LARGER_LOCAL_CROPS = (
    "crops.global_size=64",
    "crops.local_size=24",
    "crops.local_scale=[0.08,0.3]",
    "optimizer.lr.peak=2.0e-3",
    "teacher.momentum.peak=0.995",
    "teacher.momentum.end=0.9997",
)
STAGES = (
    Stage("first", "sentinel"),
    Stage("second", "sentinel_hires"),
    # A comparison of settings that was kept: nothing falls in it.
    Stage(
        "third",
        "sentinel_hires",
        (
            "max_steps=500",
            "optimizer.lr.peak=2.0e-3",
            "optimizer.lr.warmup=0.05",
            "optimizer.lr.end=null",
            "teacher.momentum.peak=0.995",
            "teacher.momentum.end=null",
        ),
    ),
    Stage(
        "fourth",
        "sentinel_hires",
        (
            "max_steps=3400",
            "optimizer.lr.peak=2.0e-3",
            "optimizer.lr.warmup=0.01",
            "teacher.momentum.peak=0.995",
            "teacher.momentum.end=0.9995",
        ),
    ),
    Stage(
        "fifth",
        "sentinel_hires",
        (
            "max_steps=6000",
            "previous=null",
            "backbone.architecture=init",
            "backbone.whiten_patches=false",
            "optimizer.lr.peak=2.0e-3",
            "optimizer.lr.warmup=0.01",
            "optimizer.warm_heads=0.03",
            "optimizer.ramp=0.04",
            "teacher.momentum.peak=0.995",
            "teacher.momentum.end=0.9998",
        ),
        anew=True,
    ),
    # Whole tiles at their own resolution, as evaluations and maps see them.
    Stage(
        "sixth",
        "sentinel_hires",
        (
            "max_steps=900",
            "crops.global_size=64",
            "crops.global_scale=[0.5,1.0]",
            "optimizer.lr.peak=1.0e-3",
            "teacher.momentum.end=0.9995",
        ),
    ),
    # The same, with larger local crops: nine tokens see what four do not.
    Stage("seventh", "sentinel_hires", ("max_steps=6200", *LARGER_LOCAL_CROPS)),
    # More of the seventh: its curve still rose.
    Stage("eighth", "sentinel_hires", ("max_steps=6000", *LARGER_LOCAL_CROPS)),
    # Locality of patch similarity had fallen in both: held to what it was before them.
    Stage("ninth", "sentinel_hires", ("max_steps=5000", *LARGER_LOCAL_CROPS), anchor="sixth"),
)
LAYER_SCALE = 0.2  # of the recipe
DATA = (
    "EuroSAT RGB (Helber et al. 2019, Sentinel-2, 10 m): the images that geodino eval does not test on with seed 0; "
    "Sentinel-2 L1C of 2018-10-13 from open-geo-tutorial and L2A T48QUE of 2020-02-23 from Major TOM; "
    "{tiles} tiles of 64 pixels"
)
LIMITS = (
    "Small and briefly trained: about 140 epochs on one processor, far from what many hundreds give. Sentinel-2 "
    "RGB at 10 m of Europe, one scene of the eastern United States and one of south-east Asia; other sensors, bands "
    "and ground resolutions were never seen."
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


def save_levelled(run_folder: Path, target: Path) -> None:
    """Save a run's teacher in bf16, levelled by a sample of its tiles."""
    backbone = load_backbone(run_folder, device="cpu", precision="fp32")
    crops = load_recipe(run_folder / "recipe.yaml").crops
    level_tokens(backbone.module, sample_tokens(backbone, TileDataset(run_folder.parent / "tiles"), crops))
    save_backbone(backbone.module, read_card(run_folder / CARD_FILE), target, dtype=torch.bfloat16)


def save_start(source: Path, target: Path) -> None:
    """Save a levelled backbone as training wants it: LayerScale, which levelling took into the weights, apart again.

    The function stays the same; a step of the optimiser moves a branch as little as it did before.
    """
    backbone = load_backbone(source, device="cpu", precision="fp32")
    with torch.no_grad():
        for block in backbone.module.blocks:
            for gamma, layer in ((block.gamma_1, block.attn.proj), (block.gamma_2, block.mlp.fc2)):
                share = gamma / LAYER_SCALE
                layer.weight.mul_(share[:, None])
                layer.bias.mul_(share)
                gamma.fill_(LAYER_SCALE)
    save_backbone(backbone.module, read_card(source / CARD_FILE), target, dtype=torch.float32)


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
    fit, tiles, levelled = (output / name for name in ("fit.zip", "tiles", "levelled"))
    if not fit.exists():
        write_fit(source, fit)
    run("tile", fit, *scenes, "--gsd", "10", "--size", TILE_PIXELS, "-o", tiles)
    runs: list[Path] = []
    for stage in STAGES:
        settings, start = [f"monitor.knn={tiles}", *stage.settings], []
        if stage.anew:
            before, here = output / f"{stage.name}_levelled", output / f"{stage.name}_start"
            save_levelled(runs[-1], before)
            save_start(before, here)
            start = ["--init", here]
        elif runs:
            settings.append(f"previous={runs[-1]}")
        if stage.anchor:
            settings += ["gram.weight=1.0", "crops.gram_scale=1.0", f"gram.teacher={output / stage.anchor}"]
        chosen = (item for setting in settings for item in ("--set", setting))
        run("pretrain", tiles, "-o", output / stage.name, "--recipe", stage.recipe, *start, *chosen, "--resume")
        runs.append(output / stage.name)
    save_levelled(runs[-1], levelled)
    run("eval", levelled, source, "-o", output / "evaluation", "--json", output / "evaluation.json")
    pack(levelled, tuple(runs), summary(output / "evaluation.json"), geodino.backbones.backbone.PACKAGED)


if __name__ == "__main__":
    main()
