"""A distillation run: a tile set, a frozen teacher and several students in, one backbone folder a student out.

The teacher sees every image once, whatever the number of students; `pretrain.distill.ranks` says who does what where
there are several processes.
"""

import json
import os
import platform
import time
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from geodino.backbones.architecture import patch_size_of
from geodino.backbones.backbone import Backbone, load_backbone, save_backbone
from geodino.backbones.card import BackboneCard
from geodino.backbones.hardware import pick_device, pick_dtype
from pretrain.data.batches import Batch, Batches, Tiles
from pretrain.data.sampling import stream_seed
from pretrain.distill.objective import Standardization, smallest_side
from pretrain.distill.ranks import Place
from pretrain.distill.recipe import DistillRecipe
from pretrain.distill.student import WEIGHTS_STREAM, StudentTrainer
from pretrain.engine.checkpoint import checkpoints, load_checkpoint, save_checkpoint
from pretrain.engine.checks import check_tiles
from pretrain.engine.metrics import MetricsLog, Pace
from pretrain.engine.network import TokenBatch, create_backbone, encode, is_convnext
from pretrain.engine.ranks import Ranks
from pretrain.engine.run import explain_nonfinite, fingerprint, hours_spent
from pretrain.engine.trainer import NonFiniteLossError
from tiles.errors import InputError, OutputError
from tiles.progress import progress

RECIPE_FILE = "recipe.yaml"


@dataclass(frozen=True)
class Distillation:
    """What a distillation is made of.

    Attributes:
        tiles: The tile set; it must hold the teacher's bands.
        source: Where it lies.
        folder: ``RUN/``; each student gets a folder of its own in it.
        recipe: Resolved recipe.
        teacher: Backbone, as for ``load_backbone``.
        device: ``auto``, ``cpu`` or ``cuda``.
    """

    tiles: Tiles
    source: str
    folder: Path
    recipe: DistillRecipe
    teacher: str
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
    teacher = load_backbone(run.teacher, device=device.type, precision="bf16" if dtype == torch.bfloat16 else "fp32")
    data = recipe.data_recipe(teacher.bands)
    check_tiles(run.tiles, run.source, data)
    backbones = [_backbone(recipe, number, len(teacher.bands)) for number in range(len(recipe.students))]
    _check_sizes(recipe, teacher, backbones)
    _refuse_other_run(run, resume)
    place = Place.take(recipe, [float(sum(p.numel() for p in b.parameters())) for b in backbones], device)
    if place.world.rank == 0:
        _write_recipe(run)
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
    settings = recipe.students[number]
    arguments = dict(settings.arguments)
    key = "ls_init_value" if settings.architecture.startswith("convnext") else "init_values"
    if settings.layer_scale is not None:
        arguments.setdefault(key, settings.layer_scale)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(recipe.seed, WEIGHTS_STREAM, number, 1))
        return create_backbone(settings.architecture, bands, **arguments | {"drop_path_rate": settings.drop_path})


def _check_sizes(recipe: DistillRecipe, teacher: Backbone, backbones: list[nn.Module]) -> None:
    if recipe.crops.global_size % teacher.patch_size:
        raise InputError(
            f"crops.global_size {recipe.crops.global_size} is no multiple of the teacher's "
            f"{teacher.patch_size}-pixel patch"
        )
    sizes = {"crops.global_size": recipe.crops.global_size}
    if recipe.crops.local_count:
        sizes["crops.local_size"] = recipe.crops.local_size
    for settings, backbone in zip(recipe.students, backbones, strict=True):
        side = smallest_side(backbone)
        for name, size in sizes.items():
            if size % side:
                raise InputError(
                    f"{name} {size} is no multiple of the {side} pixels that {settings.architecture} needs"
                )


def _refuse_other_run(run: Distillation, resume: bool) -> None:
    """Refuse a folder that holds another run; called before processes meet, so that none sees what another writes."""
    path = run.folder / RECIPE_FILE
    if not path.exists():
        return
    if not resume:
        raise OutputError(f"{run.folder} holds a run already; add --resume to go on with it or choose another folder")
    before, now = yaml.safe_load(path.read_text()), _settings(run)
    aside = {"workers", "checkpoint_every", "keep_checkpoints", "log_every"}
    changed = [key for key in now if key not in aside and before.get(key) != now[key]]
    if changed:
        raise InputError(
            f"{run.folder} was started with other settings ({', '.join(changed[:3])}); resume it with its own"
        )


def _settings(run: Distillation) -> dict[str, Any]:
    return {"teacher": run.teacher, **run.recipe.model_dump(mode="json")}


def _write_recipe(run: Distillation) -> None:
    path = _made(run.folder) / RECIPE_FILE
    part = path.with_name(RECIPE_FILE + ".part")
    part.write_text(yaml.safe_dump(_settings(run), sort_keys=False))
    part.replace(path)


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
        if state["tiles"] != fingerprint(run.tiles):
            raise InputError(f"{run.source} is not the tile set that {run.folder} was started on; give that one")
        if state["teacher"] != teacher.hash:
            raise InputError(f"{run.teacher} has other weights than when {run.folder} was started; give those")
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
    earlier = {number: hours_spent(run.folder / names[number], step) for number in trainers}
    started = time.perf_counter()
    with ExitStack() as stack:
        source = stack.enter_context(closing(shared.starting(step)))
        students = source if alone else stack.enter_context(closing(own.starting(step)))
        logs = {
            number: stack.enter_context(MetricsLog(_made(run.folder / names[number]), step, enabled=leads))
            for number in trainers
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
                    raise InputError(explain_nonfinite(run.folder / names[number], error, place.group)) from None
            step += 1
            pace.count(shared.waited)
            bar.update(step, pace.note(sum(value["total"] for value in values.values()) / len(values)))
            last = step == recipe.max_steps
            for number, trainer in trainers.items():
                if step % recipe.log_every == 0 or last:
                    extra = {"images_per_s": pace.images_per_s, "data_wait": pace.data_wait}
                    logs[number].write(step, values[number] | extra)
                if leads and (step % recipe.checkpoint_every == 0 or last):
                    folder = run.folder / names[number]
                    state = trainer.state() | {
                        "statistics": statistics.state(),
                        "tiles": fingerprint(run.tiles),
                        "teacher": teacher.hash,
                    }
                    save_checkpoint(
                        folder / "checkpoints", step, state, keep=recipe.keep_checkpoints, milestone_every=0
                    )
                    hours = earlier[number] + (time.perf_counter() - started) / 3600
                    card = card_of(run, teacher, trainer, names[number], step, hours, values[number])
                    save_backbone(trainer.exported(), card, folder)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


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


def card_of(
    run: Distillation,
    teacher: Backbone,
    trainer: StudentTrainer,
    name: str,
    step: int,
    hours: float,
    metrics: dict[str, float],
) -> BackboneCard:
    """The card of a student's averaged backbone."""
    from geodino import __version__

    settings = trainer.settings
    arguments = dict(settings.arguments)
    if settings.layer_scale is not None:
        key = "ls_init_value" if is_convnext(trainer.student.backbone) else "init_values"
        arguments.setdefault(key, settings.layer_scale)
    column = getattr(run.tiles, "column", None)
    gsd = None
    if column is not None:
        values = column("gsd_m")
        size = int(getattr(run.tiles, "size", run.recipe.crops.global_size))
        gsd = run.recipe.crops.gsd_range_m(size, (float(values.min()), float(values.max())))
    return BackboneCard(
        architecture=settings.architecture.split(".")[0],
        model_args=json.loads(json.dumps(arguments)),
        bands=teacher.bands,
        mean=teacher.normalization.mean,
        std=teacher.normalization.std,
        patch_size=patch_size_of(trainer.student.backbone),
        gsd_range_m=gsd,
        crop_px=run.recipe.crops.global_size,
        data=f"distilled from {teacher.name} ({teacher.hash[:16]}) on {len(run.tiles)} tiles of "
        f"{Path(run.source).name}",
        licence=teacher.licence,
        version=__version__,
        metrics={"step": step} | {key: round(value, 6) for key, value in metrics.items()},
        name=f"{run.folder.name}/{name}",
        seed=run.recipe.seed,
        hours=round(hours, 3),
        hardware=f"{platform.machine()}, {torch.get_num_threads()} threads"
        if trainer.device.type == "cpu"
        else torch.cuda.get_device_name(trainer.device),
    )
