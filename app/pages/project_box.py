"""The box on the Scenes page that saves, opens and shares projects."""

import streamlit as st

from app.map.component import EMPTY, examples
from app.pages.workbench import explained, plain
from app.store.projects import MODEL, Project, listed, load, packed, save, versions
from app.store.session import Session
from app.store.workspace import Workspace


def project_box(mine: Session, workspace: Workspace) -> None:
    """Draw the box."""
    box = st.expander(
        f"Project: {plain(mine.project)}" if mine.project else "Project",
        icon=":material/folder:",
        key="project-box",
        on_change="rerun",
    )
    if box.open:
        with box:
            _box(mine, workspace)


def _box(mine: Session, workspace: Workspace) -> None:
    name = st.text_input("Name", mine.project or "", key="project-name", placeholder="my project")
    if st.button("Save", type="primary", width="stretch", disabled=not name):
        with explained():
            drawn = examples(mine.drawn, tuple(mine.classes))
            models = [path for folder in mine.results if (path := folder / MODEL).exists()]
            state = Project(mine.layers.layers, mine.classes, drawn, mine.settings, models)
            home = save(workspace.projects, name, state)
            mine.project = home.name
            st.toast(f"Saved in {plain(str(home))}")
    found = listed(workspace.projects)
    if not found:
        st.caption("A project keeps layers, classes and examples: a GeoPackage and a YAML file in a folder.")
        return
    chosen = st.selectbox("Saved projects", found)
    states = ["newest", *versions(workspace.projects, chosen)]
    version = st.selectbox("State", states, help="Every save keeps the one before.")
    if st.button("Open", width="stretch", icon=":material/folder_open:"):
        with explained():
            _open(mine, workspace, chosen, None if version == "newest" else version)
            st.rerun()
    st.download_button(
        "Take a copy (zip)",
        lambda: packed(workspace.projects, chosen),
        f"{chosen}.zip",
        "application/zip",
        width="stretch",
    )


def _open(mine: Session, workspace: Workspace, name: str, version: str | None) -> None:
    project = load(workspace.projects, name, workspace.access, workspace.statistics, version)
    mine.layers.layers = project.layers
    mine.classes = project.classes or mine.classes
    mine.project = name
    mine.settings = project.settings
    values = {one.name: one.value for one in mine.classes}
    if project.examples is None:
        mine.replace_examples(dict(EMPTY))
    else:
        frame = project.examples.assign(**{"class": [values.get(text, 1) for text in project.examples["class"]]})
        mine.replace_examples(frame.__geo_interface__)
    for sentence in project.missing:
        st.toast(plain(sentence))
    if project.layers:
        mine.look_at(project.layers[0].source.bounds)
