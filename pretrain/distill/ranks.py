"""Who does what in a distillation on several processes.

Every process runs the teacher on its share of the batch and gives its tokens to all; pixels are not exchanged, since
crops are a function of seed and step and each student's processes make their own. Each student is trained by a group
of processes, larger where the student costs more.
"""

import math
import os
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from pretrain.data.batches import CHUNK
from pretrain.distill.recipe import DistillRecipe
from pretrain.network.encode import TokenBatch
from pretrain.ranks import ALONE, Group, Ranks
from tiles.errors import InputError


@dataclass(frozen=True)
class Place:
    """Where this process stands: all processes, and those of its student.

    Attributes:
        world: All processes.
        group: Those that train this process's students.
        students: Indices of the students trained here.
    """

    world: Ranks
    group: Ranks
    students: tuple[int, ...]

    @classmethod
    def take(cls, recipe: DistillRecipe, costs: list[float], device: torch.device) -> "Place":
        """Join the processes that torchrun started and divide them among the students, or run alone.

        Raises:
            InputError: When processes, ``ranks`` and batch do not fit each other.
        """
        world = int(os.environ.get("WORLD_SIZE", "1"))
        if world == 1:
            return cls(ALONE, ALONE, tuple(range(len(costs))))
        given = [student.ranks for student in recipe.students]
        counts = [g for g in given if g is not None] or allotted_ranks(costs, world)
        if sum(counts) != world:
            raise InputError(f"the students' ranks add up to {sum(counts)}, but {world} processes were started")
        for part in {world, *counts}:
            if recipe.batch_size % part:
                raise InputError(f"batch_size {recipe.batch_size} does not split over {part} processes")
        if not dist.is_initialized():
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        rank, mine, start = dist.get_rank(), 0, 0
        group: dist.ProcessGroup | None = None
        for index, count in enumerate(counts):
            members = list(range(start, start + count))
            made: Any = dist.new_group(members)  # every process makes every group
            if rank in members:
                mine, group = index, made
            start += count
        return cls(Group(), Group(group), (mine,))

    def exchanged(self, tokens: TokenBatch, crops: int) -> TokenBatch:
        """Gather the tokens of all processes and keep those of this process's images."""
        if self.world.world == 1:
            return tokens

        def share(value: Tensor) -> Tensor:
            own = value.float().view(crops, -1, *value.shape[1:]).transpose(0, 1).contiguous()  # [B / W, G, ...]
            parts = [torch.empty_like(own) for _ in range(self.world.world)]
            dist.all_gather(parts, own)
            mine = torch.cat(parts).chunk(self.group.world)[self.group.rank]
            return mine.transpose(0, 1).flatten(0, 1)

        return TokenBatch(share(tokens.cls), share(tokens.patches))

    def chunk(self, batch_size: int) -> int:
        """Samples that draw from one generator: as many for any number of processes up to eight, so the same crops."""
        parts = math.gcd(batch_size // self.world.world, batch_size // self.group.world)
        wanted = max(1, batch_size // 8)
        return max(size for size in range(1, min(CHUNK, wanted) + 1) if parts % size == 0)


def allotted_ranks(costs: list[float], world: int) -> list[int]:
    """Share ``world`` processes out to students in proportion to cost, at least one each.

    Raises:
        InputError: When there are fewer processes than students.
    """
    if world < len(costs):
        raise InputError(
            f"{world} processes cannot serve {len(costs)} students; start at least one for each, or one for all"
        )
    counts = [1] * len(costs)
    for _ in range(world - len(costs)):
        slowest = max(range(len(costs)), key=lambda index: costs[index] / counts[index])
        counts[slowest] += 1
    return counts
