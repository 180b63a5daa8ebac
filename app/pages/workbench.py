"""What the pages share: the map beside a panel, jobs under way, commands to copy, files to take away."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import streamlit as st

from app.map.component import DrawTool, MapResult, VectorLayer, map_events, show_map
from app.map.layers import Layer
from app.map.registry import PREFIX
from app.store.session import Session, session
from app.store.workspace import Workspace, current
from app.work.jobs import GOING, State
from geodino.jobs.command import Command
from tiles.errors import InputError

REFRESH_S = 2.0


def begin() -> tuple[Session, Workspace, MapResult]:
    """What every page with a map starts with; takes what was done on the map before anything is drawn."""
    mine, workspace, events = session(), current(), map_events()
    mine.take(events)
    for sentence in mine.collect(workspace):
        st.toast(sentence)
    return mine, workspace, events


def workbench(
    panel: Callable[[], tuple[VectorLayer, ...] | None],
    *,
    draw: bool = False,
    pick: bool = False,
    swipe: Callable[[], tuple[str, str] | None] = lambda: None,
) -> None:
    """Draw the panel and the map beside it; the panel is run first, so that the map shows what it decided.

    Args:
        panel: Draws the panel; gives the vector layers that the map shows.
        draw: Whether examples are drawn on the map.
        pick: Whether clicks on the map come back.
        swipe: Gives the layers that the map begins comparing.
    """
    mine, workspace = session(), current()
    left, right = st.columns([2.6, 1], gap="medium")
    with right:
        vectors = panel() or ()
        jobs_under_way()
    with left:
        tool = DrawTool(tuple(mine.classes), mine.drawn, mine.revision) if draw else None
        show_map(mine.layers, workspace.registry, vectors=vectors, draw=tool, pick=pick, fit=mine.fit, swipe=swipe())


@contextmanager
def explained() -> Iterator[None]:
    """Turn bad input into a sentence on the page."""
    try:
        yield
    except InputError as error:
        st.error(plain(str(error)), icon=":material/error:")


def plain(text: str) -> str:
    """Text that Streamlit's Markdown shows as it is: names of files and layers are nobody's mark-up."""
    marked = text
    for sign in "\\`*_{}[]<>()#+-!|~:$":
        marked = marked.replace(sign, f"\\{sign}")
    return marked


def choose_layer(title: str, layers: list[Layer], key: str) -> Layer | None:
    """A box to choose one of some layers; None where there is none."""
    if not layers:
        return None
    names = {layer.key: layer.name for layer in layers}
    chosen = st.selectbox(title, list(names), format_func=lambda one: names[one], key=key)
    return next(layer for layer in layers if layer.key == chosen)


def no_scene(what: str) -> None:
    """The empty state of a page that needs imagery."""
    st.info(f"No scene on the map yet. Add one on the **Scenes** page, then {what} here.", icon=":material/layers:")


def jobs_under_way() -> None:
    """Jobs of this session that wait or run, with their progress; draws the whole page anew when one ends."""
    mine, workspace = session(), current()
    if mine.awaited:
        _under_way(mine, workspace)


@st.fragment(run_every=REFRESH_S)
def _under_way(mine: Session, workspace: Workspace) -> None:
    states = {name: workspace.jobs.status(name) for name in mine.awaited}
    if any(status.state not in GOING for status in states.values()):
        st.rerun(scope="app")
    for name, status in states.items():
        job = workspace.jobs.get(name)
        if job is None:
            continue
        share = workspace.jobs.progress(name)
        text = plain(job.title) + (": waiting" if status.state is State.queued else ": running")
        st.progress(share or 0.0, text=text if share is None else f"{text}, {share:.0%}")
        if st.button("Cancel", key=f"cancel-{name}", icon=":material/cancel:"):
            workspace.jobs.cancel(name)


def command_line(command: Command) -> None:
    """A command to copy."""
    with st.expander("The same on the command line", icon=":material/terminal:"):
        st.code(command.line, language="bash", wrap_lines=True)


def offer(workspace: Workspace, files: list[Path]) -> None:
    """Links that stream files from the disk, however large they are."""
    for path in files:
        if path.is_file():
            address = f"{PREFIX}/files/{workspace.registry.add_file(path)}"
            size = path.stat().st_size
            shown = f"{size / 1e6:.1f} MB" if size > 1e5 else f"{size / 1e3:.1f} kB"
            st.link_button(f"{plain(path.name)} · {shown}", address, icon=":material/download:", width="stretch")
