"""Curation shown on a real archive: are planted duplicates found, and how much evener are the clusters and classes?

    python benchmarks/curation.py [DATA] [--backbone BACKBONE] [--chips 3000] [--planted 60] [--json FILE]

The archive: EuroSAT chips, unevenly many of each class as archives are, two Sentinel-2 scenes and a NAIP scene cut
to tiles of 64 pixels of 10 m. Then some chips once more: written again as JPEG of quality 50, brightened by a fifth,
or moved by two pixels. Nothing but the tiles is known to `geodino curate`'s functions, which this script calls. Without
a backbone, an untrained ViT-Ti/8 (seed 0) stands in: a floor for what a trained one finds.
"""

import argparse
import io
import json
import os
import tempfile
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from geodino.backbones.architecture import create_module
from geodino.backbones.backbone import Backbone, load_backbone, save_backbone
from geodino.backbones.card import BackboneCard
from geodino.retrieval.tile_embedding import embed_tiles
from tiles.archive.curate import centred, choose
from tiles.archive.dataset import TileDataset
from tiles.cutting.cut import cut
from tiles.cutting.plan import CutSettings, Request

WAYS = ("re-encoded", "brightened", "moved")
SCENES = (
    "sentinel2_l1c_rcr",
    "sentinel2_l2a_T48QUE_20200223",
    "naip_2009_2020/m_4709963_se_14_1_20200831.tif",
)


def untrained(folder: Path) -> Backbone:
    """An untrained ViT-Ti/8."""
    torch.manual_seed(0)
    name, args = "vit_tiny_patch16_dinov3_qkvb", {"patch_size": 8}
    module = create_module(name, 3, **args)
    card = BackboneCard(
        architecture=name, model_args=args, mean=(0.34, 0.38, 0.41), std=(0.20, 0.14, 0.12), patch_size=8
    )
    save_backbone(module, card, folder)
    return load_backbone(str(folder), device="cpu")


def copied(chip: Image.Image, way: str) -> Image.Image:
    """A chip as another archive might hold it."""
    if way == "brightened":
        return chip.point([min(255, round(1.2 * v)) for v in range(256)] * 3)
    if way == "moved":
        return Image.fromarray(np.pad(np.asarray(chip), ((2, 0), (2, 0), (0, 0)), mode="reflect")[:64, :64])
    written = io.BytesIO()
    chip.save(written, "JPEG", quality=50)
    return Image.open(io.BytesIO(written.getvalue()))


def write_archive(source: Path, folder: Path, chips: int, planted: int) -> dict[str, tuple[str, str]]:
    """Extract chips, the classes in shares of 1 : 1/2 : 1/3 …, and plant copies; gives way and original by copy."""
    generator = np.random.default_rng(0)
    copies: dict[str, tuple[str, str]] = {}
    with zipfile.ZipFile(source) as archive:
        names = sorted(name for name in archive.namelist() if name.lower().endswith(".jpg"))
        classes = sorted({name.split("/")[-2] for name in names})
        shares = 1 / np.arange(1, len(classes) + 1)
        chosen: list[str] = []
        for kind, share in zip(generator.permutation(classes), shares / shares.sum(), strict=True):
            own = [name for name in names if name.split("/")[-2] == kind]
            chosen += generator.choice(own, min(len(own), round(chips * share)), replace=False).tolist()
        for name in chosen:
            target = folder / "/".join(name.split("/")[-2:])
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(archive.read(name))
        for number, name in enumerate(generator.choice(chosen, planted, replace=False).tolist()):
            way, member = WAYS[number % len(WAYS)], "/".join(name.split("/")[-2:])
            copy = member.replace(".jpg", f"_{way}.png")
            copied(Image.open(folder / member), way).save(folder / copy)
            copies[copy] = (way, member)
    return copies


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    parser.add_argument("data", nargs="?", type=Path, default=Path(os.environ.get("GEODINO_DATA", beside)))
    parser.add_argument("--backbone")
    parser.add_argument("--chips", type=int, default=3000)
    parser.add_argument("--planted", type=int, default=60)
    parser.add_argument("--keep", type=float, default=0.5)
    parser.add_argument("--duplicates", type=float, default=0.9)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="geodino-curation-") as place:
        folder = Path(place)
        zipped = options.data / "eurosat_rgb" / "eurosat_rgb.zip"
        copies = write_archive(zipped, folder / "chips", options.chips, options.planted)
        backbone = load_backbone(options.backbone) if options.backbone else untrained(folder / "untrained")
        requests = [Request(str(folder / "chips")), *(Request(str(options.data / "scenes" / name)) for name in SCENES)]
        cut(requests, folder / "T", CutSettings(64, gsd_m=10.0))
        tiles = TileDataset(folder / "T")
        embeddings, layouts = embed_tiles(tiles, backbone)
        embeddings = centred(embeddings)
        choice = choose(embeddings, options.keep, options.duplicates, 0, layouts)
        sources, labels = tiles.column("source"), tiles.column("label")
        member = np.array([str(source).split("chips:")[-1] for source in sources])
        number = {name: i for i, name in enumerate(member)}
        group = choice.duplicate_of
        found = Counter(
            way for copy, (way, original) in copies.items() if group[number[copy]] == group[number[original]]
        )
        planted = {number[copy] for copy in copies} | {number[original] for _, original in copies.values()}
        extra = np.flatnonzero(group != np.arange(len(group)))
        others = [int(i) for i in extra if not {int(i), int(group[i])} <= planted]
        report = {
            "tiles": len(tiles),
            "planted": dict(Counter(way for way, _ in copies.values())),
            "found": {way: found[way] for way in WAYS},
            "chips otherwise left out as repeats": sum(labels[i] is not None for i in others),
            "scene tiles left out as repeats": sum(labels[i] is None for i in others),
            "tiles without a layout": int((~layouts.any(axis=1)).sum()),
            "clusters": choice.clusters,
            "evenness before": choice.balance_before,
            "evenness after": choice.balance_after,
        }
    kinds = sorted({str(label) for label in labels})
    for when, kept in (("before", np.ones(len(labels), bool)), ("after", choice.kept)):
        counts = Counter(str(label) for label in labels[kept])
        report[f"tiles a class {when}"] = {kind: counts[kind] for kind in kinds}
    for name, value in report.items():
        print(f"{name}: {value}")
    print("others:", *(f"{member[i]} ~ {member[group[i]]}" for i in others[:12]), sep="\n  ")
    missed = [copy for copy, (_, original) in copies.items() if group[number[copy]] != group[number[original]]]
    for copy in missed:
        i, j = number[copy], number[copies[copy][1]]
        print(f"missed {copy}: cosine {embeddings[i] @ embeddings[j]:.3f}, layouts {layouts[i] @ layouts[j]:.3f}")
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
