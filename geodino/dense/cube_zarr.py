"""The layout of a feature cube in Zarr v3: sharded, with coordinates and CRS as CF and GeoZarr say."""

import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from odc.geo.geobox import GeoBox

VARIABLE = "features"
_SHARD_COLUMNS = 256
_CHUNK = 32


def prepare_zarr(store: Path, geobox: GeoBox, *, channels: int, dtype: str, rows: int, tags: Mapping[str, Any]) -> None:
    """Lay out a store: the array, its coordinates and its CRS, as CF and GeoZarr say; one that is there stays.

    Args:
        store: Folder of the store.
        geobox: The token grid.
        channels: Features of a token.
        dtype: ``float16`` or ``float32``.
        rows: Token rows of a shard.
        tags: Attributes of the group, their names in small letters.
    """
    import zarr
    from zarr.codecs import ZstdCodec

    if (store / "zarr.json").exists() and (store / VARIABLE / "zarr.json").exists():
        return
    shutil.rmtree(store, ignore_errors=True)
    height, width = (int(n) for n in geobox.shape)
    a, b, c, d, e, f = tuple(geobox.affine)[:6]
    attributes = {
        "Conventions": "CF-1.11",
        "proj:transform": [a, b, c, d, e, f],
        "proj:shape": [height, width],
        **{key.lower(): value for key, value in tags.items()},
    }
    names = ["spatial_ref"]
    columns = min(_SHARD_COLUMNS, -(-width // _CHUNK) * _CHUNK)
    group = zarr.create_group(store, zarr_format=3)
    if b == d == 0:  # a rotated grid has no coordinate an axis, only its transform
        names = ["x", "y", "spatial_ref"]
        for name, first, step, size in (("y", f, e, height), ("x", c, a, width)):
            axis = group.create_array(name, shape=(size,), dtype="float64", dimension_names=(name,), compressors=None)
            axis[:] = first + step * (np.arange(size) + 0.5)
            axis.attrs.update(_axis_attributes(geobox, name))
    reference = group.create_array("spatial_ref", shape=(), dtype="int32", dimension_names=(), compressors=None)
    reference[...] = 0
    reference.attrs["GeoTransform"] = f"{c} {a} {b} {f} {d} {e}"
    if geobox.crs is not None:
        code = geobox.crs.to_epsg()
        attributes["proj:code"] = None if code is None else f"EPSG:{code}"
        reference.attrs.update({"crs_wkt": geobox.crs.to_wkt(), "spatial_ref": geobox.crs.to_wkt()})
    group.attrs.update(attributes)
    cube = group.create_array(
        VARIABLE,
        shape=(channels, height, width),
        shards=(channels, rows, columns),
        chunks=(channels, _CHUNK, _CHUNK),
        dtype=dtype,
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


def consolidate(store: Path) -> None:
    """Put the metadata of all arrays into one file, so that opening is one read."""
    import zarr

    with warnings.catch_warnings():
        # xarray warns without it, zarr with it: version 3 of the format has not settled the matter.
        warnings.simplefilter("ignore")
        zarr.consolidate_metadata(store, zarr_format=3)
