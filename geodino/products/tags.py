"""What every map says about its making: tags that name the backbone, its normalisation and the inputs."""

from typing import Any, Protocol

import geodino
from geodino.backbones.normalize import Normalization
from tiles.scenes.scene import Scene


class Model(Protocol):
    """What tags say of a backbone: of the model itself, or of one that made a cube long ago."""

    @property
    def name(self) -> str:
        """Its name."""
        ...

    @property
    def hash(self) -> str:
        """SHA-256 of its weights."""
        ...

    @property
    def bands(self) -> tuple[str, ...]:
        """Bands that it reads."""
        ...

    @property
    def normalization(self) -> Normalization:
        """Statistics that its input is standardised with."""
        ...


def provenance(backbone: Model | None, **scenes: Scene) -> dict[str, Any]:
    """Tags of a map.

    Args:
        backbone: the model, None for a map made from the bands alone.
        **scenes: the inputs under the role they play (``scene``, ``before``, ``after``).
    """
    tags: dict[str, Any] = {"GEODINO_VERSION": geodino.__version__}
    if backbone is not None:
        tags |= {
            "GEODINO_BACKBONE": backbone.name,
            "GEODINO_BACKBONE_HASH": backbone.hash,
            "GEODINO_BANDS": list(backbone.bands),
            "GEODINO_NORMALIZATION": {"mean": backbone.normalization.mean, "std": backbone.normalization.std},
        }
    for role, scene in scenes.items():
        tags[f"GEODINO_{role.upper()}"] = scene.name
        tags[f"GEODINO_{role.upper()}_UNITS"] = {band.name: [band.scale, band.offset] for band in scene.bands}
    return tags
