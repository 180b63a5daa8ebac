"""The live map on the Segment page: made anew at each example, with the accuracy that follows when it is known."""

import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import pandas
import streamlit as st

from app.map.layers import Layer
from app.map.preview import Preview
from app.map.source import ClassColor
from app.map.style import Paint, Style
from app.pages.class_list import drawn_examples
from app.pages.workbench import explained
from app.store.session import Session
from app.store.workspace import Workspace
from app.work.cube import Cube
from app.work.live_maps import NOTHING, LabelledTokens, classify
from geodino.heads.labels import read_labels
from geodino.heads.metrics import Agreement

REFRESH_S = 0.5
_validating = ThreadPoolExecutor(1, thread_name_prefix="validation")  # no map waits for its accuracy


@dataclass(frozen=True)
class _Shown:
    """What the live map was made of, so that it is not made twice.

    Attributes:
        told: Scene, examples and classes in one text.
        seconds: How long it took.
        names: Names of its classes.
        agreement: Its cross-validated agreement, once that is known.
    """

    told: str
    seconds: float
    names: tuple[str, ...]
    agreement: Future[Agreement | None]


def live_map(mine: Session, workspace: Workspace, layer: Layer, cube: Cube) -> None:
    """Learn and map again whenever the examples change, and show how good the map is."""
    told = f"{layer.source.fingerprint}|{mine.drawn}|{[(one.name, one.color) for one in mine.classes]}"
    shown: _Shown | None = st.session_state.get("segment-live")
    if shown is None or shown.told != told:
        with explained():
            started = time.perf_counter()
            examples = _learn_and_show(mine, workspace, layer, cube)
            took = time.perf_counter() - started
            if shown is not None:
                shown.agreement.cancel()
            waiting = _validating.submit(examples.cross_validate)
            shown = st.session_state["segment-live"] = _Shown(told, took, examples.labels.legend.names, waiting)
    if shown is not None and shown.told == told:
        st.caption(f"Live map made in {shown.seconds:.1f} s, at the size of the backbone's patches.")
        if shown.agreement.done():
            _scores(shown.names, shown.agreement.result())
        else:
            _wait(shown.agreement)


def _learn_and_show(mine: Session, workspace: Workspace, layer: Layer, cube: Cube) -> LabelledTokens:
    path = mine.folder(workspace) / "examples.gpkg"  # as the command line takes them
    path.unlink(missing_ok=True)
    drawn_examples(mine).to_file(path, layer="examples", driver="GPKG")
    learned = LabelledTokens.on(cube, read_labels(path, cube.geobox, field="class"))
    made = classify(cube, learned)
    names = learned.labels.legend.names
    colors = {one.name: one.color for one in mine.classes}
    sure = Preview(made.confidence[None], cube.geobox, NOTHING, ("confidence",))
    ramp = Style(Paint.ramp, (0,), ((100 / len(names), 100.0),), "magma")
    mine.show_preview(workspace, layer, "live-confidence", "Live confidence, %", sure, ramp, hidden=True)
    classes = tuple(ClassColor(number, name, colors[name]) for number, name in enumerate(names, 1))
    largest = Style(Paint.argmax, tuple(range(len(names))), classes=classes)
    scores = Preview(made.probabilities, cube.geobox, NOTHING, names)
    mine.show_preview(workspace, layer, "live", "Live map", scores, largest, opacity=0.7)
    return learned


@st.fragment(run_every=REFRESH_S)
def _wait(agreement: "Future[Agreement | None]") -> None:
    """Draw the page anew once the accuracy is known."""
    if agreement.done():
        st.rerun(scope="app")
    st.caption("How good it is, is being measured.")


def _scores(names: tuple[str, ...], agreement: Agreement | None) -> None:
    if agreement is None:
        st.caption("Scores need examples of each class in at least two places apart from each other.")
        return
    help = "Measured by cross-validation on examples that lie apart from those learned from."
    with st.container(horizontal=True):
        st.metric("Accuracy", f"{agreement.overall_accuracy:.0%}", help=help, width=140)
        st.metric("Mean IoU", f"{agreement.mean_iou:.2f}", help=help, width=140)
    frame = pandas.DataFrame({"class": names, "F1": agreement.f1, "IoU": agreement.iou})
    two = st.column_config.NumberColumn(format="%.2f")
    st.dataframe(frame, hide_index=True, width="stretch", column_config={"F1": two, "IoU": two})
