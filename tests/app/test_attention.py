"""Attention of a head around a place."""

from pathlib import Path

import pytest
from app_testing import landscape, write_raster

from app.map.source import open_source
from app.work.attention import attention
from app.work.backbone import backbone


@pytest.mark.parametrize(("size", "tokens"), [(40, 2), (640, 28)])
def test_attention_of_a_head_covers_the_scene_and_no_more(
    tmp_path: Path, tiny_backbone: Path, size: int, tokens: int
) -> None:
    """Each head's map sums to at most one; its grid lies inside the scene and holds the place that was asked for."""
    scene = write_raster(tmp_path / "s.tif", landscape(size=size), names=("red", "green", "blue"))
    found = attention(backbone(str(tiny_backbone)), str(scene), size - 20, 3, 1)
    assert found.maps.shape == (6, tokens, tokens)
    assert (found.maps >= 0).all() and (found.maps.sum(axis=(1, 2)) <= 1 + 1e-5).all()
    box, whole = found.geobox.extent.boundingbox, open_source(scene).geobox.extent.boundingbox
    assert whole.left <= box.left and box.right <= whole.right
    assert whole.bottom <= box.bottom and box.top <= whole.top
    assert box.bottom <= 5_000_000 - 10 * (size - 20) <= box.top
