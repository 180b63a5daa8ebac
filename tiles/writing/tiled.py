"""A tiled GeoTIFF filled row by row, with smaller copies of itself that grow along: the working files of a COG.

GDAL makes the overviews of a raster band by band and decodes whole blocks for each. Hundreds of bands that share their
blocks are then decoded hundreds of times, which took forty times as long as writing them. Here the smaller copies are
taken from the rows in memory, all bands at once, and a VRT lays them over the raster as its overviews.
"""

import contextlib
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
import rasterio.shutil
from affine import Affine
from rasterio._err import CPLE_BaseError  # closing a file that a full disk has cut off raises these as they are
from rasterio.errors import RasterioError
from rasterio.windows import Window


class TiledRows:
    """A tiled GeoTIFF in the making, written in whole rows of blocks so that each block is compressed once.

    Args:
        path: The working file.
        profile: rasterio's profile: ``height``, ``width``, ``count``, ``dtype``, ``crs``, ``transform``, ``nodata``.
        block: Side of a block, a power of two.
        levels: Grow smaller copies too, each with every second row and column of the one before, down to one block.

    Attributes:
        file: The open file, to be described before rows come.
        smaller: The next smaller copy, if there is one.
    """

    def __init__(self, path: Path, profile: Mapping[str, Any], block: int, *, levels: bool) -> None:
        self.path, self.block = path, block
        self.height, self.width = int(profile["height"]), int(profile["width"])
        self.smaller: TiledRows | None = None
        self.file = rasterio.open(
            path,
            "w",
            driver="GTiff",
            tiled=True,
            blockxsize=block,
            blockysize=block,
            compress="ZSTD",
            zstd_level=1,
            interleave="pixel",
            bigtiff="IF_SAFER",
            **profile,
        )
        self._rows = np.zeros((profile["count"], block, self.width), profile["dtype"])
        self._row = self._held = 0
        if levels and max(self.height, self.width) > block:
            half = {
                "height": -(-self.height // 2),
                "width": -(-self.width // 2),
                "transform": profile["transform"] @ Affine.scale(2),
            }
            name = path.with_name(f"{path.stem}-half{path.suffix}")
            try:
                self.smaller = TiledRows(name, {**profile, **half}, block, levels=True)
            except BaseException:
                self.remove()
                raise

    @property
    def stop(self) -> int:
        """Rows that have come."""
        return self._row + self._held

    @property
    def all(self) -> "list[TiledRows]":
        """This file and its smaller copies, largest first."""
        return [self, *(self.smaller.all if self.smaller else [])]

    def write(self, values: npt.NDArray[Any]) -> None:
        """Take the next rows ``[count, n, width]``."""
        start = 0
        while start < values.shape[1]:
            taken = min(self.block - self._held, values.shape[1] - start)
            self._rows[:, self._held : self._held + taken] = values[:, start : start + taken]
            self._held += taken
            start += taken
            if self._held == self.block:
                self._flush()

    def _flush(self) -> None:
        if self._held:
            rows = self._rows[:, : self._held]
            self.file.write(rows, window=Window(0, self._row, self.width, self._held))
            if self.smaller:  # blocks begin at even rows, so every second row of each is every second row of all
                self.smaller.write(rows[:, ::2, ::2])
            self._row += self._held
            self._held = 0

    def close(self) -> None:
        """Write the last rows and close the files."""
        self._flush()
        self.file.close()
        if self.smaller:
            self.smaller.close()

    def source(self) -> Path:
        """What to copy once it is closed: the file itself, or a VRT in which the smaller copies are its overviews."""
        if self.smaller is None:
            return self.path
        vrt = self._vrt
        rasterio.shutil.copy(self.path, vrt, driver="VRT")
        tree = ET.parse(vrt)
        for band in tree.iterfind("VRTRasterBand"):
            for copy in self.smaller.all:
                overview = ET.SubElement(band, "Overview")
                ET.SubElement(overview, "SourceFilename", relativeToVRT="1").text = copy.path.name
                ET.SubElement(overview, "SourceBand").text = band.attrib["band"]
        tree.write(vrt)
        return vrt

    @property
    def _vrt(self) -> Path:
        return self.path.with_name(f"{self.path.stem}-levels{self.path.suffix}")

    def remove(self) -> None:
        """Close and delete the files, whatever state they are in."""
        for one in self.all:
            # What closing a file complains about concerns nobody: it is thrown away.
            with contextlib.suppress(RasterioError, CPLE_BaseError, OSError):
                one.file.close()
            one.path.unlink(missing_ok=True)
            one._vrt.unlink(missing_ok=True)
