"""The recipe of a distillation: that of a training, with students in place of methods."""

from collections.abc import Sequence
from pathlib import Path

from pydantic import Field, model_validator

from pretrain.recipes.loading import checked, from_pairs, merged, read_recipe_file
from pretrain.recipes.recipe import Recipe
from pretrain.recipes.schedule import Schedule, Scheduled
from pretrain.recipes.settings import NetworkSettings, OptimizerSettings, Settings
from pretrain.recipes.views import CropSettings, RadiometrySettings
from tiles.errors import InputError


class StudentSettings(NetworkSettings):
    """One student.

    Attributes:
        ranks: Processes that train it, when there are several; None shares them out by number of parameters.
    """

    layer_scale: float | None = Field(default=0.1, gt=0)
    ranks: int | None = Field(default=None, gt=0)


class LossWeights(Settings):
    """Weights of the three terms."""

    cls: float = Field(default=1.0, ge=0)
    patches: float = Field(default=1.0, ge=0)
    local: float = Field(default=0.5, ge=0)


class DistillRecipe(Settings):
    """A whole distillation.

    Attributes:
        teacher: The frozen backbone, as for ``load_backbone``.
        students: What is trained; all see the same crops and the same targets.
        seed: Of weights, crops and order.
        max_steps: Optimiser steps.
        batch_size: Images a step, over all ranks.
        workers: Threads that prepare batches.
        precision: As in a training recipe.
        statistics_steps: Batches whose teacher tokens set the standardisation.
        momentum: Of the average of a student's weights that is exported.
        weights: Of the losses.
        crops: What teacher and students see; the crops of both are the same.
        optimizer: Of each student.
        checkpoint_every: Steps between checkpoints.
        keep_checkpoints: Last checkpoints kept; two at least, since one student's is written after another's.
        log_every: Steps between rows of ``metrics.csv``.
    """

    teacher: str
    students: tuple[StudentSettings, ...] = Field(min_length=1)
    seed: int = Field(default=0, ge=0)
    max_steps: int = Field(default=1000, gt=0)
    batch_size: int = Field(default=64, gt=1)
    workers: int = Field(default=1, ge=0)
    precision: str = Field(default="auto", pattern="^(auto|fp32|bf16)$")
    statistics_steps: int = Field(default=4, gt=0)
    momentum: Scheduled = Schedule(peak=0.99, end=0.999)
    weights: LossWeights = LossWeights()
    crops: CropSettings = CropSettings(
        global_size=128,
        local_size=64,
        local_count=2,
        global_scale=(0.4, 1.0),
        local_scale=(0.15, 0.4),
        radiometry=RadiometrySettings(blur_probability_global=(0.1,), blur_probability_local=0.1),
    )
    optimizer: OptimizerSettings = OptimizerSettings.model_validate(
        {"lr": Schedule(peak=2e-3, warmup=0.1, end=1e-6), "patch_embed_lr": 1.0, "betas": (0.9, 0.999)}
    )
    checkpoint_every: int = Field(default=200, gt=0)
    keep_checkpoints: int = Field(default=2, ge=2)
    log_every: int = Field(default=10, gt=0)

    @model_validator(mode="after")
    def _all_or_no_ranks(self) -> "DistillRecipe":
        given = [student.ranks is not None for student in self.students]
        if any(given) and not all(given):
            raise ValueError("give ranks for every student or for none")
        return self

    def names(self) -> list[str]:
        """A folder name for each student: its architecture, numbered where it comes twice."""
        names: list[str] = []
        for student in self.students:
            base = student.architecture.split(".")[0]
            names.append(base if base not in names else f"{base}-{sum(n.startswith(base) for n in names) + 1}")
        return names

    def data_recipe(self, bands: tuple[str, ...]) -> Recipe:
        """The part that prepares batches, as a training recipe."""
        shared = ("seed", "max_steps", "batch_size", "workers", "crops")
        return Recipe.model_validate({name: getattr(self, name) for name in shared} | {"bands": bands})


def load_distill_recipe(
    source: Path | None, teacher: str, architectures: Sequence[str], overrides: Sequence[str] = ()
) -> DistillRecipe:
    """Read a recipe and lay teacher, students and ``KEY=VALUE`` pairs over it.

    Args:
        source: YAML file, or None for the defaults.
        teacher: Whom the students learn from.
        architectures: Students by architecture, in place of the file's.
        overrides: Such as ``max_steps=100``.

    Raises:
        InputError: When the file, a key or a value does not fit, or there is no student.
    """
    given = merged({} if source is None else read_recipe_file(source), from_pairs(overrides))
    given["teacher"] = teacher
    if architectures:
        given["students"] = [{"architecture": name} for name in architectures]
    if not given.get("students"):
        raise InputError("a distillation needs a student: add --student ARCHITECTURE, or students in the recipe")
    # Crops and optimiser are laid over this recipe's own defaults, not over those of a training.
    for section in ("crops", "optimizer"):
        if isinstance(given.get(section), dict):
            given[section] = merged(DistillRecipe.model_fields[section].default.model_dump(), given[section])
    return checked(DistillRecipe, given, "of the command" if source is None else str(source))
