"""Small rasters that a page computes on the token grid; the tile server enlarges them smoothly."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
from odc.geo.geobox import GeoBox

from tiles.writing.outputs import replacing


@dataclass(frozen=True)
class Preview:
    """A raster of the token grid.

    Attributes:
        values: ``[C, H, W]``.
        geobox: The token grid.
        nodata: Value that means nothing.
        names: One a band.
    """

    values: np.ndarray
    geobox: GeoBox
    nodata: float
    names: tuple[str, ...]

    def write(self, path: Path) -> Path:
        """Write it as a tiled GeoTIFF, under its name in one step."""
        count, height, width = self.values.shape
        with replacing(path) as part, rasterio.open(
            part, "w", driver="GTiff", count=count, height=height, width=width, dtype=self.values.dtype.name,
            crs=None if self.geobox.crs is None else self.geobox.crs.to_wkt(), transform=self.geobox.affine,
            nodata=self.nodata, tiled=True, blockxsize=256, blockysize=256, interleave="pixel",
        ) as target:  # fmt: skip
            target.write(self.values)
            target.descriptions = self.names
            target.update_tags(GEODINO_BACKBONE="a preview")  # no imagery that a backbone should look at
        return path
