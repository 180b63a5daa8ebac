"""Change: two dates or a series, a score, a threshold moved on the map, polygons in a table, and files."""

from itertools import pairwise
from pathlib import Path

import geopandas
import numpy as np
import streamlit as st
from shapely import Point

from app.map.component import MapResult, VectorLayer
from app.map.layers import Layer
from app.map.picture import draw_map
from app.map.source import Meaning
from app.map.style import CHANGE_COLOR
from app.pages.features_box import prepared
from app.pages.workbench import begin, choose_layer, command_line, explained, no_scene, offer, workbench
from app.store.exports import write_vectors
from app.store.session import Session
from app.store.workspace import Workspace
from app.work.changes import Changes, change_vectors, likeness, polygons, write_change_map
from geodino.jobs.command import Command
from tiles.errors import InputError

MORE, LESS = "more_like", "not_like"  # settings of the session
LEAST_PIXELS = 9  # three by three: smaller places are mostly noise


def show() -> None:
    """Draw the page."""
    mine, workspace, events = begin()
    swipe: list[tuple[str, str]] = []

    def panel() -> tuple[VectorLayer, ...]:
        dates = _dates(mine)
        if len(dates) >= 2:
            swipe.append((dates[0].key, dates[-1].key))
            _find(mine, workspace, dates)
        scores = [layer for layer in mine.layers.layers if layer.source.meaning is Meaning.score]
        layer = choose_layer("Change score", scores, "change-score") if scores else None
        return _explore(mine, workspace, layer, events) if layer else ()

    workbench(panel, swipe=lambda: swipe[0] if swipe and st.session_state.get("change-swipe") else None)


def _dates(mine: Session) -> list[Layer]:
    imagery = mine.layers.imagery()
    if len(imagery) < 2:
        no_scene("compare two dates of one place") if not imagery else st.info(
            "One more scene of the same place is needed: add it on the **Scenes** page.", icon=":material/layers:"
        )
        return []
    names = {layer.key: layer.name for layer in imagery}
    first = list(reversed(list(names)))[:2]
    chosen = st.multiselect(
        "Dates, in order", list(names), default=first, format_func=lambda key: names[key], key="change-dates",
        help="Two dates, or a series: each is compared with the next.",
    )  # fmt: skip
    st.toggle("Swipe between the first and the last", key="change-swipe")
    return [layer for key in chosen for layer in imagery if layer.key == key]


def _find(mine: Session, workspace: Workspace, dates: list[Layer]) -> None:
    pairs = list(pairwise(dates))
    many = f" ({len(pairs)} comparisons)" if len(pairs) > 1 else ""
    if st.button(f"Find changes{many}", type="primary", width="stretch", icon=":material/difference:"):
        for before, after in pairs:
            folder = workspace.new_result(f"{before.source.name}-{after.source.name}", "change")
            command, outputs = comparison_command(workspace, before, after, folder)
            mine.submit(workspace, f"{before.name} → {after.name}", command, outputs)
        st.rerun()
    command_line(comparison_command(workspace, *pairs[0], Path())[0])


def comparison_command(workspace: Workspace, before: Layer, after: Layer, folder: Path) -> tuple[Command, list[Path]]:
    """The command that compares two dates, and what it writes."""
    score, output, vector = outputs = [folder / "score.tif", folder / "change.tif", folder / "change.gpkg"]
    dates = before.source.address, after.source.address
    return workspace.command("change", *dates, output=output, score=score, threshold="auto", vector=vector), outputs


def _explore(mine: Session, workspace: Workspace, layer: Layer, events: MapResult) -> tuple[VectorLayer, ...]:
    """Polygons at the threshold that the map has, their table, what is like them, and the files."""
    threshold = layer.style.threshold or 0.0
    low, high = layer.style.stretch[0]
    st.caption(f"Threshold **{threshold:.4g}** of {low:.3g} to {high:.3g}: move it in the layer list on the map.")
    kept = int(mine.settings.get("least_pixels", LEAST_PIXELS))
    least = int(st.number_input("Smallest place, pixels", 1, 10_000, kept))
    mine.settings["least_pixels"] = least
    try:
        with st.spinner("Drawing polygons"):
            found = _polygons(layer.source.address, layer.source.fingerprint, threshold, least)
    except InputError as error:
        st.warning(str(error))
        return ()
    frame = _ranked(mine, workspace, layer, found)
    chosen = _table(mine, frame, found, events)
    _files(mine, workspace, layer, threshold, frame)
    revision = f"{layer.source.fingerprint}-{threshold}-{least}"
    return (VectorLayer("changes", "Changes", frame, CHANGE_COLOR, revision, chosen),)


@st.cache_data(max_entries=32, show_spinner=False)
def _polygons(path: str, fingerprint: str, threshold: float, least: int) -> Changes:
    return polygons(Path(path), threshold, least_pixels=least)


def _table(mine: Session, frame: geopandas.GeoDataFrame, found: Changes, events: MapResult) -> str | None:
    """The table, linked to the map both ways; returns the chosen polygon."""
    total = frame["area_m2"].sum() / 1e4
    more = f", and {found.left_out} smaller" if found.left_out else ""
    st.markdown(f"**{len(frame)} {'place' if len(frame) == 1 else 'places'}**, {total:,.1f} ha{more}")
    if len(frame) == 0:
        return None
    shown = frame.drop(columns="geometry").assign(area_ha=frame["area_m2"] / 1e4).drop(columns="area_m2")
    columns = {
        "id": st.column_config.TextColumn("Place", width="small"),
        "area_ha": st.column_config.NumberColumn("Area, ha", format="%.2f"),
        "score": st.column_config.NumberColumn("Score", format="%.3f"),
        "likeness": st.column_config.NumberColumn("Likeness", format="%.2f"),
    }
    event = st.dataframe(
        shown, hide_index=True, height=240, width="stretch", column_config=columns, on_select="rerun",
        selection_mode="single-row", key="change-table",
    )  # fmt: skip
    rows = event["selection"]["rows"]
    in_table = str(shown["id"].iloc[rows[0]]) if rows and rows[0] < len(shown) else None
    if events.picked and events.picked[0] == "changes":
        st.session_state["change-chosen"] = events.picked[1]
    elif in_table != st.session_state.get("change-in-table"):
        st.session_state["change-chosen"] = in_table
    st.session_state["change-in-table"] = in_table
    chosen: str | None = st.session_state.get("change-chosen")
    if chosen is None or chosen not in set(frame["id"]):
        st.caption("Choose a row, or click a place on the map.")
        return None
    one = frame[frame["id"] == chosen].iloc[0]
    st.markdown(f"Place **{chosen}**: {one['area_m2'] / 1e4:.2f} ha, score {one['score']:.3f}")
    with st.container(horizontal=True):
        more_like = st.button("More like this", icon=":material/thumb_up:")
        unlike = st.button("Not this", icon=":material/thumb_down:")
    if more_like or unlike:
        _remember(mine, MORE if more_like else LESS, frame, chosen)
    return chosen


def _remember(mine: Session, key: str, frame: geopandas.GeoDataFrame, chosen: str) -> None:
    """Keep an example by its place on the ground: its number changes with the threshold."""
    point = frame[frame["id"] == chosen].geometry.to_crs(4326).representative_point().iloc[0]
    mine.settings.setdefault(key, []).append([point.x, point.y])
    st.rerun()


def _ranked(mine: Session, workspace: Workspace, layer: Layer, found: Changes) -> geopandas.GeoDataFrame:
    """The places with their likeness to the examples, the most alike first; needs both dates' features."""
    more, less = mine.settings.get(MORE, []), mine.settings.get(LESS, [])
    frame = found.frame
    if not (more or less) or len(frame) == 0:
        return frame
    pair = _pair(mine)
    if pair is None:
        st.caption("Choose the two dates above to compare places with each other.")
        return frame
    cubes = [prepared(mine, workspace, date.source) for date in pair]
    if cubes[0] is None or cubes[1] is None:
        return frame
    key = f"{layer.source.fingerprint}-{len(frame)}-{frame['area_m2'].sum()}"
    if st.session_state.get("change-vectors", ("",))[0] != key:
        with st.spinner("Comparing places"):
            st.session_state["change-vectors"] = (key, change_vectors(cubes[0], cubes[1], frame))
    vectors: np.ndarray = st.session_state["change-vectors"][1]
    like = likeness(vectors, _rows(frame, more), _rows(frame, less))
    st.caption(f"Ranked by likeness to examples: {len(more)} wanted, {len(less)} not.")
    if st.button("Forget the examples", icon=":material/restart_alt:", width="stretch"):
        mine.settings[MORE], mine.settings[LESS] = [], []
        st.rerun()
    least = st.slider("Least likeness", -2.0, 1.0, -2.0, 0.05, key="change-likeness")
    ranked = frame.assign(likeness=like)[like >= least]
    return ranked.sort_values("likeness", ascending=False, kind="stable")


def _pair(mine: Session) -> list[Layer] | None:
    keys = st.session_state.get("change-dates", [])
    pair = [layer for key in keys for layer in mine.layers.imagery() if layer.key == key]
    return [pair[0], pair[-1]] if len(pair) >= 2 else None


def _rows(frame: geopandas.GeoDataFrame, places: list[list[float]]) -> list[int]:
    points = geopandas.GeoSeries([Point(*place) for place in places], crs=4326).to_crs(frame.crs)
    return [int(frame.geometry.distance(point).argmin()) for point in points]


def _files(mine: Session, workspace: Workspace, layer: Layer, threshold: float, frame: geopandas.GeoDataFrame) -> None:
    with st.expander("Take away", icon=":material/download:"):
        folder = Path(layer.source.address).parent
        folder = folder if workspace.folder in folder.parents else mine.folder(workspace)
        stem = folder / "changes-at-threshold"
        if st.button("Write the files at this threshold", width="stretch", disabled=len(frame) == 0):
            with explained():
                write_vectors(frame, stem, "changes")
                write_change_map(Path(layer.source.address), threshold, stem.with_suffix(".tif"))
                draw_map(mine.layers.layers, layer.source.bounds, stem.with_suffix(".png"), "Change")
        endings = (".tif", ".gpkg", ".geojson", ".parquet", ".png")
        offer(workspace, [stem.with_suffix(ending) for ending in endings])
        offer(workspace, [Path(layer.source.address)])
