"""A recipe: everything that a training run is told, checked before the first step."""

import hashlib
from typing import Literal, Self

from pydantic import Field, model_validator

from pretrain.recipes.settings import (
    BackboneSettings,
    DinoSettings,
    GramSettings,
    IbotSettings,
    KoleoSettings,
    MonitorSettings,
    OptimizerSettings,
    Settings,
    TeacherSettings,
)
from pretrain.recipes.views import CropSettings, MaskSettings

# The phase whose finished run a phase goes on from.
PHASE_BEFORE = {"gram": "pretrain", "hires": "gram"}
# Keys that decide where and how fast a run goes, not what comes out.
ASIDE = frozenset(
    {"name", "workers", "log_every", "checkpoint_every", "keep_checkpoints", "milestone_every", "monitor", "strategy"}
)


class Recipe(Settings):
    """A whole recipe.

    Attributes:
        name: Its name, for the card.
        method: Defaults it is laid over.
        phase: Phase of the chain pretrain → gram → hires; later ones start from the run named in ``previous``.
        previous: Folder of the run that the phase goes on from.
        seed: Of weights, crops, masks and order.
        max_steps: Optimiser steps.
        batch_size: Images a step, over all ranks and micro-batches.
        accumulate: Micro-batches a step; losses and targets are those of the whole batch.
        workers: Threads that prepare batches; the result does not depend on it.
        precision: ``auto`` trains in bf16 where the hardware computes in it; master weights stay in float32.
        strategy: ``ddp`` copies the network to every rank, ``fsdp`` shards it.
        bands: Bands to train on; None takes the tile set's.
        split: Train on the tiles of this split of `geodino tiles split` alone; None takes every tile.
        normalization: ``auto`` is SAT-493M's for red, green, blue and the tile set's own for other bands.
        checkpoint_every: Steps between checkpoints.
        keep_checkpoints: Last checkpoints kept.
        milestone_every: Steps between checkpoints kept for good; 0 keeps none.
        log_every: Steps between rows of ``metrics.csv``.
    """

    name: str = "custom"
    method: Literal["dino", "dinov2", "dinov3"] = "dinov3"
    phase: Literal["pretrain", "gram", "hires"] = "pretrain"
    previous: str | None = None
    seed: int = Field(default=0, ge=0)
    max_steps: int = Field(default=1000, gt=0)
    batch_size: int = Field(default=64, gt=1)
    accumulate: int = Field(default=1, gt=0)
    workers: int = Field(default=1, ge=0)
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    strategy: Literal["ddp", "fsdp"] = "ddp"
    bands: tuple[str, ...] | None = None
    split: str | None = None
    normalization: Literal["auto", "satellite", "imagenet", "tiles"] = "auto"
    checkpoint_every: int = Field(default=500, gt=0)
    keep_checkpoints: int = Field(default=2, gt=0)
    milestone_every: int = Field(default=0, ge=0)
    log_every: int = Field(default=10, gt=0)
    backbone: BackboneSettings = BackboneSettings()
    crops: CropSettings = CropSettings()
    masks: MaskSettings = MaskSettings()
    dino: DinoSettings = DinoSettings()
    ibot: IbotSettings = IbotSettings()
    koleo: KoleoSettings = KoleoSettings()
    gram: GramSettings = GramSettings()
    teacher: TeacherSettings = TeacherSettings()
    optimizer: OptimizerSettings = OptimizerSettings()
    monitor: MonitorSettings = MonitorSettings()

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.batch_size % self.accumulate:
            raise ValueError(f"batch_size {self.batch_size} does not split into {self.accumulate} micro-batches")
        if self.phase != "pretrain" and self.previous is None:
            raise ValueError(
                f"phase {self.phase} goes on from a finished {PHASE_BEFORE[self.phase]} run: name its folder with "
                "--set previous=RUN"
            )
        micro = self.batch_size // self.accumulate
        if self.koleo.weight and self.accumulate > 1 and (self.koleo.group is None or micro % self.koleo.group):
            raise ValueError(
                f"with accumulate={self.accumulate} set koleo.group to a divisor of the micro-batch of {micro}, "
                "so that neighbours are the same as without accumulation"
            )
        if self.koleo.group and self.batch_size % self.koleo.group:
            raise ValueError(f"koleo.group {self.koleo.group} does not divide the batch of {self.batch_size}")
        return self

    @property
    def uses_gram(self) -> bool:
        """Whether the Gram term ever has weight."""
        return max(self.gram.weight.peak, self.gram.weight.end or 0.0, self.gram.weight.start) > 0

    def hash(self) -> str:
        """Hash of what decides the result; where and how fast it runs is left out."""
        return hashlib.sha256(self.model_dump_json(exclude=set(ASIDE)).encode()).hexdigest()[:16]
