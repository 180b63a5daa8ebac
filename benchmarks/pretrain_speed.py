"""Training steps against a plain loop, interleaved in one run, and where a step's time goes.

Shape: ViT-Ti/16, 2 global crops of 112 and 4 local crops of 48 pixels, DINO + iBOT + KoLeo, bf16, 1,024 prototypes;
the crops are ready in memory for both, so that only the steps are compared. Then whole runs of `geodino pretrain`'s
batches with preparation in its thread: the share of a step spent waiting for data, and outside forward and backward.

    python benchmarks/pretrain_speed.py [--batch 128] [--rounds 5] [--threads N] [--compile] [--tiles TILES]
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from geodino.process import settle_process

settle_process()  # before torch is imported

import numpy as np
import torch
from _pretrain_plain import PlainLoop

from geodino.backbones.normalize import SATELLITE
from pretrain.data.batches import Batch, Batches, Tiles
from pretrain.engine.trainer import Trainer
from pretrain.network.network import build_network
from pretrain.recipes.loading import load_recipe
from pretrain.recipes.recipe import Recipe


class RandomTiles:
    """Tiles of noise in memory."""

    bands = ("red", "green", "blue")

    def __init__(self, count: int = 2048, size: int = 64) -> None:
        self.values = np.random.default_rng(0).random((count, 3, size, size), dtype=np.float32)

    def __len__(self) -> int:
        return len(self.values)

    def read_batch(self, indices: np.ndarray) -> Any:
        """Read tiles."""
        size = self.values.shape[-1]
        valid = np.ones((len(indices), size, size), bool)
        return argparse.Namespace(values=self.values[indices], valid=valid, gsd_m=np.full(len(indices), 10, np.float32))


def timed(action: Callable[[], Any]) -> tuple[float, float]:
    """Wall and processor seconds of a call."""
    wall, processor = time.perf_counter(), time.process_time()
    action()
    return time.perf_counter() - wall, time.process_time() - processor


def recipe_of(batch: int, gram: bool, compiled: bool = False) -> Recipe:
    """The recipe tiny, with or without Gram anchoring."""
    off = [] if gram else ["gram.weight=0", "crops.gram_scale=null"]
    return load_recipe("tiny", [f"batch_size={batch}", "gram.first_update=0", f"backbone.compile={compiled}", *off])


def against_plain(batch: int, rounds: int, compiled: bool) -> None:
    """Interleave steps of the loops on the same crops."""
    recipe = recipe_of(batch, gram=False)
    plain = PlainLoop(recipe.backbone.architecture, recipe.dino.head.prototypes)
    ways = {"recipe tiny without Gram": recipe}
    if compiled:
        ways["the same, compiled"] = recipe_of(batch, gram=False, compiled=True)
    trainers = {name: Trainer(way, build_network(way, 3), dtype=torch.bfloat16) for name, way in ways.items()}
    source = Batches(RandomTiles(), recipe, SATELLITE, 16).starting(0)
    batches: list[Batch] = [next(source) for _ in range(2)]
    source.close()
    small = [given.to(torch.device("cpu"), torch.bfloat16) for given in batches]
    plain.step(batches[0])
    for trainer in trainers.values():
        trainer.step(0, [small[0]])
    slow: list[tuple[float, float]] = []
    fast: dict[str, list[tuple[float, float]]] = {name: [] for name in trainers}
    for number in range(rounds):
        given = number % 2
        slow.append(timed(lambda at=given: plain.step(batches[at])))  # type: ignore[misc]
        for name, trainer in trainers.items():
            action = lambda one=trainer, at=given, step=number: one.step(step + 1, [small[at]])  # noqa: E731
            fast[name].append(timed(action))
    print(f"plain loop {batch / np.median(slow, axis=0)[0]:.1f} images/s")
    for name, times in fast.items():
        wall, processor = np.median(np.array(slow) / np.array(times), axis=0)
        print(
            f"{name} {batch / np.median(times, axis=0)[0]:.1f} images/s; over the plain loop, median of {rounds} "
            f"interleaved rounds: wall {wall:.2f}, processor {processor:.2f}"
        )


def shares(tiles: Tiles, batch: int, rounds: int) -> None:
    """Where the time of whole steps goes: waiting for data, forward and backward, the rest."""
    recipe = recipe_of(batch, gram=True)
    trainer = Trainer(recipe, build_network(recipe, 3), dtype=torch.bfloat16)
    trainer.refresh_gram(0)
    batches = Batches(tiles, recipe, SATELLITE, 16, dtype=torch.bfloat16)
    source = batches.starting(0)
    inside = 0.0

    def measured(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **settings: Any) -> Any:
            nonlocal inside
            started = time.perf_counter()
            result = function(*arguments, **settings)
            inside += time.perf_counter() - started
            return result

        return call

    trainer.step(0, [next(source)])
    trainer.module.forward = measured(trainer.module.forward)
    trainer.parallel = replace(trainer.parallel, backward=measured(trainer.parallel.backward))
    trainer.objective.targets = measured(trainer.objective.targets)  # type: ignore[method-assign]
    trainer.objective.losses = measured(trainer.objective.losses)  # type: ignore[method-assign]
    batches.waited = 0.0
    started = time.perf_counter()
    for step in range(1, rounds + 1):
        trainer.step(step, [next(source)])
    whole = time.perf_counter() - started
    source.close()
    print(f"recipe tiny with Gram: {rounds * batch / whole:.1f} images/s")
    print(f"data wait {100 * batches.waited / whole:.1f} % of a step")
    print(f"outside forward and backward {100 * (whole - inside) / whole:.1f} % (data wait included)")


def main() -> None:
    """Print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--compile", action="store_true", help="also with compiled blocks; compiling takes minutes")
    parser.add_argument("--tiles", help="tile set for the second part; noise in memory without")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"batch {arguments.batch}, {arguments.threads} threads, torch {torch.__version__}")
    against_plain(arguments.batch, arguments.rounds, arguments.compile)
    tiles: Tiles = RandomTiles()
    if arguments.tiles:
        from tiles.archive.dataset import TileDataset

        tiles = TileDataset(arguments.tiles)
    shares(tiles, arguments.batch, arguments.rounds)


if __name__ == "__main__":
    main()
