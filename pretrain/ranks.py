"""The processes that share a batch, and the sums and gatherings that the losses need from them."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed
import torch.distributed.nn.functional
from torch import Tensor


class Ranks:
    """What a loss asks of the processes that share its batch; this one is alone, so every statistic is its own."""

    rank = 0
    world = 1

    def sum(self, value: Tensor) -> Tensor:
        """Sum a constant over ranks."""
        return value

    def mean(self, value: Tensor) -> Tensor:
        """Average a constant over ranks."""
        return self.sum(value) / self.world if self.world > 1 else value

    def means(self, values: Mapping[str, Tensor]) -> dict[str, float]:
        """Scalars averaged over ranks, by name, as numbers."""
        stacked = self.mean(torch.stack([value.detach().float() for value in values.values()]))
        return dict(zip(values, stacked.tolist(), strict=True))

    def max(self, value: Tensor) -> Tensor:
        """Largest of a constant over ranks, element by element."""
        return value

    def gather(self, value: Tensor) -> Tensor:
        """Concatenate equal-sized ``[B, ...]`` in rank order; the gradient goes back to the rank it came from."""
        return value

    def first(self, value: Tensor) -> Tensor:
        """What a constant is on rank 0."""
        return value


class Group(Ranks):
    """The processes of a ``torch.distributed`` group (None: all of them)."""

    def __init__(self, group: torch.distributed.ProcessGroup | None = None) -> None:
        self.group = group
        self.rank = torch.distributed.get_rank(group)
        self.world = torch.distributed.get_world_size(group)

    def _reduced(self, value: Tensor, operation: torch.distributed.ReduceOp.RedOpType) -> Tensor:
        result = value.detach().clone()
        torch.distributed.all_reduce(result, op=operation, group=self.group)
        return result

    def sum(self, value: Tensor) -> Tensor:
        """Sum a constant over the group."""
        return self._reduced(value, torch.distributed.ReduceOp.SUM)

    def max(self, value: Tensor) -> Tensor:
        """Largest of a constant over the group, element by element."""
        return self._reduced(value, torch.distributed.ReduceOp.MAX)

    def gather(self, value: Tensor) -> Tensor:
        """Concatenate equal-sized tensors in rank order, differentiably."""
        group = self.group if self.group is not None else torch.distributed.group.WORLD
        gather: Any = torch.distributed.nn.functional.all_gather
        return torch.cat(gather(value.contiguous(), group=group))

    def first(self, value: Tensor) -> Tensor:
        """What a constant is on the group's rank 0."""
        result = value.detach().clone(memory_format=torch.contiguous_format)
        torch.distributed.broadcast(result, group=self.group, group_src=0)
        return result


ALONE = Ranks()
