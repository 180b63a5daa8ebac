"""The engine: student, teachers, optimiser, and one step of training."""

import math
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn

from geodino.backbones.architecture import patch_size_of
from pretrain.data.batches import Batch
from pretrain.data.sampling import stream_seed
from pretrain.engine.objective import Centers, Objective
from pretrain.engine.optimizer import MasterAdamW
from pretrain.engine.parallel import Parallel
from pretrain.engine.sharding import placed_like, whole
from pretrain.engine.teacher import backbone_of, copy_weights, ema_update, frozen_copy, gram_update_due
from pretrain.network.network import Network
from pretrain.recipes.recipe import Recipe

LOSSES = ("dino_global", "dino_local", "ibot", "koleo", "gram")
_STEP_STREAM = 2


class NonFiniteLossError(ArithmeticError):
    """A loss became infinite or no number; nothing was updated.

    Attributes:
        losses: The losses by name.
        step: Where it happened.
        batches: The micro-batches that gave it.
    """

    def __init__(self, step: int, losses: dict[str, float], batches: Sequence[Batch]) -> None:
        super().__init__(f"step {step}: {losses}")
        self.step, self.losses, self.batches = step, losses, batches


class Trainer:
    """Everything that changes during training, and the step that changes it.

    Args:
        recipe: Of the run.
        student: The network to train; cast to ``dtype`` here.
        parallel: How this process takes part: where it computes, and with whom. With FSDP the student's float32 weights
            are cut over ranks, and it computes in ``dtype`` itself.
        dtype: What it computes in; float32 master weights are kept beside bf16.
        new_bands: Whether the patch embedding has filters for bands that its weights never saw.
    """

    def __init__(
        self,
        recipe: Recipe,
        student: Network,
        parallel: Parallel | None = None,
        *,
        dtype: torch.dtype = torch.float32,
        new_bands: bool = False,
    ) -> None:
        self.recipe, self.dtype, self.parallel = recipe, dtype, parallel or Parallel()
        self.device, self.ranks = self.parallel.device, self.parallel.ranks
        self.student = student.to(self.device).train()
        with torch.no_grad():  # what every copy below is taken of is the same on all ranks
            for parameter in self.student.parameters():
                parameter.copy_(self.ranks.first(parameter))
        self.teacher = cast(Network, frozen_copy(self.student)).to(dtype)
        if self.parallel.shard:
            self.parallel.shard(self.student)
        self.optimizer = MasterAdamW(self.student, recipe.optimizer, recipe.batch_size, dtype, new_bands=new_bands)
        self.teacher_masters = [master.detach().clone() for master in self.optimizer.masters]
        self.gram: nn.Module | None = None
        self.centers = Centers(
            torch.zeros(recipe.dino.head.prototypes, device=self.device),
            torch.zeros(recipe.ibot.head.prototypes, device=self.device) if self.student.ibot_head else None,
        )
        self.patch = patch_size_of(self.student.backbone)
        self.objective = Objective(recipe, self.ranks, self.patch)
        self.module: nn.Module = self.parallel.wrap(self.student) if self.parallel.wrap else self.student

    def step(self, step: int, batches: Sequence[Batch]) -> dict[str, float]:
        """Take one optimiser step.

        Args:
            step: From 0.
            batches: ``recipe.accumulate`` micro-batches.

        Returns:
            Losses, schedule values and gradient norms, by name.

        Raises:
            NonFiniteLossError: Before anything is updated, when the total loss is not finite.
        """
        recipe = self.recipe
        torch.manual_seed(stream_seed(recipe.seed, _STEP_STREAM, step))
        moved = [batch.to(self.device, self.dtype) for batch in batches]
        temperature = recipe.teacher.temperature.at(step, recipe.max_steps)
        targets = self.objective.targets(self.teacher, moved, temperature, self.centers)
        totals = self.objective.totals(moved)
        gram_weight = recipe.gram.weight.at(step, recipe.max_steps)
        gram = self.gram if gram_weight > 0 else None
        sums: dict[str, Tensor] = {}
        for number, (batch, target) in enumerate(zip(moved, targets, strict=True)):
            last = number == len(moved) - 1
            with nullcontext() if last else self.parallel.accumulating(self.module):
                scores = self.module(batch.globals_, batch.locals_, batch.masks, batch.masked)
                losses = self.objective.losses(scores, target, batch, totals, gram)
                total = self.objective.total(losses, step) / len(moved)
                for name, value in [*losses.items(), ("total", total * len(moved))]:
                    sums[name] = sums.get(name, value.new_zeros(())) + value.detach() / len(moved)
                # Every rank must take part in the exchange of gradients, also the one whose loss is not finite.
                if self.ranks.world > 1 or torch.isfinite(total):
                    self.parallel.backward(total)
        values = self.ranks.means(sums)
        if not all(math.isfinite(value) for value in values.values()):
            for parameter in self.student.parameters():
                parameter.grad = None
            raise NonFiniteLossError(step, values, batches)
        norms = self.optimizer.step(step, recipe.max_steps)
        momentum = recipe.teacher.momentum.at(step, recipe.max_steps)
        ema_update(self.teacher_masters, self.optimizer.masters, momentum)
        self._round_teacher()
        self.refresh_gram(step + 1)
        report = {name: values.get(name, 0.0) for name in ("total", *LOSSES)}
        report |= {
            "lr": recipe.optimizer.rate(step, recipe.max_steps, recipe.batch_size),
            "momentum": momentum,
            "teacher_temperature": temperature,
            "gram_weight": gram_weight if gram is not None else 0.0,
        }
        report |= {f"grad_norm_{part}": norm for part, norm in norms.items()}
        return report

    @torch.no_grad()
    def _round_teacher(self) -> None:
        torch._foreach_copy_(
            self._teacher_weights(),
            [whole(master.to(self.dtype)) for master in self.teacher_masters]
            if self.optimizer.sharded
            else self.teacher_masters,
        )

    def _teacher_weights(self) -> list[Tensor]:
        names = dict(self.teacher.named_parameters())
        return [names[name] for name in self.optimizer.names]

    def refresh_gram(self, done: int) -> None:
        """Copy the EMA teacher into the Gram teacher if that is due after ``done`` steps."""
        recipe = self.recipe
        if recipe.uses_gram and recipe.gram.teacher == "ema" and gram_update_due(done, recipe.gram, recipe.max_steps):
            self.update_gram()

    def update_gram(self) -> None:
        """Copy the EMA teacher's backbone into the Gram teacher."""
        if self.gram is None:
            self.gram = frozen_copy(self.teacher.backbone)
        else:
            copy_weights(self.gram, self.teacher.backbone)

    def state(self) -> dict[str, Any]:
        """Everything that a resumed run needs, in float32; on sharded ranks all of them must ask for it."""
        return {
            "student": {name: whole(master.detach()) for name, master in self.optimizer.named_masters()},
            "teacher": {n: whole(m) for n, m in zip(self.optimizer.names, self.teacher_masters, strict=True)},
            "optimizer": self.optimizer.state(),
            "gram": None if self.gram is None else self.gram.state_dict(),
            "centers": [self.centers.dino, self.centers.ibot],
        }

    @torch.no_grad()
    def load_state(self, state: dict[str, Any], *, optimizer: bool = True) -> None:
        """Take over a state.

        Args:
            state: Of :meth:`state`.
            optimizer: Also take its moments; a new phase starts with fresh ones.
        """
        self.optimizer.load_masters(state["student"])
        for master, name in zip(self.teacher_masters, self.optimizer.names, strict=True):
            master.copy_(placed_like(state["teacher"][name], master))
        self._round_teacher()
        if not optimizer:
            return
        self.optimizer.load_state(state["optimizer"])
        dino, ibot = state["centers"]
        self.centers = Centers(dino.to(self.device), None if ibot is None else ibot.to(self.device))
        if state["gram"] is not None:
            self.gram = frozen_copy(self.teacher.backbone)
            self.gram.load_state_dict(state["gram"])

    def teacher_backbone(self) -> nn.Module:
        """A float32 copy of the EMA teacher's backbone, as it is exported; all sharded ranks must ask for it."""
        return backbone_of(self.teacher, self.optimizer.names, [whole(value) for value in self.teacher_masters])
