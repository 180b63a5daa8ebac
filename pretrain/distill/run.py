"""A distillation run: a tile set, a frozen teacher and several students in, one backbone folder a student out.

The teacher sees every image once, whatever the number of students; `pretrain.distill.ranks` says who does what where
there are several processes.
"""

import os
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from geodino.backbones.architecture import patch_size_of
from geodino.backbones.backbone import Backbone, load_backbone
from geodino.backbones.card import BackboneCard
from geodino.backbones.hardware import pick_device, pick_dtype
from pretrain.data.batches import Batch, Batches, Tiles
from pretrain.data.sampling import stream_seed
from pretrain.distill.objective import Standardization
from pretrain.distill.ranks import Place
from pretrain.distill.recipe import DistillRecipe
from pretrain.distill.student import WEIGHTS_STREAM, StudentTrainer
from pretrain.engine.checkpoint import checkpoints, load_checkpoint
from pretrain.engine.checks import check_crops, check_tiles
from pretrain.engine.run_folder import (
    BackboneFolder,
    card_of,
    check_same_tiles,
    keep_nonfinite,
    refuse_other_recipe,
    refuse_other_run,
    write_recipe,
)
from pretrain.engine.trainer import NonFiniteLossError
from pretrain.monitor.metrics import MetricsLog, Pace
from pretrain.network.encode import TokenBatch, encode, untrained
from pretrain.ranks import Ranks
from tiles.errors import InputError
from tiles.progress import progress


@dataclass(frozen=True)
class Distillation:
    """What a distillation is made of.

    Attributes:
        tiles: The tile set; it must hold the teacher's bands.
        source: Where it lies.
        folder: ``RUN/``; each student gets a folder of its own in it.
        recipe: Resolved recipe.
        device: ``auto``, ``cpu`` or ``cuda``.
    """

    tiles: Tiles
    source: str
    folder: Path
    recipe: DistillRecipe
    device: str = "auto"


def distill(run: Distillation, *, resume: bool = False, show: bool = False) -> Path:
    """Train every student of the recipe on one frozen teacher.

    Args:
        run: What to train on, whom and from whom.
        resume: Go on from the last checkpoints; from step 0 where there are none.
        show: Report progress.

    Returns:
        The run's folder.

    Raises:
        InputError: Before the first step, when tiles, teacher, students and processes do not fit each other; in the
            middle, when a loss stops being finite.
        OutputError: When the folder holds another run.
    """
    recipe = run.recipe
    device = pick_device(run.device)
    if "LOCAL_RANK" in os.environ and device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    dtype = pick_dtype(recipe.precision, device)
    teacher = load_backbone(recipe.teacher, device=device.type, precision="bf16" if dtype == torch.bfloat16 else "fp32")
    data = recipe.data_recipe(teacher.bands)
    check_tiles(run.tiles, run.source, data)
    backbones = [_backbone(recipe, number, len(teacher.bands)) for number in range(len(recipe.students))]
    check_crops(recipe.crops.model_copy(update={"local_count": 0}), teacher.patch_size, " of the teacher")
    for settings, backbone in zip(recipe.students, backbones, strict=True):
        check_crops(recipe.crops, patch_size_of(backbone), f" of {settings.architecture}")
    # before processes meet, so that none sees what another writes
    refuse_other_run(run.folder, resume)
    refuse_other_recipe(run.folder, recipe)
    place = Place.take(recipe, [float(sum(p.numel() for p in b.parameters())) for b in backbones], device)
    if place.world.rank == 0:
        write_recipe(run.folder, recipe)
    trainers = {
        number: StudentTrainer(
            recipe, recipe.students[number], backbones[number], teacher.embed_dim, device, dtype, place.group, number
        )
        for number in place.students
    }
    step, statistics = _take_over(run, teacher, trainers) if resume else (0, None)

    def batches(ranks: Ranks) -> Batches:
        made = Batches(
            run.tiles,
            data,
            teacher.normalization,
            teacher.patch_size,
            rank=ranks.rank,
            world=ranks.world,
            dtype=dtype,
            masks=False,
        )
        made.chunk = place.chunk(recipe.batch_size)
        return made

    _train(run, teacher, trainers, place, batches(place.world), batches(place.group), step, statistics, show)
    return run.folder


def _backbone(recipe: DistillRecipe, number: int, bands: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(recipe.seed, WEIGHTS_STREAM, number, 1))
        return untrained(recipe.students[number], bands)


def _take_over(
    run: Distillation, teacher: Backbone, trainers: dict[int, StudentTrainer]
) -> tuple[int, Standardization | None]:
    """Load the last step that every student has reached."""
    found = [checkpoints(run.folder / name / "checkpoints") for name in run.recipe.names()]
    common = set.intersection(*(set(steps) for steps in found))
    if not common:
        return 0, None
    step, statistics = max(common), None
    for number, trainer in trainers.items():
        state = load_checkpoint(found[number][step])
        check_same_tiles(state, run.tiles, run.source, run.folder)
        if state["teacher"] != teacher.hash:
            raise InputError(f"{run.recipe.teacher} has other weights than when {run.folder} was started; give those")
        trainer.load_state(state)
        statistics = Standardization(*(tensor.to(trainer.device) for tensor in state["statistics"]))
    return step, statistics


@torch.no_grad()
def teacher_tokens(teacher: Backbone, batch: Batch) -> TokenBatch:
    """Tokens of the teacher for the global crops of a batch, in its own precision."""
    return encode(teacher.module, torch.cat(batch.globals_))


def _train(
    run: Distillation,
    teacher: Backbone,
    trainers: dict[int, StudentTrainer],
    place: Place,
    shared: Batches,
    own: Batches,
    step: int,
    statistics: Standardization | None,
    show: bool,
) -> None:
    recipe, names = run.recipe, run.recipe.names()
    device, dtype = teacher.device, pick_dtype(recipe.precision, teacher.device)
    alone, leads = place.world.world == 1, place.group.rank == 0
    side = recipe.crops.global_size // teacher.patch_size
    if statistics is None:
        statistics = _statistics(teacher, shared, recipe, place, device, dtype)
    folders = {
        number: BackboneFolder(run.folder / names[number], run.tiles, step, keep=recipe.keep_checkpoints)
        for number in trainers
    }
    for folder in folders.values():
        folder.path.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        source = stack.enter_context(closing(shared.starting(step)))
        students = source if alone else stack.enter_context(closing(own.starting(step)))
        logs = {
            number: stack.enter_context(closing(MetricsLog(folder.path, step, enabled=leads)))
            for number, folder in folders.items()
        }
        bar = stack.enter_context(progress("distill", recipe.max_steps, show=show and place.world.rank == 0))
        pace = Pace(recipe.batch_size, recipe.max_steps - step)
        while step < recipe.max_steps:
            batch = next(source).to(device, dtype)
            tokens = statistics(place.exchanged(teacher_tokens(teacher, batch), len(batch.globals_)))
            mine = batch if alone else next(students).to(device, dtype)
            values = {}
            for number, trainer in trainers.items():
                try:
                    values[number] = trainer.step(step, mine, tokens, side)
                except NonFiniteLossError as error:
                    raise InputError(keep_nonfinite(folders[number].path, error, place.group)) from None
            step += 1
            pace.count(shared.waited)
            bar.update(step, pace.note(sum(value["total"] for value in values.values()) / len(values)))
            last = step == recipe.max_steps
            for number, trainer in trainers.items():
                if step % recipe.log_every == 0 or last:
                    logs[number].write(step, values[number] | pace.numbers())
                if leads and (step % recipe.checkpoint_every == 0 or last):
                    state = trainer.state() | {"statistics": statistics.state(), "teacher": teacher.hash}
                    card = _card(run, teacher, trainer, names[number])
                    folders[number].save(step, state, trainer.exported(), card, values[number])


def _statistics(
    teacher: Backbone, batches: Batches, recipe: DistillRecipe, place: Place, device: torch.device, dtype: torch.dtype
) -> Standardization:
    """Standardisation of the teacher's tokens, from the first batches of the run."""
    found, valid = [], []
    with closing(batches.starting(0)) as source:
        for _ in range(recipe.statistics_steps):
            batch = next(source).to(device, dtype)
            found.append(teacher_tokens(teacher, batch))
            valid.append(batch.valid)
    cls, patches = torch.cat([t.cls for t in found]), torch.cat([t.patches for t in found])
    return Standardization.of(cls, patches, torch.cat(valid), place.world)


def _card(run: Distillation, teacher: Backbone, trainer: StudentTrainer, name: str) -> BackboneCard:
    """The card of a student's averaged backbone."""
    data = f"distilled from {teacher.name} ({teacher.hash[:16]}) on {len(run.tiles)} tiles of {Path(run.source).name}"
    return card_of(
        trainer.settings,
        trainer.student.backbone,
        run.tiles,
        run.recipe.crops,
        teacher.normalization,
        trainer.device,
        bands=teacher.bands,
        data=data,
        licence=teacher.licence,
        name=f"{run.folder.name}/{name}",
        seed=run.recipe.seed,
    )
