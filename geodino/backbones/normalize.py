"""Standardisation by backbone: the second of the two steps between a raster and a model.

The first step, units → [0, 1] by sensor, belongs to ``tiles.scenes.sensor`` and is done when a scene or a tile is read.
This module knows only the second: subtract a mean, divide by a standard deviation, and make sure that a pixel
without data reaches the model as the mean itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch

Array = TypeVar("Array", np.ndarray, torch.Tensor)


@dataclass(frozen=True)
class Normalization:
    """Per-band statistics of values in [0, 1], in the order of the bands.

    Attributes:
        mean: Mean of each band.
        std: Standard deviation of each band, greater than zero.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.mean or len(self.mean) != len(self.std):
            raise ValueError(f"{len(self.mean)} means and {len(self.std)} standard deviations do not describe bands")
        if not all(s > 0 for s in self.std):
            raise ValueError(f"standard deviations must be greater than zero, not {self.std}")

    @classmethod
    def of(cls, mean: Sequence[float], std: Sequence[float]) -> "Normalization":
        """Build from any sequences of numbers."""
        return cls(tuple(float(m) for m in mean), tuple(float(s) for s in std))


SATELLITE = Normalization((0.430, 0.411, 0.296), (0.213, 0.156, 0.143))
"""Statistics of SAT-493M (DINOv3, arXiv 2508.10104, and its model card)."""

IMAGENET = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Statistics of ImageNet-1k, used by every web-image model of the family."""


def standardize(values: Array, valid: Array | None, normalization: Normalization) -> Array:
    """Standardise values band by band; pixels without data become 0, which is the mean.

    Args:
        values: Values ``[..., C, H, W]`` in [0, 1], NumPy array or tensor.
        valid: True where there is data ``[..., H, W]``, or None when there is data everywhere.
        normalization: Statistics of the ``C`` bands.

    Returns:
        float32 values ``[..., C, H, W]`` of the same kind as ``values``, unbounded, on the same device.

    Raises:
        ValueError: When the number of bands differs.
    """
    bands = values.shape[-3]
    if bands != len(normalization.mean):
        raise ValueError(f"{bands} bands do not match the {len(normalization.mean)} of the normalisation")
    if isinstance(values, torch.Tensor):
        mean = values.new_tensor(normalization.mean, dtype=torch.float32)[:, None, None]
        std = values.new_tensor(normalization.std, dtype=torch.float32)[:, None, None]
        out = (values.float() - mean) / std
        # where and not a product: a NaN under an invalid pixel must not survive
        return out if valid is None else torch.where(valid[..., None, :, :], out, out.new_zeros(()))
    mean = np.asarray(normalization.mean, np.float32)[:, None, None]
    std = np.asarray(normalization.std, np.float32)[:, None, None]
    out = (values.astype(np.float32, copy=False) - mean) / std
    return out if valid is None else np.where(valid[..., None, :, :], out, np.float32(0))
