"""Semi-synthetic pairs with known change, made from single aerial images.

The second date is the first with objects transplanted from other images, other light (gain, offset and gamma of each
band), sensor noise and a shift of one to three pixels: what makes pixel differences useless at very high resolution.
Everything is drawn with a seed, so the pairs are the same on every machine.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter, shift

OBJECTS = 10
GSD_M = 0.25


@dataclass(frozen=True)
class MadePair:
    """Two dates of one place and what changed.

    Attributes:
        name: of the image it was made from.
        before: uint8 `[3, H, W]`.
        after: uint8 `[3, H, W]`.
        truth: bool `[H, W]`, True where an object was transplanted, on the first date's grid.
        shift: rows and columns by which the second date was moved.
    """

    name: str
    before: NDArray[np.uint8]
    after: NDArray[np.uint8]
    truth: NDArray[np.bool_]
    shift: tuple[float, float]


def aerial_images(data: Path) -> list[tuple[str, NDArray[np.uint8]]]:
    """The aerial RGB images of the shared imagery, `[3, H, W]` each, at most 600 pixels a side."""
    files = sorted((data / "segmentation/gsi_aerial_road/images").iterdir())
    files += sorted(p for p in (data / "scenes/neon_aerial").iterdir() if p.suffix in (".tif", ".png", ".jpg"))
    found = []
    for path in files:
        image = np.asarray(Image.open(path).convert("RGB")).transpose(2, 0, 1)
        if min(image.shape[1:]) >= 256:
            found.append((path.stem, np.ascontiguousarray(image[:, :600, :600])))
    return found


def make_pairs(
    images: list[tuple[str, NDArray[np.uint8]]], *, seed: int = 0, changed: bool = True
) -> Iterator[MadePair]:
    """One pair an image.

    Args:
        images: names and RGB images.
        seed: seed of everything that is drawn.
        changed: transplant objects; False changes light and position only.
    """
    for number, (name, image) in enumerate(images):
        rng = np.random.default_rng([seed, number])
        ground = image.astype(np.float64)
        truth = np.zeros(image.shape[1:], dtype=bool)
        for _ in range(OBJECTS if changed else 0):
            other = images[int(rng.integers(len(images)))][1]
            _transplant(ground, truth, other, rng)
        moved = tuple(float(part) for part in rng.uniform(1, 3) * _direction(rng))
        after = np.stack([shift(band, moved, order=3, mode="reflect") for band in ground])
        yield MadePair(name, image, _other_light(after, rng), truth, (moved[0], moved[1]))


def write_pair(pair: MadePair, folder: Path) -> tuple[Path, Path]:
    """Both dates as GeoTIFFs of 0.25 m pixels in `folder`."""
    paths = folder / f"{pair.name}_before.tif", folder / f"{pair.name}_after.tif"
    for path, values in zip(paths, (pair.before, pair.after), strict=True):
        with rasterio.open(
            path, "w", driver="GTiff", height=values.shape[1], width=values.shape[2], count=3, dtype="uint8",
            crs="EPSG:32654", transform=Affine(GSD_M, 0, 400_000, 0, -GSD_M, 3_950_000), photometric="RGB",
        ) as out:  # fmt: skip
            out.write(values)
    return paths


def _direction(rng: np.random.Generator) -> NDArray[np.float64]:
    angle = rng.uniform(0, 2 * np.pi)
    return np.array([np.sin(angle), np.cos(angle)])


def _transplant(
    ground: NDArray[np.float64], truth: NDArray[np.bool_], donor: NDArray[np.uint8], rng: np.random.Generator
) -> None:
    """Paste an ellipse or a turned rectangle of 20 to 80 pixels from ``donor``, its border softened by a pixel."""
    side = int(rng.integers(20, 80))
    height, width = truth.shape
    top, left = int(rng.integers(0, height - side)), int(rng.integers(0, width - side))
    from_top, from_left = (int(rng.integers(0, size - side)) for size in donor.shape[1:])
    row, col = (np.mgrid[:side, :side] + 0.5) / side * 2 - 1
    angle, squeeze = rng.uniform(0, np.pi), rng.uniform(0.5, 1)
    along = row * np.sin(angle) + col * np.cos(angle)
    across = (row * np.cos(angle) - col * np.sin(angle)) / squeeze
    inside = along**2 + across**2 < 0.9 if rng.random() < 0.5 else np.maximum(np.abs(along), np.abs(across)) < 0.65
    alpha = gaussian_filter(inside.astype(np.float64), 0.7)
    place = np.s_[top : top + side, left : left + side]
    patch = donor[:, from_top : from_top + side, from_left : from_left + side]
    ground[:, *place] = (1 - alpha) * ground[:, *place] + alpha * patch
    truth[place] |= alpha > 0.5


def _other_light(image: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.uint8]:
    unit = np.clip(image / 255, 0, 1) ** rng.uniform(0.8, 1.25)
    unit = unit * rng.uniform(0.8, 1.2, size=(3, 1, 1)) + rng.uniform(-0.06, 0.06, size=(3, 1, 1))
    return np.clip(255 * unit + rng.normal(0, 3, size=image.shape), 0, 255).astype(np.uint8)
