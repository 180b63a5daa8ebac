"""A training run: a tile set and a recipe in, ``RUN/`` out.

``RUN/`` holds ``backbone.safetensors`` and ``backbone.json`` (the EMA teacher), ``checkpoints/``, ``metrics.csv``,
``recipe.yaml`` as resolved, and TensorBoard files where TensorBoard is installed.
"""

import hashlib
import json
import platform
import time
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from geodino.backbones.backbone import Backbone, load_backbone, save_backbone
from geodino.backbones.card import CARD_FILE, RGB, BackboneCard, read_card
from geodino.backbones.hardware import pick_dtype
from geodino.backbones.normalize import IMAGENET, SATELLITE, Normalization
from pretrain.data.batches import Batches, Tiles
from pretrain.engine.checkpoint import checkpoints, latest, load_checkpoint, save_checkpoint
from pretrain.engine.checks import check_compiler, check_recipe, check_tiles
from pretrain.engine.estimate import estimate
from pretrain.engine.initialize import adopt_architecture, initialize
from pretrain.engine.metrics import MetricsLog, Pace
from pretrain.engine.network import Network, is_convnext
from pretrain.engine.parallel import Parallel
from pretrain.engine.ranks import Ranks
from pretrain.engine.trainer import NonFiniteLossError, Trainer, build_network
from pretrain.engine.whiten import whiten_patch_embedding
from pretrain.monitor.drift_monitor import DriftMonitor
from pretrain.recipes.recipe import ASIDE, PHASE_BEFORE, Recipe
from tiles.errors import InputError, OutputError
from tiles.progress import progress

RECIPE_FILE = "recipe.yaml"


@dataclass(frozen=True)
class Run:
    """What a run is made of.

    Attributes:
        tiles: The tile set.
        source: Where it lies, for messages and the card.
        folder: ``RUN/``.
        recipe: Resolved recipe.
        init: Backbone to start from, or None.
        device: ``auto``, ``cpu`` or ``cuda``.
    """

    tiles: Tiles
    source: str
    folder: Path
    recipe: Recipe
    init: str | None = None
    device: str = "auto"

    @property
    def bands(self) -> tuple[str, ...]:
        """Bands that the network sees."""
        return self.recipe.bands or tuple(self.tiles.bands)


def pretrain(run: Run, *, resume: bool = False, show: bool = False) -> Path:
    """Train a backbone.

    Args:
        run: What to train on and how.
        resume: Go on from the last checkpoint of ``run.folder``; from step 0 where there is none.
        show: Report progress.

    Returns:
        The run's folder.

    Raises:
        InputError: Before the first step, when tiles, recipe and backbone do not fit each other; in the middle, when a
            loss stops being finite.
        OutputError: When the folder holds another run.
    """
    _refuse_other_run(run, resume)
    parallel = Parallel.start(run.recipe, run.device)
    run, trainer, start = _start(run, parallel)
    _refuse_other_recipe(run)
    step = _take_over(run, trainer, resume)
    if step == 0 and start is not None:
        trainer.load_state(start, optimizer=False)
    if step == 0 and run.recipe.uses_gram and run.recipe.gram.teacher != "ema":
        set_gram_teacher(trainer, run.recipe.gram.teacher)
    main = parallel.ranks.rank == 0
    monitor = drift_monitor(run, trainer, step) if main and run.recipe.monitor.every else None
    if main:
        _write_recipe(run)
    _train(run, trainer, batches_of(run, trainer, parallel), step, parallel, monitor, show)
    return run.folder


def describe(run: Run) -> str:
    """The resolved recipe and what it will cost; writes nothing.

    Raises:
        InputError: As :func:`pretrain`.
    """
    parallel = Parallel.start(run.recipe, run.device)
    run, trainer, _ = _start(run, parallel)
    cost = estimate(trainer, batches_of(run, trainer, parallel))
    return f"{run.recipe.to_yaml()}\n{cost}"


def _start(run: Run, parallel: Parallel) -> tuple[Run, Trainer, dict[str, Any] | None]:
    """Check everything that can be checked, then build: the run as resolved, its trainer, the phase before's state."""
    backbone = None if run.init is None else load_backbone(run.init, device="cpu", precision="fp32")
    run = replace(run, recipe=adopt_architecture(run.recipe, backbone))
    check_tiles(run.tiles, run.source, run.recipe)
    check_recipe(run.recipe)
    check_compiler(run.recipe, parallel.device)
    normalization_of(run)
    network, state = starting_network(run, backbone)
    new_bands = backbone is not None and bool({*run.bands} - {*backbone.bands})
    return run, make_trainer(run.recipe, network, parallel, new_bands=new_bands), state


def batches_of(run: Run, trainer: Trainer, parallel: Parallel) -> Batches:
    """The run's batches for this process."""
    return Batches(
        run.tiles,
        run.recipe,
        normalization_of(run),
        trainer.patch,
        rank=parallel.ranks.rank,
        world=parallel.ranks.world,
        dtype=trainer.dtype,
        masks=trainer.student.ibot_head is not None,
    )


def _refuse_other_run(run: Run, resume: bool) -> None:
    if (run.folder / RECIPE_FILE).exists() and not resume:
        raise OutputError(f"{run.folder} holds a run already; add --resume to go on with it or choose another folder")


def _refuse_other_recipe(run: Run) -> None:
    path = run.folder / RECIPE_FILE
    if not path.exists():
        return
    before = Recipe.model_validate(yaml.safe_load(path.read_text()))
    if before.hash() != run.recipe.hash():
        changed = ", ".join(_differences(before.model_dump(), run.recipe.model_dump())[:3])
        raise InputError(f"{run.folder} was started with another recipe ({changed} differ); resume it with its own")


def _write_recipe(run: Run) -> None:
    run.folder.mkdir(parents=True, exist_ok=True)
    path = run.folder / RECIPE_FILE
    part = path.with_name(RECIPE_FILE + ".part")
    part.write_text(run.recipe.to_yaml())
    part.replace(path)


def _differences(before: dict[str, Any], now: dict[str, Any], prefix: str = "") -> list[str]:
    found = []
    for key, value in now.items():
        old = before.get(key)
        if isinstance(value, dict) and isinstance(old, dict):
            found += _differences(old, value, f"{prefix}{key}.")
        elif old != value and key not in ASIDE:
            found.append(prefix + key)
    return found


def starting_network(run: Run, backbone: Backbone | None) -> tuple[Network, dict[str, Any] | None]:
    """The student before step 0: random, from ``backbone``, or the state of the phase before.

    Returns:
        The network, and the state of the previous phase when there is one.
    """
    network = build_network(run.recipe, len(run.bands))
    if run.recipe.previous is not None:
        path = _last_of_previous(run.recipe.phase, Path(run.recipe.previous))
        state = load_checkpoint(path)
        check_state(network, state, str(path))
        return network, state
    if backbone is not None:
        initialize(network, backbone, run.bands, run.init or backbone.name)
    elif run.recipe.backbone.whiten_patches:
        channels = [run.tiles.bands.index(band) for band in run.bands]
        whiten_patch_embedding(network.backbone, run.tiles, channels, normalization_of(run), run.recipe.seed)
    return network, None


def _last_of_previous(phase: str, previous: Path) -> Path:
    """The last checkpoint of the run that a phase goes on from.

    Raises:
        InputError: When that run is none, is of another phase than the one before, or has not finished.
    """
    found = checkpoints(previous / "checkpoints")
    if not found:
        raise InputError(
            f"phase {phase} goes on from {previous}, which holds no checkpoint of `geodino pretrain`; name the folder "
            "of the finished run before it with --set previous=RUN"
        )
    path = previous / RECIPE_FILE
    try:
        recipe = yaml.safe_load(path.read_text())
        before, steps = recipe["phase"], int(recipe["max_steps"])
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError):
        raise InputError(
            f"{path} does not tell the phase and max_steps of the run that phase {phase} goes on from; give the folder "
            "as `geodino pretrain` wrote it"
        ) from None
    expected = PHASE_BEFORE.get(phase, before)
    if before != expected:
        raise InputError(
            f"phase {phase} goes on from a finished {expected} run, and {previous} is a {before} run; name a "
            f"{expected} run with --set previous=RUN"
        )
    last = max(found)
    if last < steps:
        raise InputError(
            f"{previous} has come to step {last} of {steps}, and phase {phase} goes on from a finished run; finish it "
            "with --resume first"
        )
    return found[last]


def check_state(network: Network, state: dict[str, Any], source: str) -> None:
    """Refuse a checkpoint of another architecture, before anything is overwritten.

    Raises:
        InputError: Naming the first tensor that differs.
    """
    expected = {name: tuple(p.shape) for name, p in network.named_parameters()}
    found = {name: tuple(value.shape) for name, value in state["student"].items()}
    different = [name for name in sorted({*expected, *found}) if expected.get(name) != found.get(name)]
    if different:
        name = different[0]
        raise InputError(
            f"{source} comes from another architecture: {name} is {found.get(name, 'absent')} there and "
            f"{expected.get(name, 'absent')} in this recipe; use the recipe that it was trained with"
        )


def make_trainer(recipe: Recipe, network: Network, parallel: Parallel, *, new_bands: bool = False) -> Trainer:
    """The trainer of a network on this process's device."""
    return Trainer(
        recipe,
        network,
        device=parallel.device,
        dtype=pick_dtype(recipe.precision, parallel.device),
        ranks=parallel.ranks,
        shard=parallel.shard,
        wrap=parallel.wrap,
        backward=parallel.backward,
        accumulating=parallel.accumulating,
        new_bands=new_bands,
    )


def _take_over(run: Run, trainer: Trainer, resume: bool) -> int:
    path = latest(run.folder) if resume else None
    if path is None:
        return 0
    state = load_checkpoint(path)
    check_state(trainer.student, state, str(path))
    if state["tiles"] != fingerprint(run.tiles):
        raise InputError(f"{run.source} is not the tile set that {run.folder} was started on; give that one to resume")
    trainer.load_state(state)
    return int(state["step"])


def fingerprint(tiles: Tiles) -> str:
    """What a resumed run compares a tile set by: number, bands and statistics."""
    statistics = [np.asarray(getattr(tiles, name)).tolist() for name in ("mean", "std") if hasattr(tiles, name)]
    return hashlib.sha256(json.dumps([len(tiles), list(tiles.bands), statistics]).encode()).hexdigest()[:16]


def set_gram_teacher(trainer: Trainer, source: str) -> None:
    """Make the backbone of a run, or any other of the same architecture, the Gram teacher.

    Raises:
        InputError: When its tensors do not fit.
    """
    given = load_backbone(source, device="cpu", precision="fp32").module.state_dict()
    trainer.update_gram()
    own = trainer.gram.state_dict() if trainer.gram is not None else {}
    different = [name for name, value in own.items() if name not in given or given[name].shape != value.shape]
    if different or trainer.gram is None:
        raise InputError(f"gram.teacher {source} is of another architecture: {different[0]} does not fit")
    trainer.gram.load_state_dict(given)


def normalization_of(run: Run) -> Normalization:
    """Statistics that the run standardises by."""
    choice = run.recipe.normalization
    rgb = run.bands == RGB
    if choice == "imagenet" or choice == "satellite" or (choice == "auto" and rgb):
        if not rgb:
            raise InputError(f"normalization {choice} is for red, green, blue, not {', '.join(run.bands)}; use tiles")
        return IMAGENET if choice == "imagenet" else SATELLITE
    tiles: Any = run.tiles
    places = [run.tiles.bands.index(band) for band in run.bands]
    return Normalization.of([tiles.mean[p] for p in places], [max(tiles.std[p], 1e-3) for p in places])


def _train(
    run: Run,
    trainer: Trainer,
    batches: Batches,
    step: int,
    parallel: Parallel,
    monitor: DriftMonitor | None,
    show: bool,
) -> None:
    recipe = run.recipe
    main = parallel.ranks.rank == 0
    earlier, started = hours_spent(run.folder, step), time.perf_counter()
    with (
        closing(batches.starting(step)) as source,
        MetricsLog(run.folder, step, enabled=main) as log,
        progress("pretrain", recipe.max_steps, show=show and main) as bar,
    ):
        pace = Pace(recipe.batch_size, recipe.max_steps - step)
        if step == 0:
            trainer.refresh_gram(0)
        while step < recipe.max_steps:
            micro = [next(source) for _ in range(recipe.accumulate)]
            try:
                report = trainer.step(step, micro)
            except NonFiniteLossError as error:
                raise InputError(explain_nonfinite(run.folder, error, parallel.ranks)) from None
            step += 1
            pace.count(batches.waited)
            if step % recipe.log_every == 0 or step == recipe.max_steps:
                log.write(step, report.values | {"images_per_s": pace.images_per_s, "data_wait": pace.data_wait})
            if monitor is not None and (monitor.due(step) or step == recipe.max_steps):
                log.draw(step, monitor.measure(trainer.teacher, step, report.values["teacher_temperature"]))
            bar.update(step, pace.note(report.values["total"]))
            if step % recipe.checkpoint_every == 0 or step == recipe.max_steps:
                backbone = trainer.teacher_backbone()
                state = trainer.state() | {"tiles": fingerprint(run.tiles)}
                if main:
                    save_checkpoint(
                        run.folder / "checkpoints",
                        step,
                        state,
                        keep=recipe.keep_checkpoints,
                        milestone_every=recipe.milestone_every,
                    )
                    hours = earlier + (time.perf_counter() - started) / 3600
                    save_backbone(backbone, card_of(run, trainer, step, hours, report.values), run.folder)


def drift_monitor(run: Run, trainer: Trainer, step: int) -> DriftMonitor:
    """What looks at the teacher's dense features beside the losses."""
    return DriftMonitor(
        run.recipe.monitor,
        run.tiles,
        run.bands,
        normalization_of(run),
        size=run.recipe.crops.global_size,
        patch=trainer.patch,
        run=run.folder,
        step=step,
    )


def explain_nonfinite(folder: Path, error: NonFiniteLossError, ranks: Ranks) -> str:
    """Save this rank's part of the batch in ``folder`` and say what to try."""
    path = folder / ("nonfinite.pt" if ranks.world == 1 else f"nonfinite-{ranks.rank}.pt")
    torch.save({"step": error.step, "losses": error.losses, "batches": [vars(batch) for batch in error.batches]}, path)
    bad = ", ".join(name for name, value in error.losses.items() if value != value or abs(value) == float("inf"))
    return (
        f"the loss {bad} stopped being finite at step {error.step}; the batch is in {path}; start a new run "
        "after halving optimizer.lr, or with --set precision=fp32; --init takes the backbone of the last checkpoint"
    )


def hours_spent(folder: Path, step: int) -> float:
    """Hours that a run has taken until ``step``, as the card beside its last checkpoint says."""
    return (read_card(folder / CARD_FILE).hours or 0.0) if step and (folder / CARD_FILE).exists() else 0.0


def card_of(run: Run, trainer: Trainer, step: int, hours: float, metrics: dict[str, float]) -> BackboneCard:
    """The card of the EMA teacher's backbone."""
    from geodino import __version__

    recipe = run.recipe
    settings = recipe.backbone
    arguments = dict(settings.arguments)
    if settings.layer_scale is not None:
        arguments.setdefault(
            "ls_init_value" if is_convnext(trainer.student.backbone) else "init_values", settings.layer_scale
        )
    normalization = normalization_of(run)
    column = getattr(run.tiles, "column", None)
    gsd = None
    if column is not None and len(run.tiles):
        values = column("gsd_m")
        size = int(getattr(run.tiles, "size", recipe.crops.global_size))
        gsd = recipe.crops.gsd_range_m(size, (float(values.min()), float(values.max())))
    return BackboneCard(
        architecture=settings.architecture.split(".")[0],
        model_args=json.loads(json.dumps(arguments)),
        bands=run.bands,
        mean=normalization.mean,
        std=normalization.std,
        patch_size=trainer.patch,
        gsd_range_m=gsd,
        crop_px=recipe.crops.global_size,
        data=f"{len(run.tiles)} tiles of {Path(run.source).name}",
        recipe_hash=recipe.hash(),
        version=__version__,
        metrics={"step": step} | {name: round(value, 6) for name, value in metrics.items()},
        name=run.folder.name,
        seed=recipe.seed,
        hours=round(hours, 3),
        hardware=f"{platform.machine()}, {torch.get_num_threads()} threads"
        if trainer.device.type == "cpu"
        else torch.cuda.get_device_name(trainer.device),
    )
