"""Processes and devices, through Lightning Fabric: one processor, one GPU, or the ranks that torchrun starts."""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from geodino.backbones.hardware import pick_device, pick_dtype
from pretrain.data.batches import batch_problem
from pretrain.engine.sharding import shard
from pretrain.network.network import Network
from pretrain.ranks import ALONE, Group, Ranks
from pretrain.recipes.recipe import Recipe
from tiles.errors import InputError


@dataclass(frozen=True)
class Parallel:
    """How this process takes part in a run.

    Attributes:
        device: Where it computes.
        ranks: Processes that share the batch.
        shard: Cuts the student over ranks; None without FSDP.
        wrap: Makes the student exchange gradients; None alone and with FSDP.
        backward: Backward pass of a loss; the loss's own by default.
        accumulating: Holds the exchange back between micro-batches; nothing is held alone.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    ranks: Ranks = ALONE
    shard: Callable[[Network], None] | None = None
    wrap: Callable[[Network], nn.Module] | None = None
    backward: Callable[[Tensor], None] = Tensor.backward
    accumulating: Callable[[nn.Module], AbstractContextManager[Any]] = nullcontext

    @classmethod
    def start(cls, recipe: Recipe, device: str = "auto") -> "Parallel":
        """Join the processes that torchrun started, or run alone.

        Raises:
            InputError: When the batch does not split over the processes.
        """
        place = pick_device(device)
        world = int(os.environ.get("WORLD_SIZE", "1"))
        problem = batch_problem(recipe, world)
        if problem:
            raise InputError(problem)
        if place.type == "cuda":
            torch.backends.cuda.matmul.allow_tf32 = True
        if world == 1:
            return cls(place)
        from lightning.fabric import Fabric

        fabric: Any = Fabric(
            accelerator="cuda" if place.type == "cuda" else "cpu",
            devices=int(os.environ.get("LOCAL_WORLD_SIZE", "1")),
            num_nodes=max(1, world // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))),
            strategy="ddp",
        )
        fabric.launch()
        if recipe.strategy == "fsdp":
            dtype = pick_dtype(recipe.precision, fabric.device)
            return cls(
                fabric.device,
                Group(),
                shard=lambda network: shard(network, fabric.device, dtype),
                accumulating=without_exchange,
            )
        return cls(
            fabric.device,
            Group(),
            wrap=lambda network: cast(nn.Module, fabric.setup_module(network)),
            backward=fabric.backward,
            accumulating=lambda module: cast(AbstractContextManager[Any], fabric.no_backward_sync(module)),
        )


@contextmanager
def without_exchange(module: nn.Module) -> Iterator[None]:
    """Keep a sharded student's gradients on their rank."""
    student = cast(FSDPModule, module)
    student.set_requires_gradient_sync(False)
    try:
        yield
    finally:
        student.set_requires_gradient_sync(True)
