"""A picture of the map."""

from pathlib import Path

import numpy as np
from app_testing import landscape, write_raster
from PIL import Image

from app.map.layers import LayerList
from app.map.picture import draw_map
from app.map.preview import Preview
from app.map.source import ClassColor, open_source
from app.map.style import Paint, Style, default_style


def test_a_picture_of_the_map_has_its_legend_and_its_colours(tmp_path: Path) -> None:
    layers = LayerList()
    scene = open_source(write_raster(tmp_path / "scene.tif", landscape(size=128), pixel=20.0))
    layers.add(scene, default_style(scene))
    path = Preview(np.ones((1, 128, 128), np.uint8), scene.geobox, 0, ("class",)).write(tmp_path / "ids.tif")
    classes = (ClassColor(1, "a very long name of a class that does not fit the legend's width at all", (255, 0, 255)),)
    layers.add(open_source(path), Style(Paint.classes, (0,), classes=classes), name="Land")
    drawn = draw_map(layers.layers, layers.layers[0].source.bounds, tmp_path / "map.png", "Title")
    pixels = np.asarray(Image.open(drawn).convert("RGB")).reshape(-1, 3)
    assert (pixels == (255, 0, 255)).all(axis=1).mean() > 0.3
    assert not list(tmp_path.glob(".*part*"))
