"""A tour of two minutes on the first start: a bar above the page that says what to try next, and where."""

from dataclasses import dataclass
from pathlib import Path

import streamlit as st

from app.store.session import Session, session
from app.store.workspace import Workspace, current
from tiles.errors import InputError

DEMO = Path("demo")  # what `make demo` writes, below the folder that the server was started in


@dataclass(frozen=True)
class Step:
    """One thing to try."""

    page: str
    text: str


STEPS = (
    Step("Scenes", "**Look.** Drag and zoom; click a place for its values; fade or move a layer in its list."),
    Step("Scenes", "**Compare.** Tick *Swipe* in the list, or press S, and drag the divider between two layers."),
    Step("Explore", "**Explore.** Prepare the scene once, then click a place: all that looks like it lights up."),
    Step("Segment", "**Segment.** Choose a class on the map and draw a few examples; the map follows each of them."),
    Step("Change", "**Change.** Choose two dates, find changes, then move the threshold in the list on the map."),
    Step("Jobs", "**Take away.** Long work waits here with its log, its files and the command line to repeat it."),
)


def tour_bar() -> None:
    """Show the step that the tour is at; nothing once it has been ended."""
    place = st.empty()  # always there: else the page below moves up by one and, for a moment, shows its widgets twice
    mine, workspace = session(), current()
    seen = workspace.folder / "cache" / "tour-seen"
    step = st.session_state.get("tour", None if seen.exists() else 0)
    if step is None:
        return
    with place.container(border=True, horizontal=True, vertical_alignment="center", key="tour"):
        st.markdown(f"Tour {step + 1} of {len(STEPS)} · *{STEPS[step].page}* page · {STEPS[step].text}")
        demo = demo_layers(workspace) if step == 0 and not mine.layers.layers else []
        if demo and st.button("Load the demo's layers", icon=":material/download_done:"):
            _load(mine, workspace, demo)
            st.rerun()
        if step + 1 < len(STEPS) and st.button("Next", type="primary"):
            st.session_state.tour = step + 1
            st.rerun()
        if st.button("End the tour", type="secondary" if step + 1 < len(STEPS) else "primary"):
            seen.touch()
            st.session_state.tour = None
            st.rerun()


def demo_layers(workspace: Workspace) -> list[Path]:
    """Rasters that the demo made, scenes before maps, if they may be read."""
    found = sorted(DEMO.glob("**/*.tif")) if DEMO.is_dir() else []
    return [path.resolve() for path in found if workspace.access.contains(path)]


def _load(mine: Session, workspace: Workspace, demo: list[Path]) -> None:
    for path in demo:
        try:
            mine.show_scene(workspace, path)
        except InputError:
            continue  # working files of the demo without a place on the Earth
