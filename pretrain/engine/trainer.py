"""The engine: student, teachers, optimiser, and one step of training."""

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from geodino.backbones.architecture import patch_size_of
from pretrain.data.batches import Batch
from pretrain.data.sampling import stream_seed
from pretrain.engine.network import HeadSize, Network, create_backbone, is_convnext
from pretrain.engine.objective import Centers, Objective
from pretrain.engine.optimizer import MasterAdamW
from pretrain.engine.ranks import ALONE, Ranks
from pretrain.engine.sharding import placed_like, whole
from pretrain.engine.teacher import copy_weights, ema_update, frozen_copy, gram_update_due
from pretrain.recipes.recipe import HeadSettings, Recipe

LOSSES = ("dino_global", "dino_local", "ibot", "koleo", "gram")
_WEIGHTS_STREAM, _STEP_STREAM = 1, 2


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


@dataclass
class StepReport:
    """What a step gave: losses, schedule values and gradient norms, by name."""

    values: dict[str, float]


def build_network(recipe: Recipe, bands: int) -> Network:
    """The student of a recipe with seeded random weights in float32."""
    settings = recipe.backbone
    arguments: dict[str, Any] = dict(settings.arguments)
    convnext = settings.architecture.startswith("convnext")
    if settings.drop_path and convnext:
        arguments["drop_path_rate"] = settings.drop_path
    key = "ls_init_value" if convnext else "init_values"
    if settings.layer_scale is not None:
        arguments.setdefault(key, settings.layer_scale)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(recipe.seed, _WEIGHTS_STREAM))
        backbone = create_backbone(settings.architecture, bands, **arguments)
        rope = getattr(backbone, "rope", None)
        if settings.rope_rescale is not None and rope is not None:
            rope.rescale_coords, rope.aug_active = settings.rope_rescale, settings.rope_rescale > 1
        masks = recipe.ibot.weight > 0 and not is_convnext(backbone)
        return Network(
            backbone,
            head_size(recipe.dino.head),
            head_size(recipe.ibot.head) if masks else None,
            untie_norms=settings.untie_norms,
            drop_path=0.0 if convnext else settings.drop_path,
            checkpointing=settings.activation_checkpointing,
            compiled=settings.compile,
        )


def head_size(settings: HeadSettings) -> HeadSize:
    """Widths of a head."""
    return HeadSize(settings.hidden, settings.bottleneck, settings.prototypes, settings.unit_prototypes)


class Trainer:
    """Everything that changes during training, and the step that changes it.

    Args:
        recipe: Of the run.
        student: The network to train; cast to ``dtype`` here.
        device: Where it computes.
        dtype: What it computes in; float32 master weights are kept beside bf16.
        ranks: Processes that share the batch.
        shard: Cuts the student's float32 weights over ranks in place, for FSDP; it then computes in ``dtype`` itself.
        wrap: Turns the student into what its forward pass is called on, for DDP.
        backward: Called on a loss; its own ``backward`` by default.
        accumulating: Context of ``wrap``'s result that skips the gradient exchange between micro-batches.
        new_bands: Whether the patch embedding has filters for bands that its weights never saw.
    """

    def __init__(
        self,
        recipe: Recipe,
        student: Network,
        *,
        device: torch.device | None = None,
        dtype: torch.dtype = torch.float32,
        ranks: Ranks = ALONE,
        shard: Callable[[Network], None] | None = None,
        wrap: Callable[[Network], nn.Module] | None = None,
        backward: Callable[[Tensor], None] | None = None,
        accumulating: Callable[[nn.Module], AbstractContextManager[None]] | None = None,
        new_bands: bool = False,
    ) -> None:
        self.recipe, self.ranks, self.dtype = recipe, ranks, dtype
        self.device = device or torch.device("cpu")
        self.student = student.to(self.device).train()
        with torch.no_grad():  # what every copy below is taken of is the same on all ranks
            for parameter in self.student.parameters():
                parameter.copy_(ranks.first(parameter))
        self.teacher = cast(Network, frozen_copy(self.student)).to(dtype)
        if shard:
            shard(self.student)
        # The optimiser takes its float32 copies before the network is rounded.
        exact = [p.detach().float().clone() for p in self.student.parameters() if p.requires_grad]
        if not shard:
            self.student.to(dtype)
        self.optimizer = MasterAdamW(self.student, recipe.optimizer, recipe.batch_size, new_bands=new_bands)
        with torch.no_grad():
            for master, value in zip(self.optimizer.masters, exact, strict=True):
                master.copy_(value)
        self.teacher_masters = [value.clone() for value in exact]
        self.gram: nn.Module | None = None
        self.centers = Centers(
            torch.zeros(recipe.dino.head.prototypes, device=self.device),
            torch.zeros(recipe.ibot.head.prototypes, device=self.device) if self.student.ibot_head else None,
        )
        self.patch = patch_size_of(self.student.backbone)
        self.objective = Objective(recipe, ranks, self.patch)
        self.module: nn.Module = wrap(self.student) if wrap else self.student
        self._accumulating, self._backward = accumulating, backward or Tensor.backward

    def step(self, step: int, batches: Sequence[Batch]) -> StepReport:
        """Take one optimiser step.

        Args:
            step: From 0.
            batches: ``recipe.accumulate`` micro-batches.

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
            quiet = nullcontext() if last or self._accumulating is None else self._accumulating(self.module)
            with quiet:
                scores = self.module(batch.globals_, batch.locals_, batch.masks, batch.masked)
                losses = self.objective.losses(scores, target, batch, totals, gram)
                total = self.objective.total(losses, step) / len(moved)
                for name, value in [*losses.items(), ("total", total * len(moved))]:
                    sums[name] = sums.get(name, value.new_zeros(())) + value.detach() / len(moved)
                # Every rank must take part in the exchange of gradients, also the one whose loss is not finite.
                if self.ranks.world > 1 or torch.isfinite(total):
                    self._backward(total)
        values = self._values(sums)
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
            "lr": recipe.optimizer.lr.at(step, recipe.max_steps) * self.optimizer.scale,
            "momentum": momentum,
            "teacher_temperature": temperature,
            "gram_weight": gram_weight if gram is not None else 0.0,
        }
        report |= {f"grad_norm_{part}": norm for part, norm in norms.items()}
        return StepReport(report)

    def _values(self, sums: dict[str, Tensor]) -> dict[str, float]:
        stacked = self.ranks.mean(torch.stack(list(sums.values())))
        return dict(zip(sums, stacked.tolist(), strict=True))

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

    @torch.no_grad()
    def teacher_backbone(self) -> nn.Module:
        """A float32 copy of the EMA teacher's backbone, as it is exported; all sharded ranks must ask for it."""
        result = cast(Network, frozen_copy(self.teacher)).float()
        names = dict(result.named_parameters())
        for name, value in zip(self.optimizer.names, self.teacher_masters, strict=True):
            names[name].copy_(whole(value))
        return result.backbone
