"""A trained head on disk: tensors and a JSON header in one safetensors file, never code.

The header names the backbone, its normalisation and everything else the numbers depend on. A model is refused where
these differ, because the map would be wrong without looking wrong.
"""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from geodino.dense.tokens import Origin
from geodino.heads.legend import Legend
from geodino.heads.linear import LinearHead
from geodino.heads.random_features import Waves
from tiles.errors import InputError, OutputError
from tiles.scenes.scene import Scene
from tiles.scenes.sensor import Meaning, meaning
from tiles.writing.outputs import check_output, replacing

FORMAT = "geodino-segmentation-4"
_TENSORS = ("token_weight", "pixel_weight", "bias", "wave_directions")


class Recipe(BaseModel):
    """What a head's input went through; two recipes must be equal for a head to serve.

    Attributes:
        backbone: name, for messages only.
        backbone_hash: SHA-256 of the weights.
        mean: per-band mean of the normalisation.
        std: per-band deviation.
        bands: bands the backbone reads.
        layers: layers the tokens come from.
        upscale: how many times finer than a patch the token grid is.
        pixel_bands: bands whose pixel values the head reads beside the tokens; empty for none.
        sensor: row of the sensor table that gave the scene's units.
        units: scale and offset of each band to [0, 1].
        meaning: what a value in [0, 1] stands for, see ``tiles.scenes.sensor.meaning``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    backbone: str
    backbone_hash: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    bands: tuple[str, ...]
    layers: tuple[int, ...]
    upscale: int
    pixel_bands: tuple[str, ...]
    sensor: str
    units: dict[str, tuple[float, float]]
    meaning: Meaning

    @classmethod
    def of(cls, scene: Scene, origin: Origin, *, use_pixels: bool) -> "Recipe":
        """What a head's input goes through for a scene and the tokens made of it."""
        units = {band.name: (band.scale, band.offset) for band in scene.bands}
        return cls(
            backbone=origin.name,
            backbone_hash=origin.hash,
            mean=origin.normalization.mean,
            std=origin.normalization.std,
            bands=origin.bands,
            layers=origin.layers,
            upscale=origin.upscale,
            pixel_bands=scene.band_names if use_pixels else (),
            sensor=scene.sensor,
            units=units,
            meaning=meaning(scene.sensor, units),
        )

    def fit(self, other: "Recipe", path: Path) -> list[str]:
        """Raise when ``other``, the recipe at hand, is not this one, the model's; what may differ is noted.

        Returns:
            Notes to print: none, or that values of this scene may not mean what they meant in training.

        Raises:
            InputError: one sentence that says what differs.
        """
        if self.backbone_hash != other.backbone_hash:
            raise InputError(
                f"{path} was made for backbone {self.backbone} ({self.backbone_hash[:12]}), not for {other.backbone} "
                f"({other.backbone_hash[:12]}); name its own with --backbone or train again from labels"
            )
        if (self.mean, self.std) != (other.mean, other.std):
            raise InputError(
                f"{path} was made with normalisation mean {_short(self.mean)}, std {_short(self.std)}, not "
                f"mean {_short(other.mean)}, std {_short(other.std)}; use its backbone card or train again from labels"
            )
        if (self.bands, self.layers, self.upscale) != (other.bands, other.layers, other.upscale):
            raise InputError(f"{path} was made with other bands, layers or token size; train again from labels")
        if self._same_units(other):
            return []
        if self.meaning != other.meaning:
            raise InputError(
                f"{path} was trained on {self.meaning} values ({self.sensor}), and the scene holds {other.meaning} "
                f"values ({other.sensor}); name the scene's units with --sensor or train again from labels"
            )
        if self.sensor == other.sensor and self.meaning is Meaning.reflectance:
            return []  # another processing baseline, say: both are the same reflectance
        return [
            f"{path} was trained on {self.meaning} values of {self.sensor}; those of this scene ({other.sensor}) may "
            "differ for the same ground: look at the map before trusting it"
        ]

    def _same_units(self, other: "Recipe") -> bool:
        """Whether every band that the head reads comes to [0, 1] alike; a missing one is refused elsewhere."""
        read = (name for name in (*self.bands, *self.pixel_bands) if name in other.units)
        return all(self.units[name] == other.units[name] for name in read)


def _short(values: tuple[float, ...]) -> str:
    return "(" + ", ".join(f"{value:.3f}" for value in values) + ")"


@dataclass(frozen=True)
class SegmentationModel:
    """A head with its classes and the recipe of its input.

    Attributes:
        head: the weights.
        legend: the classes.
        recipe: what the input went through.
        validation: the cross-validation's numbers, where there were any.
        waves: what the head reads of a pixel beside its features.
    """

    head: LinearHead
    legend: Legend
    recipe: Recipe
    validation: dict[str, Any] | None = None
    waves: Waves = field(default_factory=Waves.none)

    def save(self, path: Path, *, overwrite: bool = False) -> None:
        """Write the model under a temporary name and rename it when whole.

        Raises:
            OutputError: see ``check_output``; later, when the disk is full.
        """
        check_output(path, overwrite=overwrite)
        header = {
            "format": FORMAT,
            "legend": json.dumps(self.legend.to_json()),
            "recipe": self.recipe.model_dump_json(),
            "validation": json.dumps(self.validation),
        }
        tensors = {
            "token_weight": self.head.token_weight,
            "pixel_weight": self.head.pixel_weight,
            "bias": self.head.bias,
            "wave_directions": self.waves.directions,
        }
        try:
            with replacing(path) as part:
                save_file(tensors, part, metadata=header)
        except (OSError, SafetensorError) as error:
            raise OutputError(f"{path} cannot be written: {error}") from error

    def upscale(self, asked: int | None, path: str | Path) -> int:
        """Tokens per patch side that this head reads.

        Raises:
            InputError: another number is asked for beside the model of ``path``.
        """
        own = self.recipe.upscale
        if asked not in (None, own):
            raise InputError(f"{path} was trained with --upscale {own}; leave --upscale out")
        return own

    @classmethod
    def load(cls, path: Path) -> "SegmentationModel":
        """Read a model.

        Raises:
            InputError: the file is missing or is no model of this kind.
        """
        if not os.path.isfile(path):
            raise InputError(f"{path} does not exist; a model is what `geodino segment --save-model` wrote")
        try:
            with safe_open(path, framework="numpy") as file:
                header = file.metadata() or {}
                if header.get("format") != FORMAT:
                    raise InputError(f"{path} is no segmentation model of this version; train again from labels")
                tensors = {name: file.get_tensor(name) for name in _TENSORS}
        except SafetensorError as error:
            raise InputError(f"{path} is no segmentation model: {error}") from error
        return cls(
            LinearHead(tensors["token_weight"], tensors["pixel_weight"], tensors["bias"]),
            Legend.from_json(json.loads(header["legend"])),
            Recipe.model_validate_json(header["recipe"]),
            json.loads(header["validation"]),
            Waves(tensors["wave_directions"]),
        )
