"""A recipe: everything that a training run is told, checked before the first step.

A recipe is YAML. It is laid over the defaults of its ``method`` (dino, dinov2, dinov3) and of its ``phase`` (pretrain,
gram, hires), and ``KEY=VALUE`` pairs go on top; a method or phase that a pair names goes over the recipe. An unknown
key is an error that names the nearest one.
"""

import difflib
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pretrain.data.crops import CropSettings
from pretrain.data.masking import MaskSettings
from pretrain.engine.schedule import Schedule, Scheduled
from tiles.errors import InputError

Method = Literal["dino", "dinov2", "dinov3"]
Phase = Literal["pretrain", "gram", "hires"]
BASES = "method", "phase"
# The phase whose finished run a phase goes on from.
PHASE_BEFORE = {"gram": "pretrain", "hires": "gram"}
# Keys that decide where and how fast a run goes, not what comes out.
ASIDE = frozenset(
    {"name", "workers", "log_every", "checkpoint_every", "keep_checkpoints", "milestone_every", "monitor", "strategy"}
)


class Settings(BaseModel):
    """A part of a recipe: frozen, and closed to unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class BackboneSettings(Settings):
    """The network.

    Attributes:
        architecture: timm name of a DINO-family ViT or ConvNeXt; ``init`` takes that of the backbone given as --init.
        arguments: Further arguments of timm's constructor.
        layer_scale: First value of LayerScale; 1e-5 in the papers, 0.2 where a run is short (see docs/pretraining.md).
        drop_path: Stochastic depth of the student.
        rope_rescale: Largest factor of the random rescaling of RoPE coordinates; None for models without RoPE.
        untie_norms: A last norm of their own for local crops.
        whiten_patches: Start the patch embedding as a whitening of the tiles' patches; pays in short runs.
        activation_checkpointing: Trade a second forward pass for memory.
        compile: Compile blocks; costs a minute at the start, and on a processor needs a C++ compiler.
    """

    architecture: str = "vit_small_patch16_dinov3"
    arguments: dict[str, Any] = Field(default_factory=dict)
    layer_scale: float | None = Field(default=1e-5, gt=0)
    drop_path: float = Field(default=0.0, ge=0, lt=1)
    rope_rescale: float | None = Field(default=None, ge=1)
    untie_norms: bool = False
    whiten_patches: bool = False
    activation_checkpointing: bool = False
    compile: bool = False


class HeadSettings(Settings):
    """A projection head and its prototypes."""

    hidden: int = Field(default=2048, gt=0)
    bottleneck: int = Field(default=256, gt=0)
    prototypes: int = Field(default=65536, gt=1)
    unit_prototypes: bool = False


class DinoSettings(Settings):
    """The cross-entropy between CLS tokens.

    Attributes:
        weight: Weight of the whole term.
        local_weight: Factor on the pairs with local crops.
        head: Its head.
        student_temperature: Of the student's softmax.
        ignore_diagonal: Leave out pairs of a crop with itself.
    """

    weight: float = Field(default=1.0, ge=0)
    local_weight: Scheduled = Schedule(peak=1.0)
    head: HeadSettings = HeadSettings()
    student_temperature: float = Field(default=0.1, gt=0)
    ignore_diagonal: bool = True


class IbotSettings(Settings):
    """The cross-entropy at masked patches; weight 0 switches masks, mask token and head off."""

    weight: float = Field(default=1.0, ge=0)
    head: HeadSettings = HeadSettings()
    student_temperature: float = Field(default=0.1, gt=0)


class KoleoSettings(Settings):
    """The spread of CLS tokens.

    Attributes:
        weight: Weight for each global crop.
        group: Samples among which a nearest neighbour is searched; None is the whole batch.
    """

    weight: float = Field(default=0.1, ge=0)
    group: int | None = Field(default=None, ge=2)


class GramSettings(Settings):
    """Gram anchoring.

    Attributes:
        weight: Weight of the term; 0 at a step skips the Gram teacher there.
        teacher: ``ema`` copies the EMA teacher at the updates; else a run's folder, whose backbone serves.
        first_update: Steps before the EMA teacher is first copied; up to 1 a share of the run, 0 at the start.
        every: Steps between copies; up to 1 a share of the run.
        max_updates: Copies made at most.
        tokens: Which tokens of the student's masked crops are compared.
        remove_neg: Clear negative similarities on both sides.
        remove_only_teacher_neg: Clear the teacher's negatives, and the student's at the same pairs.
    """

    weight: Scheduled = Schedule(peak=0.0)
    teacher: str = "ema"
    first_update: float = Field(default=0.1, ge=0)
    every: float = Field(default=0.1, gt=0)
    max_updates: int = Field(default=3, ge=1)
    tokens: Literal["all", "masked", "unmasked"] = "all"
    remove_neg: bool = False
    remove_only_teacher_neg: bool = False

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.remove_neg and self.remove_only_teacher_neg:
            raise ValueError("remove_neg and remove_only_teacher_neg exclude each other")
        return self


class TeacherSettings(Settings):
    """The EMA teacher and its targets.

    Attributes:
        momentum: Share of itself that the EMA teacher keeps in a step.
        temperature: Of its softmax or Sinkhorn-Knopp.
        centering: How logits become targets.
        center_momentum: Of the running mean, for ``softmax``.
    """

    momentum: Scheduled = Schedule(peak=0.994)
    temperature: Scheduled = Schedule(start=0.04, peak=0.07, warmup=0.3)
    centering: Literal["sinkhorn_knopp", "softmax"] = "sinkhorn_knopp"
    center_momentum: float = Field(default=0.9, ge=0, lt=1)


class OptimizerSettings(Settings):
    """AdamW.

    Attributes:
        lr: Learning rate at batch size 1024; scaled by the square root of batch / 1024.
        weight_decay: Applied to matrices only.
        betas: Of AdamW.
        clip: Largest gradient norm of backbone and of each head; 0 does not clip.
        layer_decay: Factor on the learning rate for each block below the last.
        patch_embed_lr: Factor on the learning rate of the patch embedding.
        freeze_prototypes: Length at the start during which prototypes stay as they are.
        warm_heads: Length at the start during which only heads and new input bands learn, the backbone being frozen.
        ramp: Length over which the backbone's learning rate then rises to its full value.
    """

    lr: Scheduled = Schedule(peak=1e-3, warmup=0.1, end=1e-6)
    weight_decay: Scheduled = Schedule(peak=0.04)
    betas: tuple[float, float] = (0.9, 0.99)
    clip: float = Field(default=3.0, ge=0)
    layer_decay: float = Field(default=1.0, gt=0, le=1)
    patch_embed_lr: float = Field(default=0.2, gt=0)
    freeze_prototypes: float = Field(default=0.0, ge=0)
    warm_heads: float = Field(default=0.0, ge=0)
    ramp: float = Field(default=0.0, ge=0)


class MonitorSettings(Settings):
    """What is measured beside the losses.

    Attributes:
        every: Steps between two measurements of the drift of dense features; 0 measures nothing.
        knn: Folder of labelled images (``CLASS/NAME``) for a nearest-neighbour accuracy; None without.
        knn_images: Images taken from it at most.
        pictures: Fixed tiles whose patch features are drawn as PCA pictures at every measurement.
    """

    every: int = Field(default=100, ge=0)
    knn: str | None = None
    knn_images: int = Field(default=1000, gt=1)
    pictures: int = Field(default=4, ge=0)


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
    method: Method = "dinov3"
    phase: Phase = "pretrain"
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

    def to_yaml(self) -> str:
        """The resolved recipe, every key with its value."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


def packaged() -> list[str]:
    """Names of the recipes that come with geodino."""
    return sorted(path.name.removesuffix(".yaml") for path in _folder().iterdir() if path.name.endswith(".yaml"))


def load_recipe(source: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe by name or from a file and lay ``KEY=VALUE`` pairs over it.

    Args:
        source: Name of a packaged recipe or path of a YAML file.
        overrides: Such as ``optimizer.lr=1e-3`` or ``crops.local_count=4``; values are YAML.

    Raises:
        InputError: If there is no such recipe, a key is unknown, or a value does not fit.
    """
    name = str(source)
    if Path(name).suffix in (".yaml", ".yml") or "/" in name:
        path = Path(name)
        if not path.is_file():
            raise InputError(f"there is no recipe file {path}; packaged recipes are {', '.join(packaged())}")
        text = path.read_text()
        label = path.stem
    elif name in packaged():
        text, label = (_folder() / f"{name}.yaml").read_text(), name
    else:
        raise InputError(f"there is no recipe {name!r}; choose one of {', '.join(packaged())} or give a YAML file")
    try:
        content = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise InputError(f"recipe {name} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise InputError(f"recipe {name} must be a mapping of keys to values")
    over: dict[str, Any] = {}
    for pair in overrides:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise InputError(f"--set takes KEY=VALUE, not {pair!r}")
        nested: Any = yaml.safe_load(value)
        if isinstance(nested, str):
            nested = _number(nested)
        for part in reversed(key.strip().split(".")):
            nested = {part: nested}
        over = merged(over, nested)
    return resolve([merged({"name": label}, content), over], name)


def resolve(layers: Sequence[Mapping[str, Any]], source: str) -> Recipe:
    """Lay mappings over each other and check the result.

    The defaults of a method or phase go right below the last layer that names it: a recipe file changes what its own
    method says, while ``--set phase=gram`` changes what the recipe says.

    Args:
        layers: From the lowest to the highest.
        source: Name used in messages.

    Raises:
        InputError: If a key is unknown or a value does not fit.
    """
    for layer in layers:
        _check_keys(layer, Recipe, source)
    stack: list[Mapping[str, Any]] = []
    for number, layer in enumerate(layers):
        for base in BASES:
            naming = [n for n, other in enumerate(layers) if base in other] or [0]
            if naming[-1] == number:
                chosen = layer.get(base, Recipe.model_fields[base].default)
                path = _folder() / base / f"{chosen}.yaml"
                if path.is_file():
                    stack.append(yaml.safe_load(path.read_text()) or {})
        stack.append(layer)
    whole: dict[str, Any] = {}
    for layer in stack:
        whole = merged(whole, layer)
    try:
        return Recipe.model_validate(whole)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        message = str(first["msg"]).removeprefix("Value error, ")
        raise InputError(f"recipe {source}: {where + ': ' if where else ''}{message}") from None


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Lay one nested mapping over another, key by key."""
    result = dict(base)
    for key, value in over.items():
        old = result.get(key)
        result[key] = merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return result


def _check_keys(given: Mapping[str, Any], model: type[BaseModel], source: str, prefix: str = "") -> None:
    for key, value in given.items():
        field = model.model_fields.get(key)
        if field is None:
            near = difflib.get_close_matches(str(key), _all_keys(Recipe), n=1, cutoff=0.4)
            close = difflib.get_close_matches(str(key), model.model_fields, n=1, cutoff=0.6)
            hint = f"; did you mean {prefix + close[0] if close else near[0]}?" if close or near else ""
            raise InputError(f"recipe {source}: unknown key {prefix}{key}{hint}")
        inner = field.annotation
        if isinstance(value, Mapping) and isinstance(inner, type) and issubclass(inner, BaseModel):
            _check_keys(value, inner, source, f"{prefix}{key}.")


def _all_keys(model: type[BaseModel], prefix: str = "") -> Iterable[str]:
    keys = []
    for name, field in model.model_fields.items():
        keys.append(prefix + name)
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel) and inner is not Schedule:
            keys.extend(_all_keys(inner, f"{prefix}{name}."))
    return keys


def _number(text: str) -> Any:
    # YAML 1.1 reads 1e-3 as a string
    try:
        return float(text)
    except ValueError:
        return text


def _folder() -> Any:
    return files("pretrain") / "recipes"
