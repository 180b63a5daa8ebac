"""Training against lightly-train's `dinov2` method on the same processor, by the processor time of each image.

Setting: ViT-S/14, 2 crops of 224 and 8 of 98 pixels, batch 16, 65,536 prototypes, bf16, DINO + iBOT + KoLeo, images on
disk. lightly-train is AGPL and never a dependency: install it into an environment of its own and name its interpreter.

    uv venv peer && uv pip install -p peer lightly-train
    python benchmarks/pretrain_peer.py --peer-python peer/bin/python [--short 1] [--long 3] [--threads N]

Each side runs in a process of its own, once for few and once for more steps; the difference is the cost of the steps
alone, without start-up. The processor time counts all threads and data workers.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

BATCH = 16

PEER = """
import sys, torch, lightly_train
torch.set_num_threads(int(sys.argv[4]))
lightly_train.pretrain(
    out=sys.argv[1], data=sys.argv[2], model="dinov2/vits14-notpretrained", method="dinov2", batch_size=16,
    num_workers=1, accelerator="cpu", devices=1, precision="bf16-mixed", overwrite=True, epochs=int(sys.argv[3]),
    method_args={"output_dim": 65536},
)
"""

OURS = """
from geodino.process import settle_process
settle_process()  # as `geodino pretrain` does
import sys, torch
torch.set_num_threads(int(sys.argv[4]))
from geodino.backbones.normalize import IMAGENET
from pretrain.data.batches import Batches
from pretrain.engine.trainer import Trainer
from pretrain.network.network import build_network
from pretrain.recipes.loading import load_recipe
from tiles.archive.dataset import TileDataset
recipe = load_recipe("dinov2", [
    "batch_size=16", "workers=1", "backbone.architecture=vit_small_patch14_reg4_dinov2",
    "dino.head.prototypes=65536", "ibot.head.prototypes=65536", "backbone.drop_path=0.3",
])
trainer = Trainer(recipe, build_network(recipe, 3), dtype=torch.bfloat16)
source = Batches(TileDataset(sys.argv[2]), recipe, IMAGENET, 14, dtype=torch.bfloat16).starting(0)
for step in range(int(sys.argv[3])):
    trainer.step(step, [next(source)])
source.close()
"""


def cost(python: str, code: str, *arguments: str) -> tuple[float, float]:
    """Wall and processor seconds of a child and its children."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    environment = os.environ | {"OMP_WAIT_POLICY": "PASSIVE", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [python, "-c", code, *arguments], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.perf_counter() - started, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", help="interpreter of the environment that holds lightly-train")
    parser.add_argument("--short", type=int, default=1)
    parser.add_argument("--long", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    given = parser.parse_args()
    if not given.peer_python:
        print("skipped: name an environment with lightly-train by --peer-python (see this file's first lines)")
        return
    threads = str(given.threads)
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder) / "images" / "all"
        images.mkdir(parents=True)
        rng = np.random.default_rng(0)
        for number in range(BATCH):  # one epoch of the peer is one step
            Image.fromarray(rng.integers(0, 255, (256, 256, 3), np.uint8)).save(images / f"{number}.png")
        tiles = Path(folder) / "tiles"
        command = [sys.executable, "-m", "geodino", "tile", str(images.parent), "--gsd", "10", "--size", "256"]
        subprocess.run([*command, "-o", str(tiles)], check=True, capture_output=True)
        spent = {}
        for steps in (given.short, given.long):
            spent["peer", steps] = cost(given.peer_python, PEER, folder + "/out", str(images), str(steps), threads)
            spent["ours", steps] = cost(sys.executable, OURS, "", str(tiles), str(steps), threads)
        extra = (given.long - given.short) * BATCH
        wall, processor = (
            {side: (spent[side, given.long][k] - spent[side, given.short][k]) / extra for side in ("peer", "ours")}
            for k in (0, 1)
        )
        print(f"ViT-S/14 with registers, 2x224 + 8x98, batch {BATCH}, 65,536 prototypes, bf16, {threads} threads")
        print(f"processor seconds an image: lightly-train {processor['peer']:.2f}, geodino {processor['ours']:.2f}")
        print(f"images/s: lightly-train {1 / wall['peer']:.2f}, geodino {1 / wall['ours']:.2f}")
        print(f"ratio: processor {processor['peer'] / processor['ours']:.2f}, wall {wall['peer'] / wall['ours']:.2f}")


if __name__ == "__main__":
    main()
