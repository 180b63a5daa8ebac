"""The list of layers, and the ids that the browser knows them by."""

import json
from dataclasses import replace
from pathlib import Path

from app_testing import landscape, write_raster

from app.map.layers import LayerList, for_browser
from app.map.registry import Registry, stored_secret
from app.map.source import open_source
from app.map.style import Paint, Style, default_style
from app.store.workspace import Workspace


def test_an_id_is_the_pictures_own_and_cannot_be_made_without_the_key(tmp_path: Path) -> None:
    source = open_source(write_raster(tmp_path / "a.tif", landscape(size=64)))
    style = default_style(source)
    registry, other = Registry(b"one key"), Registry(b"another key")
    assert registry.add(source, style) == registry.add(source, style)
    assert registry.add(source, style) != other.add(source, style)
    assert registry.add(source, style) != registry.add(source, Style(Paint.ramp, (0,), ((0.0, 1.0),)))
    cut = Style(Paint.score, (0,), ((0.0, 1.0),), threshold=0.2)
    assert registry.add(source, cut) == registry.add(source, replace(cut, threshold=0.7))  # no tile is asked for again
    secret = stored_secret(tmp_path / "k" / "key")
    assert stored_secret(tmp_path / "k" / "key") == secret
    assert (tmp_path / "k" / "key").stat().st_mode & 0o077 == 0


def test_an_arrangement_made_on_the_map_is_taken_and_new_layers_keep_their_place(
    workspace: Workspace, tmp_path: Path
) -> None:
    layers = LayerList()
    source = open_source(write_raster(tmp_path / "a.tif", landscape(size=64)))
    for key in ("a", "b"):
        layers.add(source, default_style(source), key=key)
    layers.arrange([{"id": "a", "visible": False, "opacity": 0.5}, {"id": "b", "visible": True, "opacity": 7}])
    layers.add(source, default_style(source), key="new")
    assert [(one.key, one.visible, one.opacity) for one in layers.layers] == [
        ("new", True, 1.0),
        ("a", False, 0.5),
        ("b", True, 1.0),
    ]
    told = for_browser(layers.layers[0], workspace.registry)
    assert str(tmp_path) not in json.dumps(told)
