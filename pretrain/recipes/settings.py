"""The parts of a recipe: network, losses, teacher, optimiser, monitor; frozen, and closed to unknown keys."""

from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from pretrain.recipes.schedule import Schedule, Scheduled


class Settings(BaseModel):
    """A part of a recipe: frozen, and closed to unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    def to_yaml(self) -> str:
        """Every key with its value."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


class NetworkSettings(Settings):
    """A backbone to make.

    Attributes:
        architecture: timm name of a DINO-family ViT or ConvNeXt.
        arguments: Further arguments of timm's constructor.
        layer_scale: First value of LayerScale; 1e-5 in the papers, more where a run is short (docs/pretraining.md).
        drop_path: Stochastic depth while it trains.
    """

    architecture: str
    arguments: dict[str, Any] = Field(default_factory=dict)
    layer_scale: float | None = Field(default=1e-5, gt=0)
    drop_path: float = Field(default=0.0, ge=0, lt=1)

    @property
    def is_convnext(self) -> bool:
        """Whether it is a ConvNeXt, which does without masks and has timm's own stochastic depth."""
        return self.architecture.startswith("convnext")

    @property
    def timm_arguments(self) -> dict[str, Any]:
        """Arguments of timm's constructor that shape the model, the first value of LayerScale among them."""
        key = "ls_init_value" if self.is_convnext else "init_values"
        scale = {} if self.layer_scale is None or key in self.arguments else {key: self.layer_scale}
        return self.arguments | scale


class BackboneSettings(NetworkSettings):
    """The network.

    Attributes:
        architecture: timm name of a DINO-family ViT or ConvNeXt; ``init`` takes that of the backbone given as --init.
        rope_rescale: Largest factor of the random rescaling of RoPE coordinates; None for models without RoPE.
        untie_norms: A last norm of their own for local crops.
        whiten_patches: Start the patch embedding as a whitening of the tiles' patches; pays in short runs.
        activation_checkpointing: Trade a second forward pass for memory.
        compile: Compile blocks; costs a minute at the start, and on a processor needs a C++ compiler.
    """

    architecture: str = "vit_small_patch16_dinov3"
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
        lr: Base learning rate, that of a batch of 1,024 images; :meth:`rate` is what a run takes.
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

    def rate(self, step: int, max_steps: int, batch_size: int) -> float:
        """Effective learning rate: the base rate times the square root of batch / 1,024, as DINOv2 and DINOv3 do."""
        return self.lr.at(step, max_steps) * (batch_size / 1024) ** 0.5


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
