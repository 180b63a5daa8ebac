"""Explore: what the backbone sees in a scene: principal components, places alike, attention."""

from pathlib import Path

import numpy as np
import streamlit as st
from odc.geo.geobox import GeoBox
from pyproj import Transformer

from app.map.component import MapResult
from app.map.layers import Layer
from app.map.preview import Preview
from app.map.style import Paint, Style
from app.pages.features_box import prepared
from app.pages.workbench import begin, choose_layer, command_line, explained, no_scene, workbench
from app.store.session import Session
from app.store.workspace import Workspace
from app.work.cube import Cube, cells_at
from app.work.live_maps import likeness, pca
from geodino.jobs.command import Command
from tiles.errors import InputError

MODES = ("Places like a click", "Attention of a click")


def show() -> None:
    """Draw the page."""
    mine, workspace, events = begin()

    def panel() -> None:
        layer = choose_layer("Scene", mine.layers.imagery(), "explore-scene")
        if layer is None:
            no_scene("look at it through the backbone")
            return
        mode = st.segmented_control("A click on the map shows", MODES, default=MODES[0], key="explore-mode") or MODES[0]
        if mode == MODES[1]:
            with explained():
                _attention(mine, workspace, layer, events)
        cube = prepared(mine, workspace, layer.source)
        if cube is None:
            return
        if st.button("Show principal components", width="stretch", icon=":material/palette:"):
            _show_pca(mine, workspace, layer, cube)
            st.rerun()
        if mode == MODES[0]:
            with explained():
                _alike(mine, workspace, layer, cube, events)

    workbench(panel, pick=bool(mine.layers.imagery()))


def _show_pca(mine: Session, workspace: Workspace, layer: Layer, cube: Cube) -> None:
    preview = Preview(pca(cube), cube.geobox, 0, ("red", "green", "blue"))
    style = Style(Paint.rgb, (0, 1, 2), ((1.0, 255.0),) * 3)
    mine.show_preview(workspace, layer, "pca", f"PCA of {layer.name}", preview, style)


def place_in(geobox: GeoBox, place: tuple[float, float]) -> tuple[int, int]:
    """Row and column of a grid at a longitude and latitude.

    Raises:
        InputError: Where it lies outside the grid.
    """
    ((row, column),) = cells_at(geobox, np.array([place[0]]), np.array([place[1]]), 4326)
    if not (0 <= row < geobox.shape[0] and 0 <= column < geobox.shape[1]):
        raise InputError("That place lies outside the scene; click inside it.")
    return int(row), int(column)


def _alike(mine: Session, workspace: Workspace, layer: Layer, cube: Cube, events: MapResult) -> None:
    key = f"alike-{layer.key}"
    chosen: dict[str, list[tuple[float, float]]] = st.session_state.setdefault(key, {"more": [], "less": []})
    sides = {"more": "wanted", "less": "not wanted"}
    picked = st.segmented_control("The click is", sides, default="more", key="explore-side", format_func=sides.get)
    if events.clicked:
        place_in(cube.geobox, events.clicked)
        chosen[picked or "more"].append(events.clicked)
    if not chosen["more"]:
        st.info(
            "Click a place on the map: everything that looks like it to the backbone lights up.",
            icon=":material/touch_app:",
        )
        return
    told = str(chosen)
    if st.session_state.get(f"{key}-shown") != told:
        more, less = ([place_in(cube.geobox, place) for place in chosen[name]] for name in ("more", "less"))
        score = likeness(cube, more, less)
        low, high = (float(value) for value in np.nanpercentile(score, (1, 99.9)))
        style = Style(Paint.ramp, (0,), ((low, max(high, low + 1e-6)),), "magma")
        preview = Preview(score[None], cube.geobox, float("nan"), ("likeness",))
        name = f"Like the clicks in {layer.name}"
        mine.show_preview(workspace, layer, "alike", name, preview, style, opacity=0.8)
        st.session_state[f"{key}-shown"] = told
    count = len(chosen["more"]) + len(chosen["less"])
    st.caption(f"{count} click(s): {len(chosen['more'])} wanted, {len(chosen['less'])} not.")
    if st.button("Forget the clicks", width="stretch", icon=":material/restart_alt:"):
        st.session_state[key] = {"more": [], "less": []}
        mine.layers.remove(key)
        st.rerun()
    at = Transformer.from_crs(4326, str(layer.source.geobox.crs), always_xy=True).transform(*chosen["more"][-1])

    def search(output: Path) -> Command:
        return workspace.command("similar", layer.source.address, at=f"{at[0]:.10g},{at[1]:.10g}", output=output)

    if st.button("Map the last click at full size", width="stretch", icon=":material/map:"):
        output = workspace.new_result(layer.source.name, "similar") / "similarity.tif"
        mine.submit(workspace, f"Similar places in {layer.name}", search(output), [output])
        st.rerun()
    command_line(search(Path("similarity.tif")))


def _attention(mine: Session, workspace: Workspace, layer: Layer, events: MapResult) -> None:
    with st.spinner("Loading the backbone"):
        from app.work.attention import attention
        from app.work.backbone import backbone
        from geodino.backbones.attention import blocks_of

        model = backbone(workspace.backbone)
    blocks = blocks_of(model)
    block = int(st.slider("Block", 1, len(blocks), len(blocks), key="attention-block"))
    heads = int(blocks[0].attn.num_heads)
    head = st.selectbox("Head", ["mean of all", *range(1, heads + 1)], key="attention-head")
    if events.clicked:
        st.session_state["attention-place"] = (layer.key, events.clicked)
    kept = st.session_state.get("attention-place")
    if kept is None or kept[0] != layer.key:
        st.info("Click a place on the map to see what its patch attends to.", icon=":material/touch_app:")
        return
    told = f"{kept}-{block}-{head}"
    if st.session_state.get("attention-shown") == told:
        return
    row, column = place_in(layer.source.geobox, kept[1])
    found = attention(model, layer.source.address, row, column, block - 1)
    shown = found.maps.mean(axis=0) if head == "mean of all" else found.maps[int(head) - 1]
    preview = Preview(shown[None].astype(np.float32), found.geobox, float("nan"), ("attention",))
    style = Style(Paint.ramp, (0,), ((0.0, float(np.percentile(shown, 99.5)) or 1e-6),), "viridis")
    name = f"Attention, block {block}, {'all heads' if head == 'mean of all' else f'head {head}'}"
    mine.show_preview(workspace, layer, "attention", name, preview, style)
    st.session_state["attention-shown"] = told
