"""Reading a feature cube: as numpy rows, or lazily through xarray."""

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rasterio.errors import RasterioError
from rasterio.windows import Window

from geodino.dense.cube import PIECE_ROWS, CubeSpec, CubeWriter
from geodino.dense.cube_zarr import VARIABLE
from geodino.dense.int8 import CODE_NODATA, decode_int8
from tiles.errors import InputError
from tiles.writing.journal import RowParts

if TYPE_CHECKING:
    import xarray as xr

# Of a temporary cube, held at once to pick single tokens.
_HELD_BYTES = 64 << 20


class CubeArray(ABC):
    """The features of a cube, whatever file they lie in.

    Attributes:
        geobox: The token grid.
        channels: Features ``D`` of a token.
        tags: What the cube says about its making, as a GeoTIFF has it; empty for a temporary one.
        piece_rows: Token rows that are read about as fast as one of them.
    """

    geobox: GeoBox
    channels: int
    tags: Mapping[str, str]
    piece_rows: int = PIECE_ROWS

    @abstractmethod
    def rows(self, start: int, stop: int) -> NDArray[np.float32]:
        """Token rows ``[D, stop - start, columns]`` float32, decoded; NaN where nodata."""

    @abstractmethod
    def valid(self) -> NDArray[np.bool_]:
        """Which tokens of the whole grid have features, ``[rows, columns]``."""


class _Pieces(CubeArray):
    """A temporary cube, read where its pieces were written."""

    def __init__(self, spec: CubeSpec, parts: RowParts) -> None:
        self.geobox, self.channels, self.tags = spec.geobox, spec.channels, {}
        self._parts, self._step = parts, spec.piece_rows
        # Any row can be read alone, so that single tokens of a wide scene need not cost whole pieces of memory.
        row_bytes = 4 * spec.channels * int(spec.geobox.shape[1])
        self.piece_rows = max(1, min(spec.piece_rows, _HELD_BYTES // row_bytes))

    def rows(self, start: int, stop: int) -> NDArray[np.float32]:
        found = np.empty((self.channels, stop - start, int(self.geobox.shape[1])), np.float32)
        for piece in self._parts.pieces[start // self._step : -(-stop // self._step)]:
            first, last = max(start, piece.start), min(stop, piece.stop)
            # The mapping ends with these lines: what is read through one stays in the process's memory until then.
            values = self._parts.read(VARIABLE, piece)[:, first - piece.start : last - piece.start]
            found[:, first - start : last - start] = values
            del values
        return found

    def valid(self) -> NDArray[np.bool_]:
        return np.concatenate([~np.isnan(self._parts.read(VARIABLE, piece)[0]) for piece in self._parts.pieces])


class _Zarr(CubeArray):
    """A cube in a Zarr store."""

    def __init__(self, path: Path) -> None:
        import zarr

        try:
            group = zarr.open_group(path, mode="r")
            self._array = group[VARIABLE]
            affine = Affine(*group.attrs["proj:transform"])
            crs = group["spatial_ref"].attrs.get("crs_wkt")
        except (OSError, ValueError, KeyError):  # a folder or file that only has the name
            raise _no_cube(path) from None
        self.geobox, self.channels = GeoBox(self._array.shape[1:], affine, crs), int(self._array.shape[0])
        self.tags = _tags_of(group.attrs)

    def rows(self, start: int, stop: int) -> NDArray[np.float32]:
        return np.asarray(self._array[:, start:stop]).astype(np.float32, copy=False)

    def valid(self) -> NDArray[np.bool_]:
        return ~np.isnan(np.asarray(self._array[0]))


class _Tiff(CubeArray):
    """A cube in a GeoTIFF."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            with rasterio.open(path) as file:
                self.tags = {key: value for key, value in file.tags().items() if key.startswith("GEODINO_")}
                crs = None if file.crs is None else file.crs.to_wkt()
                self.geobox, self.channels = GeoBox(file.shape, file.transform, crs), int(file.count)
        except RasterioError:
            raise _no_cube(path) from None
        if "GEODINO_CUBE" not in self.tags:
            raise _no_cube(path)

    def rows(self, start: int, stop: int) -> NDArray[np.float32]:
        with rasterio.open(self._path) as file:
            values = file.read(window=Window(0, start, file.width, stop - start))
        return decode_int8(values) if values.dtype == np.int8 else values

    def valid(self) -> NDArray[np.bool_]:
        with rasterio.open(self._path) as file:
            first = file.read(1)
        return first != CODE_NODATA if first.dtype == np.int8 else ~np.isnan(first)


def piece_array(writer: CubeWriter) -> CubeArray:
    """The features of a temporary cube, all of whose rows are on disk."""
    return _Pieces(writer.spec, writer.parts)


def cube_array(path: str | Path) -> CubeArray:
    """The features of a cube as rows of numbers, without xarray.

    Args:
        path: A cube that ``geodino features`` wrote.

    Raises:
        InputError: It is no feature cube.
    """
    path = Path(path)
    if not os.path.exists(path):
        raise InputError(f"{path} does not exist")
    return _Zarr(path) if path.suffix == ".zarr" else _Tiff(path)


def _no_cube(path: Path) -> InputError:
    return InputError(f"{path} is no feature cube; `geodino features` makes one")


def open_cube(path: str | Path) -> "xr.DataArray":
    """Open a feature cube lazily, decoded.

    Args:
        path: A cube that ``geodino features`` wrote.

    Returns:
        float32 ``[feature, y, x]`` with coordinates, ``.rio.crs`` and, as attributes, the tags that say what made it;
        NaN where nodata. Values are read, and codes decoded, chunk by chunk when they are used.

    Raises:
        InputError: It is no feature cube.
    """
    import rioxarray
    import xarray as xr

    path = Path(path)
    if not os.path.exists(path):
        raise InputError(f"{path} does not exist")
    if path.suffix == ".zarr":
        try:
            cube = xr.open_zarr(path, consolidated=False)
        except (OSError, ValueError, KeyError):  # a folder or file that only has the name
            cube = xr.Dataset()
        if VARIABLE not in cube:
            raise _no_cube(path)
        return cube[VARIABLE].astype(np.float32).assign_attrs(_tags_of(cube.attrs))
    try:
        raster = rioxarray.open_rasterio(path, chunks={"y": PIECE_ROWS, "x": PIECE_ROWS})
    except RasterioError:
        raise _no_cube(path) from None
    if not isinstance(raster, xr.DataArray) or "GEODINO_CUBE" not in raster.attrs:
        raise _no_cube(path)
    raster = raster.rename(band="feature").drop_vars("feature")
    if raster.dtype == np.int8:
        decoded = xr.apply_ufunc(decode_int8, raster, dask="parallelized", output_dtypes=[np.float32])
        decoded.attrs = raster.attrs
        raster = decoded.rio.write_crs(raster.rio.crs) if raster.rio.crs else decoded
    return raster


def _tags_of(attributes: Mapping[str, Any]) -> dict[str, str]:
    """The tags among a Zarr store's attributes, written as a GeoTIFF has them."""
    return {
        key.upper(): value if isinstance(value, str) else json.dumps(value, sort_keys=True)
        for key, value in attributes.items()
        if key.startswith("geodino_")
    }
