"""Cloud-Optimized GeoTIFFs, written row by row and whole or not at all.

Rows go into a tiled working file beside the target (`tiles.writing.tiled`), GDAL's COG driver turns that into the final
layout with overviews, and a rename puts it under its name. Both steps hold a few rows of blocks, whatever the raster's
height.

GDAL reports a full disk in passing and goes on, so a file counts as written only after each of its blocks is found
inside it.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
import rasterio
import rasterio.shutil
from odc.geo.geobox import GeoBox

from tiles.workers import cores
from tiles.writing.outputs import cannot_write, check_output, disk_errors, part_of
from tiles.writing.tiled import TiledRows

BLOCK = 512
CLASSES_TAG = "GEODINO_CLASSES"
# An overview of more levels than this is smaller than a pixel for any raster GDAL can hold.
_MOST_LEVELS = 32
# Bytes of one block of all bands together, above which many-band rasters take smaller blocks.
_BLOCK_BYTES = 4 << 20
# GDAL makes the overviews of up to so many bands; of more it would take longer than all else: `tiles.writing.tiled`.
_FEW_BANDS = 4
# Threads that compress; each holds a block.
_THREADS = 4


@dataclass(frozen=True)
class MapClass:
    """One class of a map.

    Attributes:
        value: Pixel value.
        name: What it is called.
        color: Red, green and blue, 0 to 255.
    """

    value: int
    name: str
    color: tuple[int, int, int]


def block_size(count: int, dtype: npt.DTypeLike) -> int:
    """Side of a block: 512, or less where a block of all bands would be too large; a multiple of 16 of at least 64."""
    side = BLOCK
    while side > 64 and side * side * count * np.dtype(dtype).itemsize > _BLOCK_BYTES:
        side //= 2
    return side


class CogWriter:
    """Writes a Cloud-Optimized GeoTIFF from top to bottom.

    A context manager: leaving it normally makes the file appear under its name; leaving it by an exception, Ctrl-C
    included, leaves nothing. The working file and the final one exist side by side for a moment, so the disk holds
    the raster twice.

    Args:
        path: Where the file will be.
        geobox: Grid of the raster; without a CRS the file has none.
        dtype: NumPy type of the values.
        nodata: Value that means nodata.
        count: Number of bands.
        classes: Classes of a map: their colours become the file's colour table (uint8), their names its tags.
        resampling: How overviews are made: ``nearest`` for classes, ``average`` for scores.
        descriptions: One a band.
        tags: What the file should say about its making; values that are no strings are written as JSON.
        overwrite: Replace an existing file.

    Raises:
        OutputError: See ``check_output``; later, when the disk is full.
    """

    def __init__(
        self,
        path: Path,
        geobox: GeoBox,
        *,
        dtype: npt.DTypeLike,
        nodata: float | None,
        count: int = 1,
        classes: Sequence[MapClass] = (),
        resampling: Literal["nearest", "average"] = "average",
        descriptions: Sequence[str] = (),
        tags: Mapping[str, Any] | None = None,
        overwrite: bool = False,
    ) -> None:
        check_output(path, overwrite=overwrite)
        self.path, self.overwrite, self.resampling = path, overwrite, resampling
        self.height, self.width = (int(n) for n in geobox.shape)
        self.dtype, self.nodata = np.dtype(dtype), nodata
        self.block = block_size(count, dtype)
        self.work = part_of(path)
        profile = {
            "height": self.height,
            "width": self.width,
            "count": count,
            "dtype": self.dtype,
            "crs": None if geobox.crs is None else geobox.crs.to_wkt(),
            "transform": geobox.affine,
            "nodata": nodata,
        }
        levels = resampling == "nearest" and count > _FEW_BANDS
        with disk_errors(path):
            self._rows = TiledRows(self.work, profile, self.block, levels=levels)
        try:
            self._describe(classes, descriptions, tags or {})
        except BaseException:
            self.abort()
            raise

    def _describe(self, classes: Sequence[MapClass], descriptions: Sequence[str], tags: Mapping[str, Any]) -> None:
        texts = {k: v if isinstance(v, str) else json.dumps(v, sort_keys=True) for k, v in tags.items()}
        if classes:
            texts[CLASSES_TAG] = json.dumps([[c.value, c.name, list(c.color)] for c in classes], ensure_ascii=False)
            if self.dtype == np.uint8:
                self._rows.file.write_colormap(1, {c.value: (*c.color, 255) for c in classes})
        self._rows.file.update_tags(**texts)
        for number, text in enumerate(descriptions, 1):
            self._rows.file.set_band_description(number, text)

    def write(self, row: int, values: npt.NDArray[Any]) -> None:
        """Write ``values [count, n, width]`` from pixel ``row`` on.

        Raises:
            ValueError: The rows do not follow those written before, or do not fit.
        """
        count = self._rows.file.count
        if row != self._rows.stop or values.shape[0] != count or values.shape[2] != self.width:
            raise ValueError(f"rows {values.shape} from {row} on do not follow row {self._rows.stop}")
        with disk_errors(self.path):
            self._rows.write(values)

    def close(self) -> None:
        """Finish: write the last rows, make the COG, give it its name.

        Raises:
            OutputError: The disk is full, or something else has taken the name meanwhile.
            ValueError: Rows are missing.
        """
        if self._rows.stop != self.height:
            self.abort()
            raise ValueError(f"{self._rows.stop} of {self.height} rows were written to {self.path}")
        try:
            with disk_errors(self.path):
                self._rows.close()
            for file in self._rows.all:
                check_whole(file.path, self.path)
            with disk_errors(self.path):
                source = self._rows.source()
            translate(source, self.path, resampling=self.resampling, overwrite=self.overwrite)
        finally:
            self.abort()

    def abort(self) -> None:
        """Leave nothing behind."""
        self._rows.remove()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()


def translate(
    source: Path, target: Path, *, resampling: Literal["nearest", "average"], overwrite: bool = False
) -> None:
    """Make ``source`` a COG under the name ``target``; existing overviews of the source are taken over.

    Raises:
        OutputError: The disk is full, or ``target`` exists and ``overwrite`` is false.
    """
    part = part_of(target, ".cog")
    with rasterio.open(source) as header:
        dtype, count = np.dtype(header.dtypes[0]), header.count
    options = {
        # Codes of features are as good as noise: DEFLATE takes three times as long and saves nothing.
        "COMPRESS": "ZSTD" if dtype.kind == "f" or count > _FEW_BANDS else "DEFLATE",
        "LEVEL": "1" if count > _FEW_BANDS else "9" if dtype.kind == "f" else "6",
        # Neighbours of a class map or of a code are equal or unrelated: differences only help continuous values.
        "PREDICTOR": "YES" if dtype.kind == "f" else "NO",
        "BLOCKSIZE": str(block_size(count, dtype)),
        "OVERVIEW_RESAMPLING": resampling.upper(),
        "BIGTIFF": "IF_SAFER",
        "NUM_THREADS": str(min(cores(), _THREADS)),
    }
    try:
        with disk_errors(target):
            rasterio.shutil.copy(source, part, driver="COG", **options)
        check_whole(part, target)
        check_output(target, overwrite=overwrite)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def check_whole(path: Path, name: Path) -> None:
    """Make sure that every block of a tiled GeoTIFF, overviews included, lies inside the file.

    Args:
        path: The file.
        name: What to call it in the error.

    Raises:
        OutputError: A block is missing or cut off.
    """
    size = path.stat().st_size
    with disk_errors(name), rasterio.open(path) as file:
        levels = [None, *range(len(file.overviews(1)))]
        for level in levels[:_MOST_LEVELS]:
            factor = 1 if level is None else file.overviews(1)[level]
            rows, columns = file.block_shapes[0]
            height, width = -(-file.height // factor), -(-file.width // factor)
            for y in range(-(-height // rows)):
                for x in range(-(-width // columns)):
                    place = [
                        file.get_tag_item(f"BLOCK_{what}_{x}_{y}", "TIFF", 1, level) for what in ("OFFSET", "SIZE")
                    ]
                    if None in place or sum(int(p) for p in place) > size:
                        raise cannot_write(name, "a block is missing or cut off")


def read_classes(path: str | Path) -> tuple[MapClass, ...]:
    """Read the classes that `CogWriter` put into a map; empty for other files."""
    with rasterio.open(path) as file:
        text = file.tags().get(CLASSES_TAG)
    return tuple(MapClass(value, name, (r, g, b)) for value, name, (r, g, b) in json.loads(text)) if text else ()
