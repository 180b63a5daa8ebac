"""geodino: satellite rasters in, a DINOv3-style backbone out; any backbone in, segmentation and change maps out.

The functions here do what the commands of the same name do. They are imported when first used, so that
``import geodino`` costs nothing.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_API = {
    "features": "geodino.api",
    "segment": "geodino.api",
    "change": "geodino.api",
    "change_series": "geodino.api",
    "similar": "geodino.api",
    "load_backbone": "geodino.backbones.backbone",
    "open_scene": "tiles.scenes.opening",
}

__all__ = ["__version__", "change", "change_series", "features", "load_backbone", "open_scene", "segment", "similar"]


def __getattr__(name: str) -> Any:
    """Import a public function when it is first asked for."""
    if name in _API:
        return getattr(import_module(_API[name]), name)
    raise AttributeError(f"module 'geodino' has no attribute {name!r}")
