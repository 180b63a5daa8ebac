"""Prepare the data of the packaged backbone: EuroSAT without its test fifth, and Sentinel-2 scenes around it.

``python docs/experiments/packaged_backbone.py EUROSAT_ZIP OUTPUT [SCENE...]`` writes OUTPUT/fit.zip (the images that
``geodino eval EUROSAT_ZIP`` with seed 0 does not test on) and OUTPUT/tiles (them, and the scenes, at 10 m). Labels go
along for the monitor's kNN; no loss sees them. ``docs/experiments/packaged_backbone.md`` has the commands that follow.
"""

import subprocess
import sys
import zipfile
from pathlib import Path

from geodino.evaluation.open import open_data
from geodino.evaluation.split import split

TILE_PIXELS = 64


def write_fit(source: Path, target: Path) -> int:
    """Copy the training and validation images of ``geodino eval``'s split into a zip; returns how many."""
    images = open_data(str(source))
    chosen = split(images, seed=0).fit
    partial = target.with_name(target.name + ".part")
    with zipfile.ZipFile(source) as whole, zipfile.ZipFile(partial, "w") as part:
        for i in chosen:
            name = images.keys[i]
            part.writestr("/".join(Path(name).parts[-2:]), whole.read(name))
    partial.replace(target)
    return len(chosen)


def main() -> None:
    """Write the zip and cut the tile set."""
    source, output, scenes = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]
    output.mkdir(parents=True, exist_ok=True)
    fit = output / "fit.zip"
    print(f"{fit}: {write_fit(source, fit)} images")
    cut = [str(fit), *scenes, "--gsd", "10", "--size", str(TILE_PIXELS), "-o", str(output / "tiles")]
    subprocess.run([str(Path(sys.executable).with_name("geodino")), "tile", *cut], check=True)


if __name__ == "__main__":
    main()
