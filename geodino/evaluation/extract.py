"""Features of many images: reading and resizing hide behind the model, and what is done is never done again.

Anything that describes a batch of images is an ``Extractor``: a backbone, or one of the floors that it is compared
with. Both see exactly the same images.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from geodino.backbones.backbone import Backbone
from geodino.backbones.normalize import Normalization, standardize
from geodino.evaluation.dataset import ImageSet
from tiles.progress import Progress, Silent
from tiles.workers import in_order
from tiles.writing.outputs import replacing

PART = 2048  # images in one file of the cache: what an interruption can cost
READERS = 2
AHEAD = 2  # batches read before they are asked for


@dataclass(frozen=True)
class Described:
    """What an extractor says about a batch.

    Attributes:
        summary: The image's own vector ``[B, D]``, float32: the class token. kNN uses it.
        mean: Mean over the image's patches ``[B, D]``, float32; the linear probe uses it beside the summary.
        patches: One vector a grid cell ``[B, D, h, w]``, float32.
    """

    summary: Tensor
    mean: Tensor
    patches: Tensor


class Extractor(Protocol):
    """Describes standardised images."""

    name: str
    key: str  # changes when the features do
    bands: tuple[str, ...]
    normalization: Normalization
    patch_size: int
    resizable: bool  # whether enlarging an image helps it: a floor looks at the pixels as they are

    def describe(self, x: Tensor) -> Described:
        """Describe images ``[B, C, H, W]``, standardised float32."""


class BackboneExtractor:
    """A backbone as an extractor."""

    resizable = True

    def __init__(self, backbone: Backbone, name: str | None = None) -> None:
        self.backbone = backbone
        self.name = name or backbone.name
        precision = str(backbone.dtype).removeprefix("torch.")
        self.key = f"{backbone.hash[:16]}-{precision}-{digest(str(backbone.normalization))}"
        self.bands, self.normalization = backbone.bands, backbone.normalization
        self.patch_size = backbone.patch_size

    def describe(self, x: Tensor) -> Described:
        """Encode; ``x`` as for ``Backbone.encode``."""
        tokens = self.backbone.encode(x)
        return Described(tokens.cls, tokens.patches.mean((2, 3)), tokens.patches)


def digest(text: str) -> str:
    """Eight hex digits of a text, for keys."""
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def load_batch(images: ImageSet, indices: Sequence[int], size: int) -> tuple[Tensor, Tensor]:
    """Read images and bring them to one square size.

    Args:
        images: The data set.
        indices: Which images.
        size: Side in pixels; bicubic with antialiasing, as the family's own evaluation resizes.

    Returns:
        Values ``[B, C, size, size]`` (``[B, T, C, size, size]`` of ``T`` dates) float32 in [0, 1] and validity
        ``[B, size, size]`` (``[B, 1, size, size]``).
    """
    pixels = [images.read(i) for i in indices]
    by_shape: dict[tuple[int, ...], list[int]] = {}
    for place, one in enumerate(pixels):
        by_shape.setdefault(one.values.shape, []).append(place)
    before = pixels[0].values.shape[:-2]  # (C,) or (T, C)
    values = torch.empty(len(pixels), *before, size, size)
    valid = torch.empty(len(pixels), size, size, dtype=torch.bool)
    for shape, places in by_shape.items():
        stack = torch.from_numpy(np.stack([pixels[place].values for place in places]))
        mask = torch.from_numpy(np.stack([pixels[place].valid for place in places]))
        if shape[-2:] != (size, size):
            flat = stack.reshape(-1, 1, *shape[-2:])
            flat = interpolate(flat, (size, size), mode="bicubic", antialias=True, align_corners=False).clamp_(0, 1)
            stack = flat.reshape(len(places), *before, size, size)
            mask = interpolate(mask[:, None].float(), (size, size), mode="nearest-exact")[:, 0] > 0.5
        values[places], valid[places] = stack, mask
    return values, valid if len(before) == 1 else valid[:, None]


def batches(
    images: ImageSet, indices: np.ndarray, size: int, normalization: Normalization, batch_size: int
) -> Iterator[Tensor]:
    """Yield standardised batches, shaped as by ``load_batch``, in order, read by threads ahead of the model."""
    groups = [indices[start : start + batch_size].tolist() for start in range(0, len(indices), batch_size)]

    def load(group: list[int]) -> Tensor:
        return standardize(*load_batch(images, group, size), normalization)

    yield from in_order(load, groups, threads=READERS, ahead=AHEAD, name="read-images")


@dataclass(frozen=True)
class Features:
    """Features of a data set's images, in its order.

    Attributes:
        summary: ``[N, D]`` float32.
        mean: ``[N, D]`` float32.
    """

    summary: np.ndarray
    mean: np.ndarray


def extract(
    extractor: Extractor,
    images: ImageSet,
    size: int,
    *,
    cache: Path | None = None,
    batch_size: int = 64,
    progress: Progress | None = None,
) -> Features:
    """Describe every image of a data set.

    Args:
        extractor: What describes.
        images: What is described.
        size: Side in pixels that images are brought to.
        cache: Folder for finished parts; an interrupted run goes on from them.
        batch_size: Images described at once.
        progress: Told how many images are done.
    """
    progress = progress or Silent()
    folder = cache and cache / f"{digest(images.fingerprint)}-{size}-{extractor.key}"
    parts: list[Features] = []
    for start in range(0, len(images), PART):
        indices = np.arange(start, min(start + PART, len(images)))
        file = folder and folder / f"{start:09d}.npz"
        if file and file.exists():
            with np.load(file) as stored:
                parts.append(Features(stored["summary"], stored["mean"]))
        else:
            parts.append(_extract_part(extractor, images, indices, size, batch_size, progress))
            if file:
                file.parent.mkdir(parents=True, exist_ok=True)
                with replacing(file) as part, part.open("wb") as target:
                    np.savez(target, summary=parts[-1].summary, mean=parts[-1].mean)
        progress.update(int(indices[-1]) + 1)
    return Features(np.concatenate([p.summary for p in parts]), np.concatenate([p.mean for p in parts]))


def _extract_part(
    extractor: Extractor, images: ImageSet, indices: np.ndarray, size: int, batch_size: int, progress: Progress
) -> Features:
    summary, mean, done = [], [], int(indices[0])
    for x in batches(images, indices, size, extractor.normalization, batch_size):
        described = extractor.describe(x)
        summary.append(described.summary.cpu().numpy())
        mean.append(described.mean.cpu().numpy())
        done += len(x)
        progress.update(done)
    return Features(np.concatenate(summary), np.concatenate(mean))
