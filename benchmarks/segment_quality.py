"""Few-shot segmentation on labelled imagery, beside a random forest on the same pixels and bands.

    python benchmarks/segment_quality.py [DATA] [--backbone BACKBONE] [--draws 5] [--json FILE]

For each data set 5, 20 and 100 labelled points a class are drawn from the training half (chips, or for a single scene
places), a head is trained as `geodino segment --labels` trains it (logistic regression and prototypes on pixels and on
tokens, which are made in the windows of a map), and both are scored on pixels of the other half. Also each half of the
head alone: tokens without pixels, and pixels without tokens. mIoU, mean over the draws and 95 % interval of that mean
(normal). Borders are not refined here: this measures the head, not the guide.
"""

import argparse
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import torch
from PIL import Image
from rasterio.windows import Window
from scipy.ndimage import maximum_filter

from geodino.backbones.backbone import Backbone, load_backbone
from geodino.backbones.normalize import standardize
from geodino.dense.settings import DenseSettings
from geodino.dense.stream import encode_unit, feature_dim
from geodino.heads.balance import balance, fit_head
from geodino.heads.labels import read_labels
from geodino.heads.linear import BlockScale
from geodino.heads.metrics import Agreement, confusion_matrix
from geodino.heads.pixel_features import spectral_features
from geodino.heads.random_features import Waves
from geodino.heads.validation import pixel_forest, spatial_blocks
from tiles.scenes.band import Pixels
from tiles.scenes.opening import open_scene
from tiles.scenes.reader import SceneReader
from tiles.writing.stitch import Axis, RowBand

BUDGETS = (5, 20, 100)
_PIXELS_PER_CHIP = 600
# Side in pixels of the squares whose labels are left out together when the head weighs tokens against pixels.
_PLACE = 64
_S2 = (
    "coastal",
    "blue",
    "green",
    "red",
    "rededge071",
    "rededge075",
    "rededge078",
    "nir",
    "nir08",
    "nir09",
    "swir16",
    "swir22",
)


@dataclass
class Samples:
    """Labelled pixels of one data set: features, classes, their half, and places that belong together."""

    tokens: np.ndarray
    spectra: np.ndarray
    bands: np.ndarray
    classes: np.ndarray
    train: np.ndarray
    groups: np.ndarray


@dataclass(frozen=True)
class Chip:
    """An image in [0, 1] `[C, H, W]`, names of its bands, class of each pixel (-1 none) `[H, W]`, and its half."""

    values: np.ndarray
    bands: tuple[str, ...]
    classes: np.ndarray
    train: np.ndarray


def water(data: Path) -> Iterator[Chip]:
    """120 chips: reflectance in bands 1 to 7; bands 8 to 12 are codes, heights and the answer itself."""
    names = ("coastal", "blue", "green", "red", "nir", "swir16", "swir22")
    files = sorted((data / "segmentation/water_s2/images").glob("*.tif"), key=lambda path: int(path.stem))
    for number, path in enumerate(files):
        with rasterio.open(path) as file:
            values = np.clip(file.read(list(range(1, 8))) / 1e4, 0, 1)
        mask = np.asarray(Image.open(path.parent.parent / "labels" / f"{path.stem}.png"))
        mask = (mask if mask.ndim == 2 else mask[..., 0]) > 0
        yield Chip(values, names, mask.astype(int), np.full(mask.shape, number % 2 == 0))


def amazon(data: Path) -> Iterator[Chip]:
    """24 RGB chips and forest masks; augmented copies of a chip stay in its half."""
    folder = data / "segmentation/amazon_forest_s2"
    for path in sorted((folder / "images").glob("*.png")):
        values = np.asarray(Image.open(path).convert("RGB")).transpose(2, 0, 1) / 255
        mask = np.asarray(Image.open(folder / "masks" / path.name).convert("L")) > 127
        yield Chip(
            values, ("red", "green", "blue"), mask.astype(int), np.full(mask.shape, int(path.stem[-5:]) % 2 == 0)
        )


def terramind(data: Path) -> Iterator[Chip]:
    """Five tiles of 12 Sentinel-2 bands and nine land-cover classes; the left of each tile trains."""
    folder = data / "segmentation/terramind_lulc"
    for path in sorted((folder / "S2L2A").glob("*.tif")):
        with rasterio.open(path) as file:
            values = np.clip(file.read() / 1e4, 0, 1)
        with rasterio.open(next((folder / "LULC").glob(f"{path.stem.split('_S2')[0]}*"))) as file:
            classes = file.read(1).astype(int) - 1
        yield Chip(
            values, _S2, classes, np.broadcast_to(np.arange(classes.shape[1]) < classes.shape[1] // 2, classes.shape)
        )


def shore(data: Path) -> Iterator[Chip]:
    """Land-cover polygons in a Sentinel-2 scene, in windows around them; places of a class are dealt to both halves."""
    folder = data / "scenes/sentinel2_l1c_rcr"
    scene = open_scene(folder)
    labels = read_labels(folder / "rcr_landcover.shp", scene.geobox, most_per_class=10**9)
    groups = spatial_blocks(labels.rows, labels.cols, labels.objects)
    train = np.zeros(len(labels), bool)
    for kind in range(len(labels.legend)):
        places = np.unique(groups[labels.classes == kind])
        if len(places) == 1:  # one place: its west trains
            here = labels.classes == kind
            train[here] = labels.cols[here] < np.median(labels.cols[here])
        else:
            train[(labels.classes == kind) & np.isin(groups, places[::2])] = True
    side = 512
    cells = (labels.rows // side) * 100 + labels.cols // side
    with SceneReader(scene) as reader:
        for cell in np.unique(cells):
            top, left = int(cell // 100) * side, int(cell % 100) * side
            here = cells == cell
            place = (labels.rows[here] - top, labels.cols[here] - left)
            classes, half = np.full((side, side), -1), np.zeros((side, side), bool)
            classes[place], half[place] = labels.classes[here], train[here]
            yield Chip(reader.read(Window(left, top, side, side)).values, scene.band_names, classes, half)


def sample(chips: Iterator[Chip], backbone: Backbone, upscale: int) -> Samples:
    """Features of pixels drawn from every chip."""
    rng = np.random.default_rng(0)
    settings = DenseSettings(upscale=upscale).resolved(backbone)
    side = backbone.patch_size // upscale
    parts: list[tuple[np.ndarray, ...]] = []
    for number, chip in enumerate(chips):
        row, col = np.nonzero(chip.classes >= 0)
        picked = rng.permutation(len(row))[: _PIXELS_PER_CHIP * max(1, chip.classes.size // 128**2)]
        row, col = row[picked], col[picked]
        values = chip.values.astype(np.float32)
        chosen = values[[chip.bands.index(band) for band in backbone.bands]]
        beyond = [(-size) % side for size in chosen.shape[1:]]
        padded = np.pad(chosen, ((0, 0), (0, beyond[0]), (0, beyond[1])), mode="edge")
        x = torch.from_numpy(np.asarray(standardize(padded, None, backbone.normalization)))
        tokens = encode_windows(backbone, x, settings, tokens_read(x.shape, row, col, side))
        features = spectral_features(Pixels(values, np.ones(values.shape[1:], bool)))
        parts.append(
            (at(tokens, row, col, side), features[:, row, col].T, values[:, row, col].T, chip.classes[row, col],
             chip.train[row, col], _places(number, row, col))
        )  # fmt: skip
    return Samples(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def encode_windows(backbone: Backbone, x: torch.Tensor, settings: DenseSettings, read: np.ndarray) -> np.ndarray:
    """Tokens `[D, h, w]` of a standardised chip `[C, H, W]` as a map has them: window by window, blended.

    Every token attends to its whole window, so a chip at once would cost the square of its area. Windows without a
    token that is ``read`` `[h, w]` are left out; so are, in the result, the tokens they alone have.
    """
    side = backbone.patch_size // settings.upscale
    down, across = (Axis(length, settings.window, 2 * settings.halo) for length in read.shape)
    band = RowBand(feature_dim(backbone, settings), read.shape[1], read.shape[0])
    for top, below in zip(down.starts, down.weights, strict=True):
        for left, beside in zip(across.starts, across.weights, strict=True):
            if read[top : top + down.size, left : left + across.size].any():
                rows, cols = (slice(at * side, (at + n) * side) for at, n in ((top, down.size), (left, across.size)))
                found = encode_unit(backbone, x[None, :, rows, cols], settings)[0].cpu().numpy()
                band.add(top, left, found, (below, beside))
    tokens = band.take(read.shape[0])
    return tokens / np.maximum(np.linalg.norm(tokens, axis=0), 1e-12)


def tokens_read(shape: tuple[int, ...], rows: np.ndarray, cols: np.ndarray, side: int) -> np.ndarray:
    """Tokens that pixels of an image of ``shape`` `[C, H, W]` are interpolated from, and their neighbours `[h, w]`."""
    read = np.zeros((shape[1] // side, shape[2] // side), bool)
    read[rows // side, cols // side] = True
    return maximum_filter(read, 3)


def _places(chip: int, rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
    """Place of each pixel: neighbours within a chip belong together, as they do for labels of a scene."""
    return (chip * 100 + rows // _PLACE) * 100 + cols // _PLACE


def at(tokens: np.ndarray, rows: np.ndarray, cols: np.ndarray, side: int) -> np.ndarray:
    """Tokens `[D, h, w]` interpolated to pixels `[N, D]`."""
    row = np.clip((rows + 0.5) / side - 0.5, 0, tokens.shape[1] - 1)
    col = np.clip((cols + 0.5) / side - 0.5, 0, tokens.shape[2] - 1)
    top, left = row.astype(int), col.astype(int)
    down, right = (row - top)[None], (col - left)[None]
    below, beside = np.minimum(top + 1, tokens.shape[1] - 1), np.minimum(left + 1, tokens.shape[2] - 1)
    upper = tokens[:, top, left] * (1 - right) + tokens[:, top, beside] * right
    lower = tokens[:, below, left] * (1 - right) + tokens[:, below, beside] * right
    return (upper * (1 - down) + lower * down).T.astype(np.float32)


def evaluate(samples: Samples, draws: int) -> dict[str, dict[int, tuple[float, float]]]:
    """Mean mIoU and half its 95 % interval, by method and budget."""
    # A class that one half lacks cannot be learned or cannot be scored.
    kinds = np.intersect1d(samples.classes[samples.train], samples.classes[~samples.train])
    known = np.isin(samples.classes, kinds)
    samples = Samples(
        samples.tokens[known], samples.spectra[known], samples.bands[known], samples.classes[known],
        samples.train[known], samples.groups[known],
    )  # fmt: skip
    test = ~samples.train
    truth = np.searchsorted(kinds, samples.classes)
    raw = BlockScale.of(samples.spectra)
    waves = Waves.draw(raw)
    scales = (BlockScale.of(samples.tokens), waves.scale(raw))
    empty = BlockScale(np.zeros(0, np.float32), np.ones(0, np.float32))
    none = np.zeros((len(truth), 0), np.float32)
    # The same in every draw: taken once.
    tested, spectra, bands = samples.tokens[test], samples.spectra[test].T, samples.bands[test]
    found: dict[str, dict[int, list[float]]] = {}
    for budget in BUDGETS:
        for draw in range(draws):
            rng = np.random.default_rng([budget, draw])
            members = np.concatenate(
                [rng.permutation(np.flatnonzero(samples.train & (truth == k)))[:budget] for k in range(len(kinds))]
            )

            def score(predicted: np.ndarray) -> float:
                return Agreement(confusion_matrix(truth[test], predicted, len(kinds))).mean_iou

            trials = {
                "geodino: tokens and pixels": (samples.tokens, True, scales),
                "tokens alone": (samples.tokens, False, (scales[0], empty)),
                "pixels alone": (none, True, (empty, scales[1])),
            }
            for name, (tokens, pixels, scale) in trials.items():
                own = waves.lift(samples.spectra[members].T).T if pixels else none[members]
                scale, _ = balance(tokens[members], own, truth[members], samples.groups[members], scale)
                head = fit_head(tokens[members], own, truth[members], scale)
                logits = np.repeat(head.bias[None], len(bands), axis=0)
                if tokens is not none:
                    logits += tested @ head.token_weight.T
                if pixels:
                    logits += waves.logits(head, spectra).T
                value = score(logits.argmax(axis=1))
                found.setdefault(name, {}).setdefault(budget, []).append(value)
            trees = pixel_forest(samples.bands[members], truth[members], draw)
            value = score(trees.predict(bands))
            found.setdefault("random forest on bands (floor)", {}).setdefault(budget, []).append(value)
    return {
        name: {b: (float(np.mean(v)), float(1.96 * np.std(v, ddof=1) / len(v) ** 0.5)) for b, v in budgets.items()}
        for name, budgets in found.items()
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(__file__).resolve().parent.parent.parent / "shared/data"
    parser.add_argument("data", nargs="?", type=Path, default=Path(os.environ.get("GEODINO_DATA", default)))
    parser.add_argument("--backbone")
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--upscale", type=int, default=2)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if not options.data.is_dir():
        raise SystemExit(f"the real imagery is absent: {options.data} is no folder")
    backbone = load_backbone(options.backbone)
    print(f"backbone {backbone.name} ({backbone.hash[:12]}), {options.upscale} tokens a patch side\n")
    results: dict[str, Any] = {}
    sets = {"water_s2": water, "amazon_forest_s2": amazon, "terramind_lulc": terramind, "sentinel2_l1c_rcr": shore}
    for name, chips in sets.items():
        results[name] = evaluate(sample(chips(options.data), backbone, options.upscale), options.draws)
        print(f"### {name}\n\n| method | " + " | ".join(f"{b} points a class" for b in BUDGETS) + " |")
        print("|---|" + "---|" * len(BUDGETS))
        for method, budgets in results[name].items():
            cells = " | ".join(f"{mean:.3f} ± {half:.3f}" for mean, half in budgets.values())
            print(f"| {method} | {cells} |")
        print(flush=True)
    if options.json:
        options.json.write_text(json.dumps({"backbone": backbone.name, **results}, indent=1))


if __name__ == "__main__":
    main()
