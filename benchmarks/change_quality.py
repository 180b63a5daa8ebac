"""Quality of change maps on labelled pairs, beside the classical floors.

    python benchmarks/change_quality.py [DATA] [--backbone BACKBONE] [--pairs 30] [--json FILE]

Two tables in Markdown. `change/taizhou_landsat`: real labels, 30 m; every method with its own automatic threshold, the
floors with Otsu's threshold of the whole scene, intervals by resampling 20 by 20 pixel blocks. Semi-synthetic pairs of
aerial images (0.25 m pixels; transplanted objects, other light, shifts of 1 to 3 pixels): per-pair means, intervals by
resampling pairs. What the labels were looked at for when the defaults were chosen is said in docs/change.md.
"""

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import rasterio
from _change_floors import change_vector_analysis, pca_kmeans
from _change_pairs import aerial_images, make_pairs, write_pair
from scipy.ndimage import gaussian_filter
from shapely.geometry import Point
from sklearn.metrics import cohen_kappa_score, f1_score, roc_auc_score

from geodino.api import change
from geodino.backbones.backbone import Backbone, load_backbone
from geodino.change_detection.irmad import fit_irmad
from tiles.scenes.opening import open_scene

BLOCK = 20
DRAWS = 500


def otsu(values: np.ndarray) -> float:
    """Otsu's threshold of finite values, 512 bins."""
    counts, edges = np.histogram(values, 512)
    centres = (edges[1:] + edges[:-1]) / 2
    below, moment = np.cumsum(counts), np.cumsum(counts * centres)
    split = (below > 0) & (below < below[-1])
    part, mean = below[split], moment[split]
    between = (moment[-1] * part / below[-1] - mean) ** 2 / (part * (below[-1] - part))
    return float(centres[split][between.argmax()])


def measures(truth: np.ndarray, score: np.ndarray, found: np.ndarray) -> dict[str, float]:
    """Area under the curve, F1, overall accuracy, kappa."""
    return {
        "auc": float(roc_auc_score(truth, score)),
        "f1": float(f1_score(truth, found)),
        "oa": float((truth == found).mean()),
        "kappa": float(cohen_kappa_score(truth, found)),
    }


def resample(truth: np.ndarray, score: np.ndarray, found: np.ndarray, groups: np.ndarray) -> list[tuple[float, float]]:
    """Area under the curve and F1 of draws of whole groups, from counts: no draw sorts its pixels again.

    The area is the share of pairs of a changed and a stable pixel in which the changed one scores higher, ties half;
    the pairs are counted once for each two groups.
    """
    count = int(groups.max()) + 1
    wins = np.zeros((count, count))  # changed pixels of a row's group above stable pixels of a column's
    for group in np.unique(groups[~truth]):
        stable = np.sort(score[~truth & (groups == group)])
        below = sum(np.searchsorted(stable, score[truth], side) for side in ("left", "right")) / 2
        wins[:, group] = np.bincount(groups[truth], below, count)
    changed, stable, hit, called = (
        np.bincount(groups[which], minlength=count) for which in (truth, ~truth, truth & found, found)
    )
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(DRAWS):
        times = np.bincount(rng.integers(count, size=count), minlength=count)
        if pairs := (times @ changed) * (times @ stable):
            area = times @ wins @ times / pairs
            drawn.append((float(area), float(2 * (times @ hit) / (times @ changed + times @ called))))
    return drawn


def interval(values: list[float]) -> tuple[float, float]:
    """95 % interval of bootstrap values."""
    low, high = np.nanquantile(values, [0.025, 0.975])
    return float(low), float(high)


def taizhou(data: Path, backbone: Backbone) -> dict[str, dict[str, Any]]:
    """Every method and floor on the labelled pixels."""
    folder = data / "change/taizhou_landsat"
    arrays = {}
    for name in ("before_2000", "after_2003", "labels"):
        with rasterio.open(folder / f"{name}.tif") as file:
            arrays[name] = file.read()
    labels = arrays["labels"][0]
    known, truth = labels != 255, labels[labels != 255] == 1
    before, after = arrays["before_2000"].astype(float), arrays["after_2003"].astype(float)
    rows, cols = np.nonzero(known)
    block = (rows // BLOCK) * 1000 + cols // BLOCK
    groups = np.unique(block, return_inverse=True)[1]
    results: dict[str, dict[str, Any]] = {}

    def add(name: str, score: np.ndarray, found: np.ndarray) -> None:
        values, hits = np.nan_to_num(score[known], nan=-1e9), found[known]
        record: dict[str, Any] = measures(truth, values, hits)
        drawn = resample(truth, values, hits, groups)
        record["auc_interval"], record["f1_interval"] = (interval([d[i] for d in drawn]) for i in (0, 1))
        results[name] = record

    cva = change_vector_analysis(before, after)
    add("CVA, z-scored (floor)", cva, cva > otsu(cva))
    add("PCA–k-means (floor)", cva, pca_kmeans(cva))
    flat = (before.reshape(len(before), -1) / 255, after.reshape(len(after), -1) / 255)
    distance = np.sqrt(fit_irmad(*flat).chi_squared(*flat)).reshape(labels.shape)
    add("IR-MAD (floor)", distance, distance > otsu(distance))
    smooth = gaussian_filter(distance, 1.0)
    add("IR-MAD, 1 px Gaussian, Otsu (floor)", smooth, smooth > otsu(smooth))
    scenes = [open_scene(folder / f"{name}.tif") for name in ("before_2000", "after_2003")]
    with tempfile.TemporaryDirectory() as work:
        for method in ("spectral", "features", "fused"):
            mask, score = Path(work) / f"{method}.tif", Path(work) / f"{method}_score.tif"
            change(*scenes, mask, score=score, method=method, backbone=backbone)
            with rasterio.open(mask) as found, rasterio.open(score) as values:
                add(f"geodino, {method}, auto", values.read(1), found.read(1) == 1)
        runs = []
        for seed in range(5):
            rng = np.random.default_rng(seed)
            picked = np.concatenate([rng.choice(np.flatnonzero(truth == kind), 5, False) for kind in (True, False)])
            with rasterio.open(folder / "labels.tif") as file:
                points = [Point(file.xy(int(rows[i]), int(cols[i]))) for i in picked]
            like = Path(work) / f"points{seed}.gpkg"
            gpd.GeoDataFrame({"kind": ["yes"] * 5 + ["no"] * 5}, geometry=points, crs="EPSG:32651").to_file(like)
            mask, score = Path(work) / f"like{seed}.tif", Path(work) / f"like{seed}_score.tif"
            change(*scenes, mask, score=score, like=like, backbone=backbone)
            with rasterio.open(mask) as found, rasterio.open(score) as values:
                keep = np.ones(len(truth), bool)
                keep[picked] = False
                score_here = np.nan_to_num(values.read(1)[known][keep], nan=-1e9)
                runs.append(measures(truth[keep], score_here, found.read(1)[known][keep] == 1))
        record = {key: float(np.mean([run[key] for run in runs])) for key in runs[0]}
        for key in ("auc", "f1"):
            record[f"{key}_interval"] = (min(r[key] for r in runs), max(r[key] for r in runs))
        results["geodino, fused, ten labelled points (5 draws: mean, range)"] = record
    return results


def aerial(data: Path, backbone: Backbone, count: int) -> dict[str, dict[str, Any]]:
    """Means over semi-synthetic pairs."""
    images = aerial_images(data)
    picked = set(np.linspace(0, len(images) - 1, min(count, len(images))).astype(int))
    found: dict[str, list[dict[str, float]]] = {}
    for number, pair in enumerate(make_pairs(images)):
        if number not in picked:
            continue
        truth = pair.truth.ravel()
        cva = change_vector_analysis(pair.before.astype(float), pair.after.astype(float))
        found.setdefault("CVA, z-scored (floor)", []).append(measures(truth, cva.ravel(), (cva > otsu(cva)).ravel()))
        found.setdefault("PCA–k-means (floor)", []).append(measures(truth, cva.ravel(), pca_kmeans(cva).ravel()))
        with tempfile.TemporaryDirectory() as work:
            scenes = [open_scene(path) for path in write_pair(pair, Path(work))]
            for method in ("spectral", "features", "fused"):
                mask, score = Path(work) / f"{method}.tif", Path(work) / f"{method}_score.tif"
                change(*scenes, mask, score=score, method=method, backbone=backbone)
                with rasterio.open(mask) as hits, rasterio.open(score) as values:
                    score_here = np.nan_to_num(values.read(1).ravel(), nan=-1e9)
                    record = measures(truth, score_here, hits.read(1).ravel() == 1)
                found.setdefault(f"geodino, {method}, auto", []).append(record)
    results: dict[str, dict[str, Any]] = {}
    for name, records in found.items():
        results[name] = {key: float(np.mean([record[key] for record in records])) for key in records[0]}
        rng = np.random.default_rng(0)
        for key in ("auc", "f1"):
            values = np.array([record[key] for record in records])
            drawn = [values[rng.integers(len(values), size=len(values))].mean() for _ in range(DRAWS)]
            results[name][f"{key}_interval"] = interval([float(value) for value in drawn])
    return results


def table(title: str, results: dict[str, dict[str, Any]]) -> str:
    """Markdown."""
    lines = [f"### {title}", "", "| method | AUC | F1 | overall accuracy | kappa |", "|---|---|---|---|---|"]
    for name, r in results.items():
        auc, f1 = (f"{r[k]:.3f} ({r[f'{k}_interval'][0]:.3f}–{r[f'{k}_interval'][1]:.3f})" for k in ("auc", "f1"))
        lines.append(f"| {name} | {auc} | {f1} | {r['oa']:.3f} | {r['kappa']:.3f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(__file__).resolve().parent.parent.parent / "shared/data"
    parser.add_argument("data", nargs="?", type=Path, default=Path(os.environ.get("GEODINO_DATA", default)))
    parser.add_argument("--backbone")
    parser.add_argument("--pairs", type=int, default=30)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if not options.data.is_dir():
        raise SystemExit(f"the real imagery is absent: {options.data} is no folder")
    backbone = load_backbone(options.backbone)
    results = {"taizhou_landsat": taizhou(options.data, backbone)}
    print(f"backbone {backbone.name} ({backbone.hash[:12]})\n")
    print(table("taizhou_landsat, 30 m, real labels", results["taizhou_landsat"]), flush=True)
    if options.pairs:
        results["aerial"] = aerial(options.data, backbone, options.pairs)
        print(table(f"aerial, 0.25 m, {options.pairs} semi-synthetic pairs", results["aerial"]))
    if options.json:
        options.json.write_text(json.dumps({"backbone": backbone.name, **results}, indent=1))


if __name__ == "__main__":
    main()
