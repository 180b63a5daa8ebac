"""Feature cubes on disk: Zarr v3 (float16, sharded) and Cloud-Optimized GeoTIFF (int8 code or float32).

A cube lies on the token grid, in the scene's CRS. Both kinds are filled in pieces of whole token rows, in any order and
by any number of processes, in a folder beside the target that becomes the target when every piece is there.
"""

import json
import shutil
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from odc.geo.geobox import GeoBox
from rasterio.errors import RasterioError

from geodino.dense.int8 import CODE_FORMULA, CODE_NODATA, decode_int8, encode_int8
from geodino.dense.stream import DenseSettings, TokenRows
from tiles.errors import InputError, OutputError
from tiles.writing.cog import CogWriter
from tiles.writing.journal import RowParts, save_piece
from tiles.writing.outputs import check_output, disk_errors

if TYPE_CHECKING:
    import xarray as xr

PIECE_ROWS = 64
"""Token rows of a piece: a row of Zarr shards, a row of COG blocks of many bands."""
_SHARD_COLUMNS = 256
_CHUNK = 32
VARIABLE = "features"


@dataclass(frozen=True)
class CubeSpec:
    """What a cube will be.

    Attributes:
        path: Where it will be; ``.zarr`` or ``.tif``.
        geobox: The token grid.
        channels: Features ``D``.
        dtype: ``float16``, ``float32`` or ``int8``.
        tags: What it says about its making.
    """

    path: Path
    geobox: GeoBox
    channels: int
    dtype: str
    tags: Mapping[str, Any]

    @property
    def work(self) -> Path:
        """Folder that holds the pieces until the cube is whole."""
        return self.path.with_name(self.path.name + ".part")

    @property
    def zarr(self) -> bool:
        """Whether it is a Zarr store."""
        return self.path.suffix == ".zarr"


def cube_type(path: Path, wanted: str = "auto") -> str:
    """Number type that a cube of this name has.

    Raises:
        OutputError: The suffix says neither Zarr nor GeoTIFF, or the format has no such type.
    """
    kinds = {".zarr": ("float16", "float32"), ".tif": ("int8", "float32"), ".tiff": ("int8", "float32")}
    known = kinds.get(path.suffix.lower())
    if known is None:
        raise OutputError(f"{path} says neither Zarr nor GeoTIFF; name a feature cube .zarr or .tif")
    if wanted == "auto":
        return known[0]
    if wanted not in known:
        raise OutputError(f"a {path.suffix} cube holds {' or '.join(known)}, not {wanted}; choose one with --dtype")
    return wanted


class CubeWriter:
    """Fills a cube piece by piece and puts it under its name when it is whole.

    Args:
        spec: What it will be.
        identity: Everything its values depend on; an unfinished run with another one is refused.
        overwrite: Replace an existing cube, and an unfinished run of another identity.

    Raises:
        OutputError: The output exists or cannot be written.
        InputError: An unfinished run with other inputs or settings lies there.
    """

    def __init__(self, spec: CubeSpec, identity: Mapping[str, Any], *, overwrite: bool = False) -> None:
        check_output(spec.path, overwrite=overwrite)
        self.spec, self.overwrite = spec, overwrite
        with disk_errors(spec.path):
            if spec.zarr and spec.work.is_dir() and not _store(spec).is_dir():
                # A kill between the rename and the cleaning up leaves a journal of pieces that are no longer there.
                shutil.rmtree(spec.work)
            self.parts = RowParts(
                spec.work,
                dict(identity) | {"dtype": spec.dtype, "channels": spec.channels},
                rows=int(spec.geobox.shape[0]),
                step=PIECE_ROWS,
                restart=overwrite,
            )
            if self.parts.journal.restarted:
                shutil.rmtree(_store(spec), ignore_errors=True)
            if spec.zarr:
                prepare_zarr(spec)

    def missing(self) -> list[range]:
        """Token rows still to be made."""
        return self.parts.missing()

    def write(self, rows: Iterator[TokenRows]) -> Iterator[int]:
        """Write a stream of rows; yields the number of rows finished after each piece."""
        for piece, features, valid in pieces(rows, int(self.spec.geobox.shape[0])):
            write_piece(self.spec, piece, features, valid)
            with disk_errors(self.spec.path):
                self.parts.mark(piece)
            yield piece.stop

    def finish(self) -> None:
        """Put the whole cube under its name.

        Raises:
            OutputError: The disk is full, or the name has been taken meanwhile.
        """
        if self.missing():
            raise ValueError(f"rows {self.missing()} of {self.spec.path} are missing")
        if self.spec.zarr:
            for stray in _store(self.spec).rglob("*.partial"):
                stray.unlink()
            consolidate(_store(self.spec))
            _replace_folder(_store(self.spec), self.spec.path, overwrite=self.overwrite)
        else:
            self._assemble()
        self.parts.remove()

    def _assemble(self) -> None:
        spec = self.spec
        names = [f"feature {i}" for i in range(spec.channels)]
        with CogWriter(
            # The pieces' folder holds the name that a working file would take.
            spec.work / spec.path.name,
            spec.geobox,
            dtype=spec.dtype,
            nodata=CODE_NODATA if spec.dtype == "int8" else float("nan"),
            count=spec.channels,
            # An average of unit vectors has no unit length and a code has no average: overviews are samples.
            resampling="nearest",
            descriptions=names,
            tags=spec.tags,
            overwrite=True,
        ) as out:
            for piece in self.parts.pieces:
                out.write(piece.start, self.parts.read(VARIABLE, piece))
        check_output(spec.path, overwrite=self.overwrite)
        (spec.work / spec.path.name).replace(spec.path)


def pieces(
    rows: Iterator[TokenRows], total: int
) -> Iterator[tuple[range, npt.NDArray[np.float32], npt.NDArray[np.bool_]]]:
    """Cut a stream of rows, which begins at a piece's first row, into pieces."""
    stop = first = 0
    for new in rows:
        taken = 0
        while taken < new.valid.shape[0]:
            row = new.row + taken
            if row >= stop:
                first, stop = row, min(row // PIECE_ROWS * PIECE_ROWS + PIECE_ROWS, total)
                features = np.empty((len(new.features), stop - first, new.valid.shape[1]), np.float32)
                valid = np.empty(features.shape[1:], np.bool_)
            count = min(stop - row, new.valid.shape[0] - taken)
            here, there = slice(row - first, row - first + count), slice(taken, taken + count)
            features[:, here], valid[here] = new.features[:, there], new.valid[there]
            taken += count
            if row + count == stop:
                yield range(first, stop), features, valid


def write_piece(spec: CubeSpec, piece: range, features: npt.NDArray[np.float32], valid: npt.NDArray[np.bool_]) -> None:
    """Put one piece on disk; pieces touch no common file, so any process may write any of them.

    Raises:
        OutputError: The disk is full.
    """
    with disk_errors(spec.path):
        if not spec.zarr:
            array = (
                encode_int8(features, valid) if spec.dtype == "int8" else np.where(valid, features, np.float32(np.nan))
            )
            save_piece(spec.work, VARIABLE, piece, array)
            return
        import zarr

        array = features.astype(spec.dtype)
        if not valid.all():
            array[:, ~valid] = np.nan
        store = zarr.open_group(_store(spec), mode="r+")
        store[VARIABLE][:, piece.start : piece.stop] = array


def consolidate(store: Path) -> None:
    """Put the metadata of all arrays into one file, so that opening is one read."""
    import zarr

    with warnings.catch_warnings():
        # xarray warns without it, zarr with it: version 3 of the format has not settled the matter.
        warnings.simplefilter("ignore")
        zarr.consolidate_metadata(store, zarr_format=3)


def _store(spec: CubeSpec) -> Path:
    return spec.work / "cube.zarr"


def prepare_zarr(spec: CubeSpec) -> None:
    """Lay out the store: the array, its coordinates and its CRS, as CF and GeoZarr say."""
    import zarr
    from zarr.codecs import ZstdCodec

    store = _store(spec)
    if (store / "zarr.json").exists() and (store / VARIABLE / "zarr.json").exists():
        return
    shutil.rmtree(store, ignore_errors=True)
    height, width = (int(n) for n in spec.geobox.shape)
    a, b, c, d, e, f = tuple(spec.geobox.affine)[:6]
    attributes = {
        "Conventions": "CF-1.11",
        "proj:transform": [a, b, c, d, e, f],
        "proj:shape": [height, width],
        **{key.lower(): value for key, value in spec.tags.items()},
    }
    names = ["spatial_ref"]
    columns = min(_SHARD_COLUMNS, -(-width // _CHUNK) * _CHUNK)
    group = zarr.create_group(store, zarr_format=3)
    if b == d == 0:  # a rotated grid has no coordinate an axis, only its transform
        names = ["x", "y", "spatial_ref"]
        for name, first, step, size in (("y", f, e, height), ("x", c, a, width)):
            axis = group.create_array(name, shape=(size,), dtype="float64", dimension_names=(name,), compressors=None)
            axis[:] = first + step * (np.arange(size) + 0.5)
            axis.attrs.update(_axis_attributes(spec.geobox, name))
    reference = group.create_array("spatial_ref", shape=(), dtype="int32", dimension_names=(), compressors=None)
    reference[...] = 0
    reference.attrs["GeoTransform"] = f"{c} {a} {b} {f} {d} {e}"
    if spec.geobox.crs is not None:
        code = spec.geobox.crs.to_epsg()
        attributes["proj:code"] = None if code is None else f"EPSG:{code}"
        reference.attrs.update({"crs_wkt": spec.geobox.crs.to_wkt(), "spatial_ref": spec.geobox.crs.to_wkt()})
    group.attrs.update(attributes)
    cube = group.create_array(
        VARIABLE,
        shape=(spec.channels, height, width),
        shards=(spec.channels, PIECE_ROWS, columns),
        chunks=(spec.channels, _CHUNK, _CHUNK),
        dtype=spec.dtype,
        fill_value=float("nan"),
        compressors=ZstdCodec(level=1),
        dimension_names=("feature", "y", "x"),
    )
    cube.attrs.update(
        {"long_name": "dense features of unit length", "grid_mapping": "spatial_ref", "coordinates": " ".join(names)}
    )


def _axis_attributes(geobox: GeoBox, name: str) -> dict[str, str]:
    if geobox.crs is None:
        return {"axis": name.upper()}
    if geobox.crs.geographic:
        long, units = {"x": ("longitude", "degrees_east"), "y": ("latitude", "degrees_north")}[name]
        return {"axis": name.upper(), "standard_name": long, "units": units}
    return {"axis": name.upper(), "standard_name": f"projection_{name}_coordinate", "units": geobox.crs.units[0]}


def _replace_folder(source: Path, target: Path, *, overwrite: bool) -> None:
    """Rename a folder; a folder cannot be replaced in one step, so an old one is moved aside first."""
    check_output(target, overwrite=overwrite)
    old = target.with_name(target.name + ".old.part")
    if target.exists():
        shutil.rmtree(old, ignore_errors=True)
        target.rename(old)
    source.rename(target)
    if old.is_dir():
        shutil.rmtree(old, ignore_errors=True)


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
    if not path.exists():
        raise InputError(f"{path} does not exist")
    if path.suffix == ".zarr":
        try:
            cube = xr.open_zarr(path, consolidated=False)
        except (OSError, ValueError, KeyError):  # a folder or file that only has the name
            cube = xr.Dataset()
        if VARIABLE not in cube:
            raise InputError(f"{path} is no feature cube; `geodino features` makes one")
        return cube[VARIABLE].astype(np.float32).assign_attrs(_tags_of(cube.attrs))
    try:
        raster = rioxarray.open_rasterio(path, chunks={"y": PIECE_ROWS, "x": PIECE_ROWS})
    except RasterioError:
        raise InputError(f"{path} is no feature cube; `geodino features` makes one") from None
    if not isinstance(raster, xr.DataArray) or "GEODINO_CUBE" not in raster.attrs:
        raise InputError(f"{path} is no feature cube; `geodino features` makes one")
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


def cube_tags(dtype: str, settings: DenseSettings) -> dict[str, Any]:
    """Tags that say how to read a cube."""
    tags: dict[str, Any] = {
        "GEODINO_CUBE": "unit-length dense features on the token grid",
        "GEODINO_SETTINGS": settings.identity(),
    }
    if dtype == "int8":
        tags["GEODINO_CODE"] = CODE_FORMULA
    return tags
