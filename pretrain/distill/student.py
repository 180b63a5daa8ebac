"""One student of a distillation: its step, its average, its state."""

import math
from typing import Any

import torch
from torch import nn

from pretrain.data.batches import Batch
from pretrain.data.sampling import stream_seed
from pretrain.distill.objective import Student, distillation_losses
from pretrain.distill.recipe import DistillRecipe, StudentSettings
from pretrain.engine.optimizer import MasterAdamW
from pretrain.engine.teacher import backbone_of, ema_update
from pretrain.engine.trainer import NonFiniteLossError
from pretrain.network.encode import TokenBatch
from pretrain.ranks import Ranks

WEIGHTS_STREAM, _STEP_STREAM = 11, 12


class StudentTrainer:
    """One student with its optimiser and the average of its weights.

    Args:
        recipe: Of the run.
        settings: Of the student.
        backbone: The student's untrained backbone.
        dim: Width of the teacher's tokens.
        device: Where it computes.
        dtype: What it computes in.
        ranks: Processes that train it.
        number: Its index; seeds its weights.
    """

    def __init__(
        self,
        recipe: DistillRecipe,
        settings: StudentSettings,
        backbone: nn.Module,
        dim: int,
        device: torch.device,
        dtype: torch.dtype,
        ranks: Ranks,
        number: int,
    ) -> None:
        self.recipe, self.settings, self.ranks, self.number = recipe, settings, ranks, number
        self.device, self.dtype = device, dtype
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream_seed(recipe.seed, WEIGHTS_STREAM, number))
            self.student = Student(backbone, dim, drop_path=settings.drop_path)
        self.student.to(device).train()
        self.optimizer = MasterAdamW(self.student, recipe.optimizer, recipe.batch_size, dtype)
        self.average = [master.detach().clone() for master in self.optimizer.masters]

    def step(self, step: int, batch: Batch, teacher: TokenBatch, side: int) -> dict[str, float]:
        """Take one optimiser step.

        Args:
            step: From 0.
            batch: This process's share of the batch.
            teacher: Standardised tokens of its global crops.
            side: Tokens along the teacher's grid.

        Raises:
            NonFiniteLossError: Before anything is updated, when a loss is not finite.
        """
        recipe = self.recipe
        torch.manual_seed(stream_seed(recipe.seed, _STEP_STREAM, step, self.number, self.ranks.rank))
        whole = self.student(torch.cat(batch.globals_), side)
        local = self.student(torch.cat(batch.locals_), None).cls if batch.locals_ else whole.cls[:0]
        losses = distillation_losses(
            (whole, local), teacher, batch.valid, batch.global_weights, batch.local_weights, self.ranks
        )
        total = torch.stack([getattr(recipe.weights, name) * loss for name, loss in losses.items()]).sum()
        values = self.ranks.means({**losses, "total": total})
        if not all(math.isfinite(value) for value in values.values()):
            raise NonFiniteLossError(step, values, [batch])
        total.backward()  # type: ignore[no-untyped-call]
        self._share_gradients()
        norms = self.optimizer.step(step, recipe.max_steps)
        ema_update(self.average, self.optimizer.masters, recipe.momentum.at(step, recipe.max_steps))
        values["lr"] = recipe.optimizer.rate(step, recipe.max_steps, recipe.batch_size)
        return values | {f"grad_norm_{part}": norm for part, norm in norms.items()}

    def _share_gradients(self) -> None:
        if self.ranks.world == 1:
            return
        gradients = [p.grad for p in self.student.parameters() if p.grad is not None]
        flat = self.ranks.mean(torch.cat([g.float().flatten() for g in gradients]))
        for gradient, part in zip(gradients, torch.split(flat, [g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))

    def state(self) -> dict[str, Any]:
        """Everything that a resumed run needs."""
        return {
            "student": dict(self.optimizer.named_masters()),
            "average": dict(zip(self.optimizer.names, self.average, strict=True)),
            "optimizer": self.optimizer.adam.state_dict(),
        }

    @torch.no_grad()
    def load_state(self, state: dict[str, Any]) -> None:
        """Take over a state."""
        self.optimizer.load_masters(state["student"])
        for tensor, name in zip(self.average, self.optimizer.names, strict=True):
            tensor.copy_(state["average"][name])
        self.optimizer.adam.load_state_dict(state["optimizer"])

    def exported(self) -> nn.Module:
        """A float32 copy of the averaged backbone."""
        return backbone_of(self.student, self.optimizer.names, self.average)
