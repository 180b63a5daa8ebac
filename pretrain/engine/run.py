"""A training run: a tile set and a recipe in, ``RUN/`` out.

``RUN/`` holds ``backbone.safetensors`` and ``backbone.json`` (the EMA teacher), ``checkpoints/``, ``metrics.csv``,
``recipe.yaml`` as resolved, and TensorBoard files where TensorBoard is installed.
"""

from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from geodino.backbones.backbone import Backbone, load_backbone
from geodino.backbones.card import RGB, BackboneCard
from geodino.backbones.hardware import pick_dtype
from geodino.backbones.normalize import IMAGENET, SATELLITE, Normalization
from pretrain.data.batches import Batches, Tiles
from pretrain.engine.checkpoint import checkpoints, load_checkpoint
from pretrain.engine.checks import check_compiler, check_recipe, check_tiles
from pretrain.engine.estimate import estimate
from pretrain.engine.initial_weights import (
    adopt_architecture,
    check_state,
    initialize,
    last_of_previous,
    set_gram_teacher,
)
from pretrain.engine.parallel import Parallel
from pretrain.engine.run_folder import (
    BackboneFolder,
    card_of,
    check_same_tiles,
    keep_nonfinite,
    refuse_other_recipe,
    refuse_other_run,
    write_recipe,
)
from pretrain.engine.trainer import NonFiniteLossError, Trainer
from pretrain.monitor.drift_monitor import DriftMonitor
from pretrain.monitor.metrics import MetricsLog, Pace
from pretrain.network.network import Network, build_network
from pretrain.network.whitening import whiten_patch_embedding
from pretrain.recipes.recipe import Recipe
from tiles.errors import InputError
from tiles.progress import progress


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
    refuse_other_run(run.folder, resume)
    parallel = Parallel.start(run.recipe, run.device)
    run, trainer, start = _start(run, parallel)
    refuse_other_recipe(run.folder, run.recipe)
    step = _take_over(run, trainer) if resume else 0
    if step == 0 and start is not None:
        trainer.load_state(start, optimizer=False)
    if step == 0 and run.recipe.uses_gram and run.recipe.gram.teacher != "ema":
        set_gram_teacher(trainer, run.recipe.gram.teacher)
    monitor = None
    if parallel.ranks.rank == 0:
        monitor = drift_monitor(run, trainer, step) if run.recipe.monitor.every else None
        write_recipe(run.folder, run.recipe)
    _train(run, trainer, step, monitor, show)
    return run.folder


def describe(run: Run) -> str:
    """The resolved recipe and what it will cost; writes nothing.

    Raises:
        InputError: As :func:`pretrain`.
    """
    run, trainer, _ = _start(run, Parallel.start(run.recipe, run.device))
    return f"{run.recipe.to_yaml()}\n{estimate(trainer, _batches(run, trainer))}"


def _start(run: Run, parallel: Parallel) -> tuple[Run, Trainer, dict[str, Any] | None]:
    """Check everything that can be checked, then build: the run as resolved, its trainer, the phase before's state."""
    backbone = None if run.init is None else load_backbone(run.init, device="cpu", precision="fp32")
    run = replace(run, recipe=adopt_architecture(run.recipe, backbone))
    check_tiles(run.tiles, run.source, run.recipe)
    check_recipe(run.recipe)
    check_compiler(run.recipe, parallel.device)
    normalization_of(run)
    network, state = _starting_network(run, backbone)
    dtype = pick_dtype(run.recipe.precision, parallel.device)
    new_bands = backbone is not None and bool({*run.bands} - {*backbone.bands})
    return run, Trainer(run.recipe, network, parallel, dtype=dtype, new_bands=new_bands), state


def _starting_network(run: Run, backbone: Backbone | None) -> tuple[Network, dict[str, Any] | None]:
    """The student before step 0: random, from ``backbone``, or, with its state, of the phase before."""
    network = build_network(run.recipe, len(run.bands))
    if run.recipe.previous is not None:
        path = last_of_previous(run.recipe.phase, Path(run.recipe.previous))
        state = load_checkpoint(path)
        check_state(network, state, str(path))
        return network, state
    if backbone is not None:
        initialize(network, backbone, run.bands, run.init or backbone.name)
    elif run.recipe.backbone.whiten_patches:
        channels = [run.tiles.bands.index(band) for band in run.bands]
        whiten_patch_embedding(network.backbone, run.tiles, channels, normalization_of(run), run.recipe.seed)
    return network, None


def _batches(run: Run, trainer: Trainer) -> Batches:
    """The run's batches for this process."""
    return Batches(
        run.tiles,
        run.recipe,
        normalization_of(run),
        trainer.patch,
        rank=trainer.ranks.rank,
        world=trainer.ranks.world,
        dtype=trainer.dtype,
        masks=trainer.student.ibot_head is not None,
    )


def _take_over(run: Run, trainer: Trainer) -> int:
    found = checkpoints(run.folder / "checkpoints")
    if not found:
        return 0
    path = found[max(found)]
    state = load_checkpoint(path)
    check_state(trainer.student, state, str(path))
    check_same_tiles(state, run.tiles, run.source, run.folder)
    trainer.load_state(state)
    return int(state["step"])


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


def _train(run: Run, trainer: Trainer, step: int, monitor: DriftMonitor | None, show: bool) -> None:
    recipe, batches = run.recipe, _batches(run, trainer)
    main = trainer.ranks.rank == 0
    folder = BackboneFolder(
        run.folder, run.tiles, step, keep=recipe.keep_checkpoints, milestone_every=recipe.milestone_every
    )
    with (
        closing(batches.starting(step)) as source,
        closing(MetricsLog(run.folder, step, enabled=main)) as log,
        progress("pretrain", recipe.max_steps, show=show and main) as bar,
    ):
        pace = Pace(recipe.batch_size, recipe.max_steps - step)
        if step == 0:
            trainer.refresh_gram(0)
        while step < recipe.max_steps:
            micro = [next(source) for _ in range(recipe.accumulate)]
            try:
                values = trainer.step(step, micro)
            except NonFiniteLossError as error:
                raise InputError(keep_nonfinite(run.folder, error, trainer.ranks)) from None
            step += 1
            pace.count(batches.waited)
            last = step == recipe.max_steps
            if step % recipe.log_every == 0 or last:
                log.write(step, values | pace.numbers())
            if monitor is not None and (step % recipe.monitor.every == 0 or last):
                log.draw(step, monitor.measure(trainer.teacher, step, values["teacher_temperature"]))
            bar.update(step, pace.note(values["total"]))
            if step % recipe.checkpoint_every == 0 or last:
                backbone, state = trainer.teacher_backbone(), trainer.state()
                if main:
                    folder.save(step, state, backbone, _card(run, trainer), values)


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


def _card(run: Run, trainer: Trainer) -> BackboneCard:
    """The card of the EMA teacher's backbone."""
    recipe = run.recipe
    return card_of(
        recipe.backbone,
        trainer.student.backbone,
        run.tiles,
        recipe.crops,
        normalization_of(run),
        trainer.device,
        bands=run.bands,
        data=f"{len(run.tiles)} tiles of {Path(run.source).name}",
        recipe_hash=recipe.hash(),
        name=run.folder.name,
        seed=recipe.seed,
    )
