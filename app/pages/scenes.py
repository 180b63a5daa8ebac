"""Scenes: bring rasters onto the map, see what they are, and choose how they are painted."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pandas
import streamlit as st

from app.map.component import VectorLayer
from app.map.layers import Layer
from app.map.source import Meaning, Source, has_overviews
from app.map.style import RAMPS, Paint, channel_statistics, combinations
from app.pages.project_box import project_box
from app.pages.workbench import begin, choose_layer, explained, plain, workbench
from app.store.access import RASTERS, SCENES
from app.store.session import Session
from app.store.stac_search import search, write_item
from app.store.uploads import SIGNATURES, store
from app.store.workspace import Workspace
from tiles.errors import InputError

LISTED = 200
LOOKED_EVERY_S = 10
BAND_COLORS = {"red": "#dc2626", "green": "#16a34a", "blue": "#2563eb"}
OTHER_COLORS = ("#9333ea", "#d97706", "#0891b2")


def show() -> None:
    """Draw the page."""
    mine, workspace, _ = begin()

    def panel() -> tuple[VectorLayer, ...]:
        if st.session_state.pop("scene-added", False):
            st.session_state["scene-add"] = False
        # What stands in a closed box is neither run nor sent: the first tile comes sooner.
        box = st.expander(
            "Add a scene", icon=":material/add:", expanded=not mine.layers.layers, key="scene-add", on_change="rerun"
        )
        if box.open:
            with box:
                by_path, upload, stac = st.tabs(["Path", "Upload", "STAC"])
                with by_path:
                    _by_path(mine, workspace)
                with upload:
                    _upload(mine, workspace)
                with stac:
                    _stac(mine, workspace)
        project_box(mine, workspace)
        layer = choose_layer("Layer", mine.layers.layers, "scenes-layer")
        if layer is not None:
            _paint(mine, workspace, layer)
            about = st.toggle("About this layer", key="scenes-about")
            if about:
                _about(workspace, layer)
            if st.button("Remove from the map", icon=":material/delete:", width="stretch"):
                mine.layers.remove(layer.key)
                st.rerun()
            return (_footprint(layer),) if about else ()
        return ()

    workbench(panel)


def _footprint(layer: Layer) -> VectorLayer:
    """The outline of a layer's grid, bent as its own coordinate system is on the map."""
    outline = layer.source.geobox.extent
    outline = outline.segmented(max(outline.boundingbox.span_x, outline.boundingbox.span_y) / 32)
    frame = geopandas.GeoDataFrame({"id": ["footprint"]}, geometry=[outline.geom], crs=str(outline.crs))
    return VectorLayer("footprint", "Footprint", frame, "#0f766e", layer.source.fingerprint)


def _add(mine: Session, workspace: Workspace, path: Path) -> None:
    added = mine.show_scene(workspace, path)
    st.session_state["scene-added"] = True
    st.session_state["scenes-layer"] = added.key  # the box below is about what has just come


def _by_path(mine: Session, workspace: Workspace) -> None:
    typed = st.text_input(
        "Path",
        key="scene-path",
        placeholder="scene.tif, or a folder of single bands",
        help=f"A raster, a VRT or a folder of single-band files inside: {workspace.access.listed()}",
    )
    found = _nearby(workspace.access.roots)
    chosen = st.selectbox(
        "or one of these", found, index=None, placeholder=f"{len(found)} rasters in the allowed folders"
    )
    if st.button("Add to the map", type="primary", width="stretch", disabled=not (typed or chosen)):
        with explained():
            _add(mine, workspace, workspace.access.resolve(typed or str(chosen), SCENES))
            st.rerun()


@st.cache_data(ttl=LOOKED_EVERY_S, show_spinner=False)
def _nearby(roots: tuple[Path, ...]) -> list[str]:
    """Rasters in the allowed folders, three levels deep, the first few hundred."""
    found: list[str] = []
    inside = ((root, path) for root in roots for depth in ("*", "*/*", "*/*/*") for path in sorted(root.glob(depth)))
    for root, path in inside:
        hidden = any(part.startswith(".") for part in path.relative_to(root).parts)
        if not hidden and path.suffix.lower() in RASTERS and path.is_file():
            found.append(str(path))
            if len(found) == LISTED:
                break
    return found


def _upload(mine: Session, workspace: Workspace) -> None:
    file = st.file_uploader("A raster from this computer", type=list(SIGNATURES), key="scene-upload")
    if file is not None and st.button("Add the upload to the map", type="primary", width="stretch"):
        with explained():
            path = store(file.name, file, workspace.uploads)
            try:
                _add(mine, workspace, path)
            except InputError:
                path.unlink()
                raise
            st.rerun()


def _stac(mine: Session, workspace: Workspace) -> None:
    st.caption("Searches a STAC catalogue over the internet; everything else here works without.")
    address = st.text_input("Catalogue", "https://earth-search.aws.element84.com/v1")
    collection = st.text_input("Collection", "sentinel-2-l2a")
    dates = st.text_input("Dates", "2024-06-01/2024-09-30")
    box = mine.layers.layers[0].source.bounds if mine.layers.layers else (8.0, 46.9, 8.2, 47.1)
    columns = (*st.columns(2), *st.columns(2))
    west, south, east, north = (
        column.number_input(title, value=round(edge, 3), format="%.3f")
        for column, title, edge in zip(columns, ("West", "South", "East", "North"), box, strict=True)
    )
    if st.button("Search", icon=":material/search:", width="stretch"):
        with explained(), st.spinner("Asking the catalogue"):
            st.session_state.stac_items = search(address, collection, (west, south, east, north), dates)
    items = st.session_state.get("stac_items", [])
    if items:
        chosen = st.selectbox("Items, least cloud first", items, format_func=lambda item: item.id)
        if st.button("Add the item to the map", type="primary", width="stretch"):
            with explained():
                _add(mine, workspace, write_item(chosen, workspace.folder / "cache" / "stac"))
                st.rerun()


def _paint(mine: Session, workspace: Workspace, layer: Layer) -> None:
    """Controls of a layer's style."""
    source, style = layer.source, layer.style
    if style.paint in {Paint.classes, Paint.argmax, Paint.score}:
        return
    names = source.channel_names
    bands = tuple(names[channel] for channel in style.channels)
    if source.meaning is Meaning.imagery and len(names) >= 2:
        known = combinations(names)
        title = st.selectbox("Bands shown", [*known, "Own choice", "One band"], key=f"bands-{layer.key}")
        if title in known:
            bands = known[title]
        elif title == "Own choice":
            bands = tuple(
                column.selectbox(color, names, index=min(at, len(names) - 1), key=f"{color}-{layer.key}")
                for at, (column, color) in enumerate(zip(st.columns(3), ("Red", "Green", "Blue"), strict=True))
            )
        else:
            bands = (st.selectbox("Band", names, key=f"band-{layer.key}"),)
    channels = tuple(names.index(band) for band in bands)
    ramp = style.ramp
    if len(channels) == 1:
        ramp = st.selectbox("Colours", RAMPS, index=RAMPS.index(ramp), key=f"ramp-{layer.key}")
    stretch = _stretch(source, workspace, channels, layer.key)
    paint = Paint.ramp if len(channels) == 1 else Paint.rgb
    mine.layers.restyle(layer.key, replace(style, paint=paint, channels=channels, stretch=stretch, ramp=ramp))


def _stretch(
    source: Source, workspace: Workspace, channels: tuple[int, ...], key: str
) -> tuple[tuple[float, float], ...]:
    """One slider over all shown channels, in percent of their own range between the 2nd and the 98th percentile."""
    low, high = st.slider("Brightness range, % of the usual", -50, 200, (0, 100), 5, key=f"stretch-{key}-{channels}")
    bounds = []
    for channel in channels:
        found = channel_statistics(source, channel, workspace.statistics)
        span = (found.high - found.low) / 100
        bounds.append((found.low + low * span, found.low + max(high, low + 1) * span))
    return tuple(bounds)


def _about(workspace: Workspace, layer: Layer) -> None:
    source = layer.source
    with st.container(border=True):
        height, width = source.geobox.shape
        west, south, east, north = source.bounds
        facts = {
            "File": source.address,
            "Size": f"{width:,} × {height:,} pixels, {len(source.channel_names)} band(s), {source.dtype}",
            "Pixel": f"{source.gsd_m:.4g} m",
            "Grid": str(source.geobox.crs),
            "Footprint": f"{west:.4f}, {south:.4f} to {east:.4f}, {north:.4f}",
            "Bands": ", ".join(source.channel_names),
        }
        for name, text in facts.items():
            st.markdown(f"**{name}**  \n{plain(text)}")
        for note in source.notes:
            st.caption(plain(note))
        if not has_overviews(source):
            st.warning("No overviews: views from afar read every pixel. Make some with: gdaladdo FILE 2 4 8 16 32")
        if source.meaning is not Meaning.classes:
            st.altair_chart(_histogram(workspace, layer), width="stretch")


def _histogram(workspace: Workspace, layer: Layer) -> Any:
    import altair  # slow to import, and this box is closed at first

    rows = []
    for channel in layer.style.channels[:3]:
        found = channel_statistics(layer.source, channel, workspace.statistics)
        edges = np.linspace(found.minimum, found.maximum, len(found.histogram) + 1)
        name = layer.source.channel_names[channel]
        rows += [(name, float(edge), count) for edge, count in zip(edges[:-1], found.histogram, strict=True)]
    frame = pandas.DataFrame(rows, columns=["band", "value", "pixels"])
    names = list(dict.fromkeys(frame["band"]))
    colors = [BAND_COLORS.get(name, other) for name, other in zip(names, OTHER_COLORS, strict=False)]
    scale, legend = altair.Scale(domain=names, range=colors), altair.Legend(orient="top")
    chart = altair.Chart(frame, height=170).mark_line(interpolate="step-after")
    return chart.encode(
        x=altair.X("value", title=None, axis=altair.Axis(tickCount=5)),
        y=altair.Y("pixels", title=None, axis=altair.Axis(tickCount=4, format="~s")),
        color=altair.Color("band", title=None, scale=scale, legend=legend),
    )
