"""The demo's steps: each runs a command as a user would, and says which."""

import shlex
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
from rasterio.windows import Window

from geodino.change_detection.alignment import common_grid
from geodino.demo import imagery, page
from geodino.demo.second_date import make_second_date
from geodino.jobs.command import Command
from tiles.errors import InputError, OutputError
from tiles.scenes.opening import open_scene
from tiles.scenes.reader import SceneReader
from tiles.scenes.scene import Scene

RGB = ("red", "green", "blue")
TILE_SIZE = 64
CLUSTERS = 6
# A second date is made of at most this many rows and columns, so that a user's large scene costs no more.
SECOND_DATE_PX = 2048

Say = Callable[[str], None]


@dataclass
class Steps:
    """Runs geodino's commands and remembers them for the page."""

    say: Say
    commands: list[str]

    def run(self, name: str, *inputs: str | Path, **options: str | Path | float | bool | None) -> None:
        """Run one command; its own message explains a failure."""
        command = Command.of(name, *inputs, **options)
        self.commands.append(command.line)
        self.say(f"\n$ {command.line}")
        command.run()


@dataclass(frozen=True)
class Pair:
    """Two dates of one place; ``truth`` is there when the second was made from the first."""

    before: Path
    after: Path
    truth: Path | None


def make_demo(scenes: Sequence[str], folder: Path, *, steps: int, overwrite: bool, say: Say) -> None:
    """Make the whole demo in ``folder``.

    Args:
        scenes: The user's own scenes; none takes those that come with installed packages.
        folder: Where everything goes.
        steps: Training steps from the packaged backbone on.
        overwrite: Make everything anew where ``folder`` holds a demo already.
        say: Prints a line.

    Raises:
        InputError: A scene cannot be used, or a step failed.
        OutputError: The folder holds a demo already.
    """
    if (folder / "index.html").exists() and not overwrite:
        raise OutputError(f"{folder} holds a demo already; give --overwrite to make it anew")
    folder.mkdir(parents=True, exist_ok=True)
    taken = Steps(say, [])
    if scenes:
        shown, archive = scenes[0], list(scenes)
        subject = f"Made from your own scenes: {', '.join(Path(scene).name for scene in scenes)}."
    else:
        bay, lake, chip = imagery.san_francisco(), imagery.salt_lake(folder), imagery.sentinel_chip(folder)
        shown, archive = str(bay.path), [str(bay.path), str(lake.path), str(chip.path)]
        subject = "Imagery: " + "; ".join(f"{scene.title} ({scene.credit})" for scene in (bay, lake, chip)) + "."
    opened = [open_scene(scene).select(RGB) for scene in archive]
    tiles, run = folder / "tiles", folder / "run"
    maps = {
        name: folder / f"{name}.tif" for name in ("features", "features_pca", "land_cover", "change", "change_score")
    }
    if (run / "recipe.yaml").exists():
        shutil.rmtree(run)  # a run of an earlier demo; `geodino pretrain` itself never replaces one

    taken.run("tile", *archive, output=tiles, size=TILE_SIZE, bands=",".join(RGB), overwrite=overwrite)
    taken.run("pretrain", tiles, output=run, recipe="sentinel_adapt", init="packaged", set=f"max_steps={steps}")
    taken.run("features", shown, output=maps["features"], quicklook=maps["features_pca"], overwrite=overwrite)
    wanted: dict[str, int | Path] = {"clusters": CLUSTERS}
    if not scenes:
        wanted = {"labels": folder / "labels.geojson"}
        imagery.write_points(bay.path, imagery.SAN_FRANCISCO_POINTS, folder / "labels.geojson")
    taken.run("segment", shown, output=maps["land_cover"], **wanted, overwrite=overwrite)
    pair = _pair(scenes, opened, folder)
    taken.run("change", pair.before, pair.after, output=maps["change"], score=maps["change_score"], overwrite=overwrite)
    page.write_page(
        folder / "index.html",
        f"Maps by the backbone that comes with geodino, and its pretraining gone on with for {steps} steps on tiles of "
        f"these scenes: maps by the result need only `--backbone {run}`. {subject}",
        (
            _feature_section(opened[0], maps),
            _segmentation_section(opened[0], maps, labelled=not scenes),
            _change_section(pair, maps),
        ),
        taken.commands,
    )
    layers = shlex.join(
        str(path) for path in (maps["land_cover"], maps["change"], maps["change_score"], maps["features_pca"])
    )
    say(f"\nThe page is {folder / 'index.html'}. To open the maps in the web map:")
    say(f"  .venv/bin/geodino app {shlex.quote(shown)} {layers}")


def _pair(scenes: Sequence[str], opened: Sequence[Scene], folder: Path) -> Pair:
    """The user's first two scenes where they overlap, else a second date made from one scene."""
    if len(scenes) > 1 and _overlap(opened[0], opened[1]):
        return Pair(Path(scenes[0]), Path(scenes[1]), None)
    scene = opened[0] if scenes else opened[1]
    height, width = min(scene.height, SECOND_DATE_PX), min(scene.width, SECOND_DATE_PX)
    window = Window((scene.width - width) // 2, (scene.height - height) // 2, width, height)
    with SceneReader(scene) as reader:
        pixels = reader.read(window)
    # Display values: what every 8-bit image is taken for, so both dates are read alike.
    values = np.rint(pixels.values * 254 + 1).astype(np.uint8) * pixels.valid
    made = make_second_date(values, pixels.valid, np.random.default_rng(7))
    rows, columns = window.toslices()
    grid = scene.geobox[rows, columns]
    pair = Pair(folder / "before.tif", folder / "after_semi_synthetic.tif", folder / "change_truth.tif")
    imagery.write_raster(pair.before, values, grid, nodata=0, names=RGB)
    imagery.write_raster(pair.after, made.values, grid, nodata=0, names=RGB)
    if pair.truth is not None:
        imagery.write_raster(
            pair.truth, np.where(pixels.valid, made.truth, 255).astype(np.uint8)[None], grid, nodata=255
        )
    return pair


def _overlap(one: Scene, other: Scene) -> bool:
    if one.crs is None or other.crs is None:
        return False
    try:
        common_grid(one, other)
    except InputError:
        return False
    return True


def _feature_section(scene: Scene, maps: dict[str, Path]) -> page.Section:
    coloured = open_scene(maps["features_pca"])
    return page.Section(
        "Dense features",
        "Three principal components of the patch tokens as red, green and blue: ground that looks alike to the "
        "backbone has the same colour.",
        (
            page.Panel("The scene", f"{scene.name}, bands {', '.join(scene.band_names)}.", page.scene_picture(scene)),
            page.Panel("Features", "One colour a token.", page.scene_picture(coloured, (0, 100))),
        ),
    )


def _segmentation_section(scene: Scene, maps: dict[str, Path], *, labelled: bool) -> page.Section:
    text = "A classifier on frozen features from a handful of points." if labelled else "Clusters of frozen features."
    path = maps["land_cover"]
    return page.Section(
        "Segmentation",
        text,
        (
            page.Panel("The scene", f"{scene.name}.", page.scene_picture(scene)),
            page.Panel("Land cover", "On the scene's own pixels.", page.class_picture(path), page.legend(path)),
        ),
    )


def _change_section(pair: Pair, maps: dict[str, Path]) -> page.Section:
    before, after = open_scene(pair.before).select(RGB), open_scene(pair.after).select(RGB)
    panels = [
        page.Panel("Before", before.name, page.scene_picture(before)),
        page.Panel("After", after.name, page.scene_picture(after), note="semi-synthetic" if pair.truth else ""),
        page.Panel("Score", "Brighter is more change.", page.score_picture(maps["change_score"])),
        page.Panel("Change", "Threshold set from the stable background.", page.class_picture(maps["change"])),
    ]
    text = "The distance between the features of two dates."
    if pair.truth is not None:
        text = (
            "The second date is semi-synthetic: patches of other ground transplanted into it, light changed band by "
            "band, content shifted by half a pixel. " + _scored(pair.truth, maps)
        )
        panels.append(page.Panel("Truth", "Where patches were transplanted.", page.truth_picture(pair.truth)))
    return page.Section("Change", text, tuple(panels))


def _scored(truth: Path, maps: dict[str, Path]) -> str:
    """How score and map stand against the known truth: area under the ROC curve, F1, false alarms; a sentence."""
    from sklearn.metrics import f1_score, roc_auc_score

    with rasterio.open(truth) as a, rasterio.open(maps["change"]) as b, rasterio.open(maps["change_score"]) as c:
        known, found, score = a.read(1), b.read(1), c.read(1)
    valid = (known != 255) & (found != 255) & np.isfinite(score)
    auc = roc_auc_score(known[valid], score[valid])
    f1 = f1_score(known[valid], found[valid])
    alarms = (found[valid & (known == 0)] == 1).mean()
    return (
        f"Against that truth: area under the ROC curve {auc:.3f}, F1 {f1:.3f}; "
        f"{alarms:.1%} of the unchanged pixels are called changed."
    )
