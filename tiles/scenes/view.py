"""Bands of one open file as they lie on a scene's grid: the file itself, or GDAL's warp of it."""

from dataclasses import dataclass

import numpy as np
from odc.geo.geobox import GeoBox
from rasterio.enums import Resampling
from rasterio.io import DatasetReader
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from tiles.grids import turned
from tiles.scenes.raster import reading
from tiles.scenes.validity import measured, opaque

# GDAL warps nothing without a reference system; rasters in bare pixels are placed in this plane, source and target.
_PLANE = "EPSG:3857"


@dataclass(frozen=True)
class View:
    """Bands of one open data set, seen on the scene's grid.

    Attributes:
        name: The file, for errors.
        dataset: The file itself, or a warp of it.
        indexes: Numbers of the bands in the data set.
        places: Where the bands stand in the scene.
        nodata: The bands' nodata, or None.
        covers: Bands that tell what is covered: numbers of alpha bands, 0 for the file's mask.
    """

    name: str
    dataset: DatasetReader | WarpedVRT
    indexes: list[int]
    places: list[int]
    nodata: tuple[float | None, ...]
    covers: tuple[int, ...] = ()

    def read(self, inside: Window, out: np.ndarray, valid: np.ndarray) -> None:
        """Read a window within the grid into ``out[places]``; clear ``valid`` where nothing was measured."""
        with reading(self.name):
            if self.places == list(range(len(out))) and out.flags.c_contiguous:
                self.dataset.read(self.indexes, window=inside, out=out)
                valid &= measured(out, self.nodata)
            elif self.places:
                values = self.dataset.read(self.indexes, window=inside)
                out[self.places] = values
                valid &= measured(values, self.nodata)
        self.mark_covered(inside, valid)

    def mark_covered(self, inside: Window, valid: np.ndarray) -> None:
        """Clear ``valid`` where mask or alpha say so, and beyond the file."""
        with reading(self.name):
            for cover in self.covers:
                valid &= opaque(
                    self.dataset.read(cover, window=inside) if cover else self.dataset.read_masks(1, window=inside)
                )

    def read_plane(self, inside: Window) -> np.ndarray:
        """Raw values of the first band alone, ``[H, W]``."""
        with reading(self.name):
            return self.dataset.read(self.indexes[0], window=inside)


def warped(
    name: str,
    source: DatasetReader,
    grid: GeoBox,
    target: GeoBox,
    resampling: str,
    *,
    nodata: float | None,
    add_alpha: bool,
) -> WarpedVRT:
    """A file on another grid.

    Args:
        name: The file, for errors.
        source: The file, opened.
        grid: Its own grid.
        target: The grid wanted.
        resampling: A rasterio ``Resampling`` name.
        nodata: Digital number that is left out while resampling, or None.
        add_alpha: Add a last band that tells what is covered; False where the file has an alpha band, which then does.
    """
    options = {} if not add_alpha else {"add_alpha": True}
    with reading(name):
        return WarpedVRT(
            source,
            src_crs=_PLANE if grid.crs is None else grid.crs.to_wkt(),
            src_transform=turned(grid, target).affine,
            crs=_PLANE if target.crs is None else target.crs.to_wkt(),
            transform=target.affine,
            height=target.shape[0],
            width=target.shape[1],
            resampling=Resampling[resampling],
            src_nodata=nodata,
            UNIFIED_SRC_NODATA="NO",
            **options,
        )
