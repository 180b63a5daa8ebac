"""The box that pages share where they need a scene's dense features: made once by a job, then kept."""

from pathlib import Path

import streamlit as st

from app.map.source import Source
from app.pages.workbench import command_line, plain
from app.store.session import Session
from app.store.workspace import Workspace
from app.work.backbone import weights_hash
from app.work.cube import Cube, open_cube
from tiles.errors import InputError


def cube_path(workspace: Workspace, source: Source) -> Path:
    """Where the features of a scene are kept, for the server's backbone."""
    folder = workspace.folder / "cache" / "features"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{source.fingerprint[:16]}-{weights_hash(workspace.backbone)[:16]}.zarr"


def prepared(mine: Session, workspace: Workspace, source: Source) -> Cube | None:
    """The features of a scene, or None and a button that makes them."""
    try:
        path = cube_path(workspace, source)
    except InputError as error:
        st.error(plain(str(error)), icon=":material/error:")
        return None
    if path.exists():
        with st.spinner("Reading the features"):
            return open_cube(path)
    if any(str(path) in job.outputs for job in mine.going(workspace)):
        st.caption(f"The features of {plain(source.name)} are being computed; the map stays usable.")
        return None
    command = workspace.command("features", source.address, output=path, dask=workspace.dask)
    st.markdown(f"**{plain(source.name)}** is looked at by the backbone once; after that, maps come within seconds.")
    key = f"prepare-{source.fingerprint}"
    if st.button("Prepare this scene", type="primary", width="stretch", key=key, icon=":material/play_arrow:"):
        mine.submit(workspace, f"Features of {source.name}", command, [path])
        st.rerun()
    command_line(command)
    return None
