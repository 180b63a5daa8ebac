"""Schedules: a value for every step, from a few numbers in a recipe."""

import math
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


class Schedule(BaseModel):
    """Linear warm-up from ``start`` to ``peak``, then constant, then a fall or rise to ``end``.

    A plain number in a recipe is the constant schedule. Lengths up to 1 are shares of the run (``warmup: 0.1``),
    lengths above 1 are steps (``warmup: 2000``), so that a recipe keeps its shape when ``max_steps`` changes.

    Attributes:
        start: Value at step 0, when there is a warm-up.
        peak: Value after the warm-up.
        end: Value at the last step; None stays at ``peak``.
        warmup: Length of the linear part.
        decay: Length of the cosine part at the end of the run, from ``peak`` to ``end``; None is all the rest.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    peak: float
    start: float = 0.0
    end: float | None = None
    warmup: float = Field(default=0.0, ge=0)
    decay: float | None = Field(default=None, ge=0)

    def at(self, step: int, max_steps: int) -> float:
        """Value at ``step`` (from 0) of a run of ``max_steps``."""
        warmup = steps_of(self.warmup, max_steps)
        if step < warmup:
            return self.start + (self.peak - self.start) * (step + 1) / warmup
        if self.end is None:
            return self.peak
        rest = max(max_steps - warmup, 1)
        decay = rest if self.decay is None else min(steps_of(self.decay, max_steps), rest)
        done = (step - (max_steps - decay) + 1) / max(decay, 1)
        share = (1 - math.cos(math.pi * min(max(done, 0.0), 1.0))) / 2
        return self.peak + (self.end - self.peak) * share


def steps_of(length: float, max_steps: int) -> int:
    """A length in steps: up to 1 it is a share of ``max_steps``, above it is a number of steps."""
    return round(length * max_steps) if length <= 1 else round(length)


def _from_number(value: Any) -> Any:
    return {"peak": value} if isinstance(value, int | float) and not isinstance(value, bool) else value


Scheduled = Annotated[Schedule, BeforeValidator(_from_number)]
