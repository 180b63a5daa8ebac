"""Vectors in three formats."""

from pathlib import Path

import geopandas
import pytest
from shapely.geometry import box

from app.store.exports import FORMATS, convert_vectors, write_vectors


def test_vectors_are_written_in_three_formats_that_agree(tmp_path: Path) -> None:
    frame = geopandas.GeoDataFrame({"id": ["1"]}, geometry=[box(500_000, 4_999_000, 500_100, 4_999_100)], crs=32631)
    paths = write_vectors(frame, tmp_path / "v", "changes")
    assert [path.suffix for path in paths] == list(FORMATS)
    read = [geopandas.read_parquet(p) if p.suffix == ".parquet" else geopandas.read_file(p) for p in paths]
    assert [one.crs.to_epsg() for one in read] == [32631, 4326, 32631]
    assert all(one.to_crs(32631).area.iloc[0] == pytest.approx(10_000, rel=1e-4) for one in read)
    assert convert_vectors(tmp_path / "v.gpkg") == paths
    assert convert_vectors(tmp_path / "none.gpkg") == []
