"""Segment: draw examples by class, get a map within seconds, correct it, make it at full size, take it away."""

from pathlib import Path

import streamlit as st

from app.map.layers import Layer
from app.map.picture import draw_map
from app.map.source import open_source
from app.pages.class_list import class_list, drawn_examples, why_not
from app.pages.features_box import cube_path, prepared
from app.pages.live_box import live_map
from app.pages.workbench import begin, choose_layer, command_line, explained, no_scene, offer, plain, workbench
from app.store.access import RASTERS, VECTORS
from app.store.exports import convert_vectors
from app.store.projects import MODEL, trained_models
from app.store.session import Session
from app.store.workspace import Workspace
from geodino.jobs.command import Command

EXAMPLES = "examples.gpkg"


def show() -> None:
    """Draw the page."""
    mine, workspace, _ = begin()

    def panel() -> None:
        layer = choose_layer("Scene", mine.layers.imagery(), "segment-scene")
        if layer is None:
            no_scene("draw a few examples of each class")
            return
        class_list(mine)
        cube = prepared(mine, workspace, layer.source)
        unready = why_not(mine)
        if cube is not None and unready:
            st.info(unready, icon=":material/draw:")
        elif cube is not None:
            live_map(mine, workspace, layer, cube)
        _full_map(mine, workspace, layer, ready=not unready)
        _other_ways(mine, workspace, layer)
        _results(mine, workspace)

    workbench(panel, draw=bool(mine.layers.imagery()))


def mapping_command(
    workspace: Workspace,
    layer: Layer,
    folder: Path,
    *,
    labels: Path | None = None,
    field: str | None = None,
    clusters: int | None = None,
    model: Path | None = None,
) -> tuple[Command, list[Path]]:
    """The command that maps a scene from labels, into clusters or by a saved model, and what it writes."""
    land, vector = folder / "land-cover.tif", folder / "land-cover.gpkg"
    trained = folder / MODEL if labels else None
    sure = None if clusters else folder / "confidence.tif"
    how: dict[str, str | Path | int | None] = {"labels": labels, "field": field, "clusters": clusters, "model": model}
    command = workspace.command(
        "segment", layer.source.address, output=land, **how, save_model=trained, vector=vector, confidence=sure
    )
    return command, [land, vector, *([trained] if trained else [])]


def _start(
    mine: Session, workspace: Workspace, layer: Layer, folder: Path, title: str, **how: str | Path | int | None
) -> None:
    command, outputs = mapping_command(workspace, layer, folder, **how)  # type: ignore[arg-type]
    mine.submit(workspace, title, command, outputs)
    mine.results.insert(0, folder)
    features = cube_path(workspace, layer.source)
    if how.get("labels") and features.exists():
        scene, field = layer.source.address, how.get("field")
        mine.validations[folder] = Command.of(
            "segment", scene, labels=how["labels"], field=field, features=features, validate=True
        )
    st.rerun()


def _full_map(mine: Session, workspace: Workspace, layer: Layer, *, ready: bool) -> None:
    help = "At the scene's own pixel size, with polygons, confidence and the trained model."
    wanted = st.button(
        "Make the full map", type="primary", width="stretch", disabled=not ready, icon=":material/map:", help=help
    )
    if wanted:
        with explained():
            folder = workspace.new_result(layer.source.name, "segmentation")
            labels = folder / EXAMPLES
            drawn_examples(mine).to_file(labels, layer="examples", driver="GPKG")
            _start(mine, workspace, layer, folder, f"Land cover of {layer.name}", labels=labels, field="class")
    if ready:
        command_line(mapping_command(workspace, layer, Path(), labels=Path(EXAMPLES), field="class")[0])


def _other_ways(mine: Session, workspace: Workspace, layer: Layer) -> None:
    """Without drawing: clusters, a model trained elsewhere, or labels from a file."""
    name = layer.source.name
    with st.expander("Without drawing", icon=":material/auto_awesome:"):
        clusters, model, labels = st.tabs(["Clusters", "Saved model", "Labels file"])
        with clusters:
            count = int(st.number_input("Number of classes", 2, 40, 8))
            if st.button("Map clusters", width="stretch"):
                folder = workspace.new_result(name, "clusters")
                _start(mine, workspace, layer, folder, f"{count} clusters of {layer.name}", clusters=count)
        with model:
            found = trained_models(workspace.results, workspace.projects)
            if not found:
                st.caption("Each full map keeps its model; it appears here and can be applied to other scenes.")
            else:
                chosen = st.selectbox("Model", list(found), format_func=lambda path: found[path])
                if st.button("Apply to this scene", width="stretch"):
                    folder = workspace.new_result(name, "applied")
                    _start(mine, workspace, layer, folder, f"{found[chosen]} on {layer.name}", model=chosen)
        with labels:
            typed = st.text_input("Path of points, polygons or a raster of classes", key="labels-path")
            field = st.text_input(
                "Attribute that holds the class", key="labels-field", placeholder="found by itself where it can be"
            )
            if st.button("Map from these labels", width="stretch", disabled=not typed):
                with explained():
                    file = workspace.access.resolve(typed, RASTERS + VECTORS)
                    folder = workspace.new_result(name, "segmentation")
                    title = f"Land cover of {layer.name}"
                    _start(mine, workspace, layer, folder, title, labels=file, field=field or None)


def _results(mine: Session, workspace: Workspace) -> None:
    """Maps made in this session, to be taken away."""
    unfinished = {output for job in mine.going(workspace) for output in job.outputs}
    for folder in mine.results[:5]:
        land = folder / "land-cover.tif"
        if not land.exists() or str(land) in unfinished:
            continue
        validation = mine.validations.get(folder)
        if isinstance(validation, Command):  # the map is there: nobody waits for this
            title = f"Accuracy of the map of {Path(validation.arguments[1]).stem}"
            validation = mine.validations[folder] = mine.submit(workspace, title, validation, [])
        with st.expander(plain(folder.name), icon=":material/download:"):
            picture = folder / "map.png"
            key = f"picture-{folder.name}"
            if not picture.exists() and st.button("Draw the map as a picture", key=key, width="stretch"):
                with explained():
                    draw_map(mine.layers.layers, open_source(land).bounds, picture, "Land cover")
            if validation is not None:
                st.code(workspace.jobs.log(validation.id) or "How good it is, is being measured.", language=None)
            vectors = convert_vectors(folder / "land-cover.gpkg")
            offer(workspace, [land, folder / "confidence.tif", *vectors, picture, folder / MODEL, folder / EXAMPLES])
