"""Features in memory, read as they were written."""

from pathlib import Path

import numpy as np
import pytest
import rasterio
import zarr
from app_testing import blocks

from app.work.cube import open_cube
from tiles.errors import InputError


def test_a_cube_is_read_as_it_was_written(tmp_path: Path) -> None:
    from geodino.dense.cube_zarr import VARIABLE

    features, _ = blocks()
    group = zarr.create_group(tmp_path / "c.zarr", zarr_format=3)
    group.attrs["proj:transform"] = [160.0, 0.0, 500_000.0, 0.0, -160.0, 5_000_000.0]
    reference = group.create_array("spatial_ref", shape=(), dtype="int32")
    reference.attrs["crs_wkt"] = rasterio.crs.CRS.from_epsg(32631).to_wkt()
    array = group.create_array(VARIABLE, shape=features.shape, chunks=features.shape, dtype="float16")
    stored = features.astype(np.float16)
    stored[:, 3, 4] = np.nan
    array[:] = stored
    cube = open_cube(tmp_path / "c.zarr")
    assert cube.index[3, 4] == -1
    assert np.array_equal(cube.tokens[cube.index[5, 6]], stored[:, 5, 6])
    assert open_cube(tmp_path / "c.zarr") is cube
    zarr.create_group(tmp_path / "other.zarr")
    with pytest.raises(InputError, match="no feature cube"):
        open_cube(tmp_path / "other.zarr")
