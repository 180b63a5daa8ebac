"""Training: curves of a pretraining run as it goes, the drift monitor, pictures, nearest-neighbour accuracy.

The page reads what ``geodino pretrain`` writes into its folder; it starts and stops nothing.
"""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pandas
import streamlit as st
import yaml

from app.pages.workbench import explained, plain
from app.store.access import Access
from app.store.workspace import current
from tiles.errors import InputError

if TYPE_CHECKING:
    import altair

METRICS = "metrics.csv"
REFRESH_S = 5.0
MOST_AT_FIRST = 5
COMPARABLE = ("Losses", "Drift of dense features")  # curves of one scale, shown together at first
LISTED = 50
GROUPS = {
    "Losses": ("loss", "dino", "ibot", "koleo", "gram"),
    "Drift of dense features": ("drift", "similarity", "cosine", "rank", "norm_ratio"),
    "Nearest neighbours": ("knn",),
    "Schedules": ("lr", "learning", "decay", "momentum", "temperature", "weight_decay"),
    "Pace": ("images", "wait", "seconds", "memory"),
}
ASKED = ("Nearest neighbours", "Drift of dense features", "Schedules", "Pace", "Losses")  # in this order


def show() -> None:
    """Draw the page."""
    workspace = current()
    st.subheader("Training")
    found = runs(workspace.access)
    left, right = st.columns([3, 2], vertical_alignment="bottom") if found else (st, st)
    typed = right.text_input(
        "or the path of a run's folder" if found else "Path of a run's folder", key="training-path", placeholder="RUN"
    )
    if not found and not typed:
        st.info(
            "No run in the allowed folders yet. `geodino pretrain TILES -o RUN` makes one, whose curves appear here.",
            icon=":material/model_training:",
        )
        return
    chosen = left.selectbox("Run", found, format_func=partial(_short, workspace.access)) if found else None
    with explained():
        run = workspace.access.resolve(typed, ("",)) if typed else chosen
        if run is None:
            return
        if not (run / METRICS).exists():
            raise InputError(f"{run} holds no {METRICS}: it is no folder that geodino pretrain wrote.")
        _follow(run)


def runs(access: Access) -> list[Path]:
    """Folders of runs in the allowed folders, up to three levels deep, the one that was written last first."""
    found: set[Path] = set()
    for root in access.roots:
        for depth in (METRICS, f"*/{METRICS}", f"*/*/{METRICS}"):
            found.update(path.parent for path in root.glob(depth) if access.contains(path))
    return sorted(found, key=lambda run: -(run / METRICS).stat().st_mtime)[:LISTED]


def _short(access: Access, run: Path) -> str:
    """A run's path below the allowed folder that it lies in: what tells it from others comes first."""
    root = next((root for root in access.roots if root in run.parents), None)
    return str(run.relative_to(root)) if root else str(run)


@st.fragment(run_every=REFRESH_S)
def _follow(run: Path) -> None:
    try:
        frame = pandas.read_csv(run / METRICS)
    except pandas.errors.EmptyDataError:
        st.caption("The run has begun; its first row comes soon.")
        return
    _state(run, frame)
    smooth = st.slider("Smoothing, rows", 1, 50, 1, key="training-smooth", width=320)
    columns = st.columns(2)
    for index, (title, names) in enumerate(_grouped(_curves(frame)).items()):
        with columns[index % 2]:
            st.markdown(f"**{title}**")
            shown = st.pills(
                "Curves",
                names,
                selection_mode="multi",
                default=names[: MOST_AT_FIRST if title in COMPARABLE else 1],
                key=f"training-{title}",
                label_visibility="collapsed",
            )
            if shown:
                st.altair_chart(_chart(frame, shown, smooth), width="stretch")
    _monitor(run)
    _pictures(run)
    _recipe(run)


def _state(run: Path, frame: pandas.DataFrame) -> None:
    last = frame.iloc[-1]
    planned = _read_recipe(run).get("max_steps")
    step = int(last["step"])
    with st.container(horizontal=True):
        st.metric("Step", f"{step:,}" + (f" of {planned:,}" if isinstance(planned, int) else ""), width="content")
        for name in ("loss", "images_per_s", "data_wait"):
            if name in frame:
                st.metric(name.replace("_", " ").replace("per s", "per second"), f"{last[name]:.4g}", width="content")
    if isinstance(planned, int):
        st.progress(min(1.0, step / planned))


def _read_recipe(run: Path) -> dict[str, object]:
    """The recipe as resolved; nothing where there is none yet."""
    try:
        loaded = yaml.safe_load((run / "recipe.yaml").read_text())
    except (OSError, yaml.YAMLError):
        return {}
    return loaded if isinstance(loaded, dict) else {}


def _curves(frame: pandas.DataFrame) -> list[str]:
    return [name for name in frame.select_dtypes("number").columns if name != "step"]


def _grouped(names: list[str]) -> dict[str, list[str]]:
    """Columns by what they are about; a column belongs to the first group that knows a word of it."""
    grouped: dict[str, list[str]] = {title: [] for title in (*GROUPS, "Other")}
    for name in names:
        about = (title for title in ASKED if any(word in name.lower() for word in GROUPS[title]))
        grouped[next(about, "Other")].append(name)
    return {title: found for title, found in grouped.items() if found}


def _chart(frame: pandas.DataFrame, names: list[str], smooth: int) -> "altair.Chart":
    import altair  # slow to import, and a run without rows has no chart

    rolled = frame[["step", *names]].copy()
    if smooth > 1:
        rolled[names] = rolled[names].rolling(smooth, min_periods=1).mean()
    long = rolled.melt("step", var_name="curve", value_name="value").dropna()
    chart = altair.Chart(long, height=260).mark_line()
    return chart.encode(
        x=altair.X("step:Q", title=None, axis=altair.Axis(tickCount=6)),
        y=altair.Y("value:Q", title=None, scale=altair.Scale(zero=False), axis=altair.Axis(tickCount=5, format="~g")),
        color=altair.Color("curve:N", title=None, legend=altair.Legend(orient="top") if len(names) > 1 else None),
        tooltip=["step", "curve", "value"],
    )


def _monitor(run: Path) -> None:
    """Other tables of the run that go by step: drift of dense features, nearest neighbours."""
    for table in sorted(run.glob("*.csv")):
        if table.name == METRICS:
            continue
        try:
            frame = pandas.read_csv(table)
        except (pandas.errors.EmptyDataError, pandas.errors.ParserError):
            continue
        names = _curves(frame)
        if "step" in frame and names:
            st.markdown(f"**{plain(table.stem.replace('_', ' ').capitalize())}**")
            st.altair_chart(_chart(frame, names[:6], 1), width="stretch")


def _pictures(run: Path) -> None:
    """PCA pictures that the monitor drew, the newest first."""
    found = sorted((path for path in run.rglob("*.png") if path.is_file()), key=lambda path: path.name)
    if not found:
        return
    st.markdown("**Principal components of the dense features**")
    names = [str(path.relative_to(run)) for path in found]
    chosen = names[-1]
    if len(names) > 1:
        chosen = st.select_slider("Snapshot", names, value=chosen, key="training-picture")
    st.image(str(run / chosen), caption=plain(chosen))


def _recipe(run: Path) -> None:
    recipe = _read_recipe(run)
    if recipe:
        with st.expander("Recipe as resolved", icon=":material/description:"):
            st.code(yaml.safe_dump(recipe, sort_keys=False), language="yaml", height=300)
