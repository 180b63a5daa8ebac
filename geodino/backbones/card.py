"""The card of a backbone: what a weights file cannot say about itself.

A backbone on disk is two files: ``backbone.safetensors`` with the tensors under timm's names and
``backbone.json`` with this card. Together they rebuild the model and everything that its input must go through.
"""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from tiles.errors import InputError

WEIGHTS_FILE = "backbone.safetensors"
CARD_FILE = "backbone.json"
PACKAGED = Path(__file__).parents[1] / "weights"
"""Folder of the backbone that comes with the package."""
RGB = ("red", "green", "blue")


class BackboneCard(BaseModel):
    """Everything about a backbone that is not a tensor; unknown keys are errors.

    Attributes:
        architecture: timm name of the model, such as ``vit_small_patch16_dinov3``.
        model_args: Further arguments of ``timm.create_model`` that shape the model (depth, registers, ...).
        bands: Common names of the input bands in their order.
        mean: Mean of each band over values in [0, 1].
        std: Standard deviation of each band over values in [0, 1].
        patch_size: Side of a token in pixels.
        gsd_range_m: Smallest and largest ground sample distance in metres that the model was trained on.
        crop_px: Side in pixels of the largest training crops; windows at inference are laid by it.
        data: What it was trained on, in words, with its source.
        licence: Licence of the weights.
        recipe_hash: Hash of the resolved training recipe.
        version: Version of geodino that wrote the weights.
        metrics: What was measured, by name.
        name: Name to show; the folder's name where it is empty.
        seed: Seed of the training run.
        hours: Wall-clock hours of training.
        hardware: What it was trained on, in words.
        limits: What the model is known not to do well, in words.
        weights_hash: SHA-256 of the tensors, written by ``save_backbone`` and compared when loading.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    architecture: str
    model_args: dict[str, Any] = Field(default_factory=dict)
    bands: tuple[str, ...] = RGB
    mean: tuple[float, ...]
    std: tuple[float, ...]
    patch_size: int = Field(gt=0)
    gsd_range_m: tuple[float, float] | None = None
    crop_px: int | None = Field(default=None, gt=0)
    data: str = ""
    licence: str = ""
    recipe_hash: str = ""
    version: str = ""
    metrics: dict[str, Any] = Field(default_factory=dict)
    name: str = ""
    seed: int | None = None
    hours: float | None = None
    hardware: str = ""
    limits: str = ""
    weights_hash: str = ""

    @model_validator(mode="after")
    def _one_statistic_a_band(self) -> "BackboneCard":
        if not len(self.bands) == len(self.mean) == len(self.std):
            raise ValueError(
                f"{len(self.bands)} bands need as many means ({len(self.mean)}) and stds ({len(self.std)})"
            )
        if not all(s > 0 for s in self.std):
            raise ValueError("every std must be greater than 0")
        return self


def read_card(path: Path) -> BackboneCard:
    """Read a card.

    Raises:
        InputError: When the file is absent, is not JSON or lacks something.
    """
    try:
        return BackboneCard.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise InputError(
            f"{path} is missing: a backbone is a weights file with its card ({CARD_FILE}) beside it"
        ) from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise InputError(f"{path} is not a backbone card: {where}: {first['msg']}") from None
