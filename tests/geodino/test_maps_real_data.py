"""Maps of real imagery with real labels: what a change of the maths must not lose."""

from pathlib import Path

import numpy as np
import pytest
import rasterio
from sklearn.metrics import f1_score, roc_auc_score

import geodino
from geodino.api import change_series
from geodino.backbones.backbone import Backbone, untrained_backbone

pytestmark = pytest.mark.real_data


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return untrained_backbone(
        "vit_tiny_patch16_dinov3_qkvb", device="cpu", precision="fp32", patch_size=8, depth=2, embed_dim=48, num_heads=2
    )


def read(path: Path) -> np.ndarray:
    with rasterio.open(path) as file:
        return file.read(1)


@pytest.mark.parametrize("method", ["spectral", "fused"])
def test_change_of_a_landsat_pair_ranks_above_the_classical_floors(
    real_data: Path, tmp_path: Path, backbone: Backbone, method: str
) -> None:
    folder = real_data / "change" / "taizhou_landsat"
    dates = folder / "before_2000.tif", folder / "after_2003.tif"
    geodino.change(*dates, tmp_path / "c.tif", score=tmp_path / "s.tif", method=method, backbone=backbone)
    labels = read(folder / "labels.tif")
    known = labels != 255
    truth = labels[known] == 1
    # Change-vector analysis reaches 0.990 and, cut by Otsu, 0.914.
    assert roc_auc_score(truth, read(tmp_path / "s.tif")[known]) > 0.992
    assert f1_score(truth, read(tmp_path / "c.tif")[known] == 1) > 0.92


def test_grids_that_differ_by_metres_and_a_row_are_brought_together(real_data: Path, tmp_path: Path) -> None:
    scenes = sorted((real_data / "scenes" / "naip_2009_2020").glob("*.tif"))
    first, last = scenes[0], scenes[-1]
    result = geodino.change(first, last, tmp_path / "c.tif", method="spectral", vector=tmp_path / "c.gpkg")
    with rasterio.open(tmp_path / "c.tif") as file, rasterio.open(first) as source:
        assert file.crs == source.crs
        offset = (~source.transform) @ (file.transform.c, file.transform.f)
        assert np.allclose(offset, np.round(offset))  # the first date's own pixels
    assert 0 < result.share < 0.6


def test_land_cover_from_polygons_of_another_reference_system(
    real_data: Path, tmp_path: Path, backbone: Backbone
) -> None:
    folder = real_data / "scenes" / "sentinel2_l1c_rcr"
    result = geodino.segment(
        folder, tmp_path / "m.tif", labels=folder / "rcr_landcover.shp", backbone=backbone, validate=True
    )
    assert result.validation is not None
    assert result.validation.ours.overall_accuracy > 0.85
    assert result.validation.ours.overall_accuracy > result.validation.forest.overall_accuracy - 0.03


def test_years_of_lasting_change_in_a_river_plain(real_data: Path, tmp_path: Path) -> None:
    scenes = sorted((real_data / "scenes" / "landsat_pucallpa_1985_2020").glob("*.tif"))[::2]
    result = change_series(scenes, tmp_path / "year.tif", method="spectral")
    assert result.values == (1995, 2005, 2015)
    assert 0.05 < sum(result.shares) < 0.9
