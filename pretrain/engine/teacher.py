"""The two teachers: the moving average of the student, and the frozen one that Gram anchoring looks up to."""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pretrain.recipes.schedule import steps_of
from pretrain.recipes.settings import GramSettings


@torch.no_grad()
def ema_update(teacher: Sequence[Tensor], student: Sequence[Tensor], momentum: float) -> None:
    """Move every teacher tensor towards the student's: ``t = momentum * t + (1 - momentum) * s``, in place.

    Args:
        teacher: float32 tensors.
        student: float32 tensors of the same shapes.
        momentum: In [0, 1]; 1 leaves the teacher alone.
    """
    torch._foreach_lerp_(list(teacher), list(student), 1 - momentum)


def gram_update_due(done: int, settings: GramSettings, max_steps: int) -> bool:
    """Whether the EMA teacher is copied into the Gram teacher after ``done`` optimiser steps.

    Copies follow from the number of steps alone, so a resumed run makes the same ones.
    """
    past = done - steps_of(settings.first_update, max_steps)
    every = max(1, steps_of(settings.every, max_steps))
    return past >= 0 and past % every == 0 and past // every < settings.max_updates


def frozen_copy(module: nn.Module) -> nn.Module:
    """A copy in evaluation mode that takes no gradient."""
    twin = copy.deepcopy(module).eval()
    for parameter in twin.parameters():
        parameter.requires_grad_(False)
    return twin


@torch.no_grad()
def copy_weights(target: nn.Module, source: nn.Module) -> None:
    """Copy parameters and buffers of one module into another of the same structure."""
    pairs = zip([*target.parameters(), *target.buffers()], [*source.parameters(), *source.buffers()], strict=True)
    for to, value in pairs:
        to.copy_(value)


@torch.no_grad()
def backbone_of(network: nn.Module, names: Sequence[str], values: Sequence[Tensor]) -> nn.Module:
    """A float32 copy of a network's backbone, its parameters set to values by name."""
    twin = frozen_copy(network).float()
    parameters = dict(twin.named_parameters())
    for name, value in zip(names, values, strict=True):
        parameters[name].copy_(value)
    return twin.get_submodule("backbone")
