"""AdamW on float32 master weights, whatever the network computes in.

In bf16 the network holds bf16 weights, so that no layer casts its weights at every call as autocast does; the
optimiser keeps the float32 originals, reads the bf16 gradients and writes rounded copies back.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from pretrain.engine.sharding import placed_like, whole
from pretrain.recipes.schedule import steps_of
from pretrain.recipes.settings import OptimizerSettings

_BLOCK = re.compile(r"^backbone\.(?:blocks|stages)\.(\d+)\.")


@dataclass(frozen=True)
class Role:
    """What decides a parameter's learning rate and decay; parameters of one role share an optimiser group.

    Attributes:
        part: ``backbone``, ``patch_embed``, ``head`` or ``prototypes``.
        layer: Blocks between this parameter and the end of the backbone, for layer decay.
        decays: Whether weight decay applies.
    """

    part: str
    layer: int
    decays: bool


def role_of(name: str, parameter: Tensor, depth: int) -> Role:
    """Role of a parameter of a :class:`~pretrain.network.network.Network` whose backbone has ``depth`` blocks.

    Biases, norms and LayerScale do not decay; CLS, register and mask tokens do, as in DINOv3.
    """
    token = name.endswith(("cls_token", "reg_token", "mask_token", "pos_embed"))
    decays = token or (parameter.ndim > 1 and not name.endswith(("bias", "gamma")))
    if "prototypes" in name:
        return Role("prototypes", 0, decays)
    if name.startswith(("dino_head", "ibot_head")):
        return Role("head", 0, decays)
    if name.startswith(("backbone.patch_embed", "backbone.stem")):
        return Role("patch_embed", depth, decays)
    block = _BLOCK.match(name)
    if block:
        return Role("backbone", depth - 1 - int(block[1]), decays)
    return Role("backbone", depth if token else 0, decays)


class MasterAdamW:
    """AdamW with float32 master weights, roles, and clipping by part.

    Args:
        network: The student in float32, or sharded; rounded to ``dtype`` here, but where it is sharded.
        settings: Of the recipe.
        batch_size: Images a step, for the square-root rule of the learning rate.
        dtype: What the network computes in.
        new_bands: Whether the patch embedding warms up with the heads, since it meets bands it never saw.
    """

    def __init__(
        self,
        network: nn.Module,
        settings: OptimizerSettings,
        batch_size: int,
        dtype: torch.dtype = torch.float32,
        *,
        new_bands: bool = False,
    ) -> None:
        self.settings, self.batch_size, self.new_bands = settings, batch_size, new_bands
        self.names, self.working = zip(
            *((name, p) for name, p in network.named_parameters() if p.requires_grad), strict=True
        )
        backbone = cast(Any, network).backbone
        depth = len(backbone.stages if hasattr(backbone, "stages") else backbone.blocks)
        self.sharded = any(isinstance(p, DTensor) for p in self.working)
        self.copies = dtype != torch.float32 and not self.sharded
        self.masters: list[Tensor] = [p.detach().clone().requires_grad_() if self.copies else p for p in self.working]
        if self.copies:
            network.to(dtype)
        self.groups: dict[Role, list[Tensor]] = {}
        self.parts: dict[str, list[Tensor]] = {}
        for name, master in zip(self.names, self.masters, strict=True):
            self.groups.setdefault(role_of(name, master, depth), []).append(master)
            part = name.split(".")[0]
            self.parts.setdefault(part if part.endswith("head") else "backbone", []).append(master)
        self.adam = torch.optim.AdamW(
            [{"params": tensors} for tensors in self.groups.values()],
            lr=0.0,
            betas=settings.betas,
            fused=not self.sharded and all(m.device.type in ("cpu", "cuda") for m in self.masters),
        )

    def learning_rate(self, role: Role, step: int, max_steps: int) -> float:
        """Learning rate of a role at a step: schedule, batch, layer decay, freezing and ramp."""
        settings = self.settings
        rate = settings.rate(step, max_steps, self.batch_size) * settings.layer_decay**role.layer
        if role.part == "patch_embed":
            rate *= settings.patch_embed_lr
        if role.part == "prototypes" and step < steps_of(settings.freeze_prototypes, max_steps):
            return 0.0
        warm = steps_of(settings.warm_heads, max_steps)
        waits = role.part == "backbone" or (role.part == "patch_embed" and not self.new_bands)
        if waits and warm:
            ramp = max(1, steps_of(settings.ramp, max_steps))
            rate *= min(max((step - warm + 1) / ramp, 0.0), 1.0)
        return rate

    @torch.no_grad()
    def step(self, step: int, max_steps: int) -> dict[str, float]:
        """Clip, update and clear the gradients.

        Returns:
            Gradient norm of each part before clipping.
        """
        if self.copies:
            present = [(m, p) for m, p in zip(self.masters, self.working, strict=True) if p.grad is not None]
            for master, _ in present:
                if master.grad is None:
                    master.grad = torch.empty_like(master)
            torch._foreach_copy_([cast(Tensor, m.grad) for m, _ in present], [cast(Tensor, p.grad) for _, p in present])
        norms = {}
        for part, tensors in self.parts.items():
            gradients = [t.grad for t in tensors if t.grad is not None]
            norm = whole(torch.nn.utils.get_total_norm(gradients))
            if self.settings.clip:
                torch.nn.utils.clip_grads_with_norm_(tensors, self.settings.clip, norm)
            norms[part] = norm
        decay = self.settings.weight_decay.at(step, max_steps)
        for role, group in zip(self.groups, self.adam.param_groups, strict=True):
            group["lr"] = self.learning_rate(role, step, max_steps)
            group["weight_decay"] = decay if role.decays else 0.0
        self.adam.step()
        for tensor in self.working:
            tensor.grad = None
        if self.copies:
            torch._foreach_copy_(list(self.working), self.masters)
        return {part: float(norm) for part, norm in norms.items()}

    @torch.no_grad()
    def load_masters(self, tensors: Mapping[str, Tensor]) -> None:
        """Set master and working weights from tensors by name."""
        for name, master, working in zip(self.names, self.masters, self.working, strict=True):
            master.copy_(placed_like(tensors[name], master))
            if self.copies:
                working.copy_(master)

    def state(self) -> dict[str, Any]:
        """AdamW's state with whole tensors."""
        state = self.adam.state_dict()
        moments = {i: {k: whole(v) for k, v in entry.items()} for i, entry in state["state"].items()}
        return {"state": moments, "param_groups": state["param_groups"]}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take over a state of :meth:`state`."""
        order = [tensor for group in self.adam.param_groups for tensor in group["params"]]
        moments = {
            i: {k: v if k == "step" else placed_like(v, order[i]) for k, v in entry.items()}
            for i, entry in state["state"].items()
        }
        self.adam.load_state_dict({"state": moments, "param_groups": state["param_groups"]})

    def named_masters(self) -> Iterable[tuple[str, Tensor]]:
        """Names and float32 weights."""
        return zip(self.names, self.masters, strict=True)
