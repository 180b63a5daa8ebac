"""What every map says about its making: tags that name the backbone, its normalisation and the inputs."""

from typing import Any

import geodino
from geodino.backbones.backbone import Backbone
from tiles.scenes.scene import Scene


def provenance(backbone: Backbone | None, **scenes: Scene) -> dict[str, Any]:
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
