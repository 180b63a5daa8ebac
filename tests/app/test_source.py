"""What a layer is made of and what it means."""

from pathlib import Path

import numpy as np
import pytest
from app_testing import landscape, write_raster

from app.map.source import Meaning, open_source, threshold_of
from app.map.style import Paint, default_style
from tiles.errors import InputError


def test_a_change_score_is_known_by_its_tag_and_its_threshold_by_the_map_beside_it(tmp_path: Path) -> None:
    score = np.random.default_rng(0).normal(0, 1, (64, 64)).astype(np.float32)
    path = write_raster(tmp_path / "score.tif", score, tags={"GEODINO_CHANGE_IDENTITY": "x"}, nodata=float("nan"))
    source = open_source(path)
    assert source.meaning is Meaning.score
    change = write_raster(tmp_path / "change.tif", np.ones((64, 64), np.uint8), tags={"GEODINO_THRESHOLD": "2.5"})
    assert threshold_of([str(path), str(change)]) == 2.5
    assert default_style(source).paint is Paint.score


def test_features_of_a_backbone_are_no_imagery_for_a_backbone(tmp_path: Path) -> None:
    tagged = write_raster(tmp_path / "pca.tif", landscape(size=64), tags={"GEODINO_BACKBONE": "x"})
    assert open_source(tagged).meaning is Meaning.values
    assert open_source(write_raster(tmp_path / "a.tif", landscape(size=64))).meaning is Meaning.imagery


def test_what_has_no_place_is_refused_in_one_sentence(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "bare.tif", landscape(size=64), crs=None)
    with pytest.raises(InputError, match="coordinate reference system"):
        open_source(path)
