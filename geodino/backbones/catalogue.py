"""What `geodino models` lists: the packaged backbone and the published family, without loading any of them."""

from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any

from safetensors import safe_open

from geodino.backbones.card import CARD_FILE, PACKAGED, RGB, WEIGHTS_FILE, read_card
from geodino.backbones.published import FAMILY, Published, cached_weights


@dataclass(frozen=True)
class Entry:
    """One model that ``--backbone`` takes.

    Attributes:
        name: What to give to ``--backbone``; ``(packaged)`` is what it takes when given nothing.
        parameters: Number of parameters.
        patch_size: Side of a token in pixels.
        prefix_tokens: Class and register tokens; they are not patches.
        bands: Common names of its bands.
        gsd_range_m: Ground sample distances in metres of its training imagery, None for web images.
        normalization: ``imagenet``, ``sat493m`` or ``its own``.
        licence: Licence of the weights.
        here: Whether the weights are on this machine.
    """

    name: str
    parameters: int
    patch_size: int
    prefix_tokens: int
    bands: tuple[str, ...]
    gsd_range_m: tuple[float, float] | None
    normalization: str
    licence: str
    here: bool

    @property
    def weights_bytes_bf16(self) -> int:
        """Memory of the weights in bf16."""
        return 2 * self.parameters

    def as_dict(self) -> dict[str, Any]:
        """All of it, for JSON."""
        return asdict(self) | {"weights_bytes_bf16": self.weights_bytes_bf16}


def catalogue() -> list[Entry]:
    """List the packaged backbone, when there is one, and every published model."""
    return [*packaged(), *map(_published, FAMILY)]


def packaged(folder: Path = PACKAGED) -> list[Entry]:
    """Describe the packaged backbone; empty when this installation has none."""
    if not (folder / WEIGHTS_FILE).exists():
        return []
    card = read_card(folder / CARD_FILE)
    shapes = tensor_shapes(folder / WEIGHTS_FILE)
    registers = shapes.get("reg_token", (1, 0))[1]
    return [
        Entry(
            name="(packaged)",
            parameters=sum(prod(shape) for shape in shapes.values()),
            patch_size=card.patch_size,
            prefix_tokens=registers + ("cls_token" in shapes),
            bands=card.bands,
            gsd_range_m=card.gsd_range_m,
            normalization="its own",
            licence=card.licence,
            here=True,
        )
    ]


def tensor_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Read the shapes of a safetensors file from its header, without torch and without reading a tensor."""
    with safe_open(path, framework="numpy") as file:
        return {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118 - no mapping


def _published(model: Published) -> Entry:
    return Entry(
        name=model.name,
        parameters=model.parameters,
        patch_size=model.patch_size,
        prefix_tokens=model.prefix_tokens,
        bands=RGB,
        gsd_range_m=None if model.gsd_m is None else (model.gsd_m, model.gsd_m),
        normalization=model.normalization,
        licence=model.licence,
        here=cached_weights(model.name) is not None,
    )
