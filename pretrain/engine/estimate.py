"""What a run will cost, measured by taking a few of its own steps."""

import resource
import sys
import time

import torch

from pretrain.data.batches import Batches
from pretrain.engine.trainer import Trainer

_WARM, _TIMED = 1, 2


def estimate(trainer: Trainer, batches: Batches) -> str:
    """Take a few steps and tell their cost on this machine, for people; the trainer is spent afterwards.

    Args:
        trainer: Fresh trainer of the run.
        batches: Its batches.
    """
    recipe = trainer.recipe
    if recipe.uses_gram:
        trainer.update_gram()
    source = batches.starting(0)
    cuda = trainer.device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats(trainer.device)
    started = 0.0
    # The last steps of the run: every loss has its weight there.
    first = max(0, recipe.max_steps - _WARM - _TIMED)
    for number in range(_WARM + _TIMED):
        if number == _WARM:
            started = time.perf_counter()
        trainer.step(first + number, [next(source) for _ in range(recipe.accumulate)])
    if cuda:
        torch.cuda.synchronize(trainer.device)
    seconds = (time.perf_counter() - started) / _TIMED
    source.close()
    peak = torch.cuda.max_memory_allocated(trainer.device) if cuda else _peak_resident_bytes()
    student = sum(p.numel() for p in trainer.student.parameters())
    backbone = sum(p.numel() for p in trainer.student.backbone.parameters())
    width = torch.finfo(trainer.dtype).bits // 8
    # student and gradient, masters and two moments where they are apart, teacher and its master, Gram teacher
    state = student * (2 * width + (4 if trainer.optimizer.copies else 0) + 8 + width + 4)
    state += backbone * width if recipe.uses_gram else 0
    return (
        f"backbone {backbone / 1e6:.1f} M parameters, heads {(student - backbone) / 1e6:.1f} M\n"
        f"memory: {state / 2**30:.2f} GiB of weights and moments, {peak / 2**30:.2f} GiB at the peak of a step\n"
        f"time: {seconds:.2f} s a step, {recipe.batch_size / seconds:.1f} images/s, "
        f"{seconds * recipe.max_steps / 3600:.2f} h for the run"
    )


def _peak_resident_bytes() -> int:
    # kilobytes on Linux, bytes on macOS
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
