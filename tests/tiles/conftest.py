"""Tiny generated rasters with exact values."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine

UTM = "EPSG:32633"
TEN_METRES = Affine(10, 0, 400000, 0, -10, 5000000)

WriteRaster = Callable[..., Path]


@pytest.fixture
def write_raster(tmp_path: Path) -> WriteRaster:
    """Write `values [C, H, W]` as a GeoTIFF under `tmp_path` and give its path."""

    def write(
        name: str,
        values: np.ndarray,
        *,
        crs: str | None = UTM,
        transform: Affine = TEN_METRES,
        nodata: float | None = None,
        descriptions: tuple[str, ...] = (),
        mask: np.ndarray | None = None,
        tags: dict[str, str] | None = None,
        scales: tuple[float, ...] = (),
        **profile: object,
    ) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        count, height, width = values.shape
        with rasterio.open(
            path,
            "w",
            driver="GTiff",
            count=count,
            height=height,
            width=width,
            dtype=values.dtype,
            crs=crs,
            transform=transform,
            nodata=nodata,
            **profile,
        ) as target:
            target.write(values)
            if descriptions:
                target.descriptions = descriptions
            if scales:
                target.scales = scales
            if mask is not None:
                target.write_mask(mask)
            if tags:
                target.update_tags(**tags)
        return path

    return write


@pytest.fixture
def ramp() -> Callable[..., np.ndarray]:
    """Distinct, never-zero values `[C, H, W]`."""

    def make(count: int, height: int, width: int, dtype: str = "uint8") -> np.ndarray:
        numbers = np.arange(count * height * width).reshape(count, height, width)
        return (numbers % 251 + 1).astype(dtype)

    return make
