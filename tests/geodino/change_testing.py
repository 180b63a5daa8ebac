"""What the tests of whole change maps share: generated pairs of dates, and what of them has changed."""

from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from scipy.ndimage import gaussian_filter
from scipy.ndimage import shift as move

TINY = {"depth": 1, "embed_dim": 24, "num_heads": 2}
TRANSFORM = Affine(10, 0, 500_000, 0, -10, 4_002_000)
SIZE = (160, 192)
OBJECT = np.s_[60:100, 80:130]


def ground(seed: int = 0, bands: int = 4) -> np.ndarray:
    """Smooth textured ground, float `[bands, H, W]` around 100."""
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(bands, bands))
    fields = np.stack([gaussian_filter(rng.normal(size=SIZE), 2 + 2 * band) for band in range(bands)])
    fields /= fields.std(axis=(1, 2), keepdims=True)
    return 100 + 12 * np.einsum("ij,jhw->ihw", mixing, fields) / bands**0.5


def second_date(
    first: np.ndarray, *, changed: bool = True, gain: float = 1.15, rows: float = 0, cols: float = 0
) -> np.ndarray:
    later = first.copy()
    if changed:
        later[:, *OBJECT] = ground(seed=7)[:, *OBJECT] * 0.6 + 60
    later = np.stack([move(band, (rows, cols), order=3, mode="nearest") for band in later])
    return later * gain - 9


def write(
    path: Path, values: np.ndarray, *, transform: Affine = TRANSFORM, crs: str | None = "EPSG:32618", nodata: Any = None
) -> Path:
    noisy = values + np.random.default_rng(len(path.name)).normal(0, 1.5, values.shape)
    with rasterio.open(
        path, "w", driver="GTiff", height=values.shape[1], width=values.shape[2], count=len(values), dtype="uint8",
        crs=crs, transform=transform, nodata=nodata, photometric="MINISBLACK",
    ) as out:  # fmt: skip
        out.write(noisy.clip(1, 255).astype(np.uint8))
    return path


def pair(folder: Path, **options: Any) -> tuple[Path, Path]:
    first = ground()
    return write(folder / "b.tif", first), write(folder / "after.tif", second_date(first, **options))


def read(path: Path) -> np.ndarray:
    with rasterio.open(path) as file:
        return file.read(1)


def truth() -> np.ndarray:
    mask = np.zeros(SIZE, dtype=bool)
    mask[OBJECT] = True
    return mask
