"""Segment: draw examples by class, get a map within seconds, correct it, make it at full size, take it away."""

import shlex
import time
from dataclasses import dataclass
from pathlib import Path

import geopandas
import pandas
import streamlit as st

from app.map.component import EMPTY, examples
from app.map.layers import Layer
from app.map.picture import draw_map
from app.map.source import ClassColor, open_source
from app.map.style import TOKEN_LEVELS, Paint, Style
from app.pages.workbench import begin, choose_layer, command_line, explained, no_scene, offer, plain, workbench
from app.pages.features_box import prepared
from app.pages.project_box import next_value
from app.store.exports import convert_vectors
from app.store.projects import MODEL, trained_models
from app.store.session import Session
from app.store.workspace import Workspace
from app.work import commands
from app.work.live_maps import NOTHING, Cube, LiveMap, classify, write_preview
from app.work.jobs import State
from geodino.heads.labels import read_labels
from geodino.heads.legend import palette

LIVE = "Live map"
LIVE_CONFIDENCE = "Live confidence, %"


def show() -> None:
    """Draw the page."""
    mine, workspace, _ = begin()

    def panel() -> None:
        if not mine.layers.imagery():
            no_scene("draw a few examples of each class")
            return
        layer = choose_layer("Scene", mine.layers.imagery(), "segment-scene")
        if layer is None:
            return
        _classes(mine)
        cube = prepared(mine, workspace, layer.source)
        if cube is not None:
            _live(mine, workspace, layer, cube)
        _full_map(mine, workspace, layer)
        _other_ways(mine, workspace, layer)
        _results(mine, workspace)

    workbench(panel, draw=bool(mine.layers.imagery()))


def _classes(mine: Session) -> None:
    """The list of classes: names, colours, how many examples each has."""
    counts: dict[int, int] = {}
    for feature in mine.drawn["features"]:
        value = int(feature["properties"].get("class", 0))
        counts[value] = counts.get(value, 0) + 1
    with st.expander(f"Classes and examples ({sum(counts.values())})", icon=":material/edit:", expanded=True):
        kept: list[ClassColor] = []
        for one in mine.classes:
            # One row also on a phone, where Streamlit's columns would stand below each other.
            with st.container(horizontal=True, vertical_alignment="center", gap="small"):
                picked = st.color_picker(
                    "Colour", one.hex, key=f"class-color-{one.value}", label_visibility="collapsed", width=44
                )
                text = st.text_input(
                    "Name",
                    one.name,
                    key=f"class-name-{one.value}",
                    label_visibility="collapsed",
                    max_chars=60,
                    width=150,
                )
                st.caption(str(counts.get(one.value, 0)), width=24)
                gone = st.button(
                    "", key=f"class-gone-{one.value}", icon=":material/close:", help="Take this class away",
                    type="tertiary", width=24,
                )  # fmt: skip
            if not (gone and len(mine.classes) > 1):
                rgb = (int(picked[1:3], 16), int(picked[3:5], 16), int(picked[5:7], 16))
                kept.append(ClassColor(one.value, text.strip() or one.name, rgb))
        changed = len(kept) != len(mine.classes)
        mine.classes = kept
        if changed:
            values = {one.value for one in kept}
            left = [feature for feature in mine.drawn["features"] if feature["properties"].get("class") in values]
            mine.replace_examples({"type": "FeatureCollection", "features": left})
            st.rerun()
        with st.container(horizontal=True):
            add = st.button("Class", icon=":material/add:", help="Add a class")
            clear = st.button("Clear", icon=":material/ink_eraser:", help="Take all examples away", disabled=not counts)
        if add:
            value = next_value(mine.classes)
            mine.classes.append(ClassColor(value, f"class {value}", palette(value - 1)))
            st.rerun()
        if clear:
            mine.replace_examples(dict(EMPTY))
            st.rerun()
        st.caption("Choose a class on the map, then draw a point, line, box or polygon. U takes the last step back.")


def _named_twice(classes: list[ClassColor]) -> bool:
    return len({one.name for one in classes}) < len(classes)


def _examples_file(mine: Session, workspace: Workspace) -> tuple[Path, geopandas.GeoDataFrame]:
    """The examples as a GeoPackage, as the command line takes them."""
    frame = examples(mine.drawn, tuple(mine.classes))
    path = mine.folder(workspace) / "examples.gpkg"
    path.unlink(missing_ok=True)
    if len(frame):
        frame.to_file(path, layer="examples", driver="GPKG")
    return path, frame


@dataclass(frozen=True)
class _Shown:
    """What the live map was made of, so that it is not made twice."""

    key: str
    seconds: float
    map: LiveMap
    names: tuple[str, ...]


def _live(mine: Session, workspace: Workspace, layer: Layer, cube: Cube) -> None:
    """Fit and map again whenever the examples change."""
    frame = examples(mine.drawn, tuple(mine.classes))
    if _named_twice(mine.classes):
        st.warning("Two classes have the same name; give each its own.")
        return
    if frame["class"].nunique() < 2:
        st.info("Draw examples of two classes or more; the map follows at once.", icon=":material/draw:")
        return
    told = f"{layer.source.fingerprint}|{mine.drawn}|{[(one.name, one.color) for one in mine.classes]}"
    shown: _Shown | None = st.session_state.get("segment-live")
    if shown is None or shown.key != told:
        with explained():
            started = time.perf_counter()
            made, classes = _classify(mine, workspace, cube)
            _show_live(mine, workspace, layer, cube, made, classes)
            shown = _Shown(told, time.perf_counter() - started, made, tuple(one.name for one in classes))
            st.session_state["segment-live"] = shown
    if shown is not None and shown.key == told:
        _scores(shown)


def _classify(mine: Session, workspace: Workspace, cube: Cube) -> tuple[LiveMap, list[ClassColor]]:
    path, _ = _examples_file(mine, workspace)
    labels = read_labels(path, cube.geobox, field="class")
    by_name = {one.name: one for one in mine.classes}
    made = classify(cube, labels)
    return made, [by_name[name] for name in made.names]


def _show_live(
    mine: Session, workspace: Workspace, layer: Layer, cube: Cube, made: LiveMap, classes: list[ClassColor]
) -> None:
    stamp = f"{time.time_ns():x}"
    folder = mine.folder(workspace)
    for old in folder.glob("live-*.tif"):
        if time.time() - old.stat().st_mtime > 60:  # tiles of the one before may still be on their way
            old.unlink()
    names = tuple(one.name for one in classes)
    scores = write_preview(folder / f"live-{stamp}.tif", made.probabilities, cube.geobox, NOTHING, names)
    sure = write_preview(
        folder / f"live-confidence-{stamp}.tif", made.confidence[None], cube.geobox, NOTHING, ("confidence",)
    )
    numbered = tuple(ClassColor(number, one.name, one.color) for number, one in enumerate(classes, 1))
    style = Style(Paint.argmax, tuple(range(len(classes))), classes=numbered, finer=TOKEN_LEVELS)
    confidence = Style(Paint.ramp, (0,), ((100 / len(classes), 100.0),), "magma", finer=TOKEN_LEVELS)
    existing = mine.layers.get(f"live-confidence-{layer.key}")
    added = mine.layers.add(
        workspace, open_source(sure), style=confidence, key=f"live-confidence-{layer.key}", name=LIVE_CONFIDENCE
    )
    if existing is None:
        mine.layers.hide(added.key)
    mine.layers.add(workspace, open_source(scores), style=style, key=f"live-{layer.key}", name=LIVE, opacity=0.7)


def _scores(shown: _Shown) -> None:
    agreement = shown.map.agreement
    st.caption(f"Live map made in {shown.seconds:.1f} s, at the size of the backbone's patches.")
    if agreement is None:
        st.caption("Scores need examples of each class in at least two places apart from each other.")
        return
    help = "Measured by cross-validation on examples that lie apart from those learned from."
    with st.container(horizontal=True):
        st.metric("Accuracy", f"{agreement.overall_accuracy:.0%}", help=help, width=140)
        st.metric("Mean IoU", f"{agreement.mean_iou:.2f}", help=help, width=140)
    frame = pandas.DataFrame({"class": shown.names, "F1": agreement.f1, "IoU": agreement.iou})
    st.dataframe(
        frame,
        hide_index=True,
        width="stretch",
        column_config={
            "F1": st.column_config.NumberColumn(format="%.2f"),
            "IoU": st.column_config.NumberColumn(format="%.2f"),
        },
    )


def _full_map(mine: Session, workspace: Workspace, layer: Layer) -> None:
    frame = examples(mine.drawn, tuple(mine.classes))
    ready = frame["class"].nunique() >= 2 and not _named_twice(mine.classes)
    if st.button(
        "Make the full map",
        type="primary",
        width="stretch",
        disabled=not ready,
        icon=":material/map:",
        help="At the scene's own pixel size, with polygons, confidence and the trained model.",
    ):
        with explained():
            folder = workspace.new_result(layer.source.name, "segmentation")
            labels = folder / "examples.gpkg"
            frame.to_file(labels, layer="examples", driver="GPKG")
            _start(
                mine,
                workspace,
                layer,
                folder,
                f"Land cover of {layer.name}",
                labels=labels,
                save_model=folder / MODEL,
            )
    if ready:
        placeholder = Path("examples.gpkg")
        command_line(
            shlex.join(
                [
                    "geodino",
                    *commands.segment(
                        workspace, layer.source.address, Path("land.tif"), labels=placeholder, vector=Path("land.gpkg")
                    ),
                ]
            )
        )


def _start(
    mine: Session,
    workspace: Workspace,
    layer: Layer,
    folder: Path,
    title: str,
    *,
    labels: Path | None = None,
    clusters: int | None = None,
    model: Path | None = None,
    save_model: Path | None = None,
) -> None:
    land, confidence, vector = folder / "land-cover.tif", folder / "confidence.tif", folder / "land-cover.gpkg"
    arguments = commands.segment(
        workspace,
        layer.source.address,
        land,
        labels=labels,
        clusters=clusters,
        model=model,
        save_model=save_model,
        vector=vector,
    )
    outputs = [land, vector, *([save_model] if save_model else [])]
    if labels or model:
        arguments += ["--confidence", str(confidence)]
    mine.submit(workspace, title, arguments, outputs)
    mine.results.insert(0, folder)
    st.rerun()


def _other_ways(mine: Session, workspace: Workspace, layer: Layer) -> None:
    """Without drawing: labels from a file, clusters, or a model trained elsewhere."""
    with st.expander("Without drawing", icon=":material/auto_awesome:"):
        clusters, model, labels = st.tabs(["Clusters", "Saved model", "Labels file"])
        with clusters:
            count = st.number_input("Number of classes", 2, 40, 8)
            if st.button("Map clusters", width="stretch"):
                with explained():
                    _start(
                        mine,
                        workspace,
                        layer,
                        workspace.new_result(layer.source.name, "clusters"),
                        f"{count} clusters of {layer.name}",
                        clusters=int(count),
                    )
        with model:
            found = trained_models(workspace.results, workspace.projects)
            if not found:
                st.caption("Each full map keeps its model; it appears here and can be applied to other scenes.")
            else:
                chosen = st.selectbox("Model", list(found), format_func=lambda path: found[path])
                if st.button("Apply to this scene", width="stretch"):
                    with explained():
                        _start(
                            mine,
                            workspace,
                            layer,
                            workspace.new_result(layer.source.name, "applied"),
                            f"{found[chosen]} on {layer.name}",
                            model=chosen,
                        )
        with labels:
            typed = st.text_input("Path of points, polygons or a raster of classes", key="labels-path")
            field = st.text_input(
                "Attribute that holds the class", key="labels-field", placeholder="found by itself where it can be"
            )
            if st.button("Map from these labels", width="stretch", disabled=not typed):
                with explained():
                    _from_file(mine, workspace, layer, typed, field)


def _from_file(mine: Session, workspace: Workspace, layer: Layer, typed: str, field: str) -> None:
    from app.store.access import RASTERS, VECTORS

    path = workspace.access.resolve(typed, RASTERS + VECTORS)
    folder = workspace.new_result(layer.source.name, "segmentation")
    land, vector, model = folder / "land-cover.tif", folder / "land-cover.gpkg", folder / MODEL
    arguments = commands.segment(
        workspace, layer.source.address, land, labels=path, field=field or None, save_model=model, vector=vector
    )
    mine.submit(workspace, f"Land cover of {layer.name}", arguments, [land, vector, model])
    mine.results.insert(0, folder)
    st.rerun()


def _results(mine: Session, workspace: Workspace) -> None:
    """Maps made in this session, to be taken away."""
    for folder in mine.results[:5]:
        land = folder / "land-cover.tif"
        if not land.exists() or _unfinished(mine, workspace, land):
            continue
        with st.expander(plain(folder.name), icon=":material/download:"):
            picture = folder / "map.png"
            if not picture.exists() and st.button(
                "Draw the map as a picture", key=f"picture-{folder.name}", width="stretch"
            ):
                with explained():
                    source = open_source(land)
                    draw_map(mine.layers.layers, source.bounds, picture, "Land cover")
            vectors = convert_vectors(folder / "land-cover.gpkg")
            offer(
                workspace,
                [
                    land,
                    folder / "confidence.tif",
                    *vectors,
                    picture,
                    folder / MODEL,
                    folder / "examples.gpkg",
                ],
            )


def _unfinished(mine: Session, workspace: Workspace, land: Path) -> bool:
    for name in mine.awaited:
        job = workspace.jobs.get(name)
        if job and str(land) in job.outputs and workspace.jobs.status(name).state is not State.done:
            return True
    return False
