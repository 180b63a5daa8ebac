"""Start the web map: one process on one port, for this machine alone unless told otherwise."""

import os
import socket
import threading
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import streamlit as st
from starlette.middleware import Middleware
from streamlit import net_util

from app.map.source import open_source
from app.map.style import default_style
from app.map.tile_routes import bundle_name, routes
from app.pages.tour import DEMO
from app.store.workspace import Workspace, use
from app.streamlit_files import StreamlitFiles
from app.work.cluster import JobCluster, keep_going
from tiles.errors import InputError

SCRIPT = Path(__file__).parent / "main.py"
UPLOAD_MB = 2048

# Nothing is asked from anybody's server, nothing is told to anybody, nothing reloads by itself.
QUIET = {
    "browser.gatherUsageStats": False,
    "server.fileWatcherType": "none",
    "server.runOnSave": False,
    "server.headless": True,
    "client.toolbarMode": "minimal",
    "client.showErrorDetails": "none",
    "server.maxUploadSize": UPLOAD_MB,
    "global.developmentMode": False,
    "theme.light.primaryColor": "#0f766e",
    "theme.dark.primaryColor": "#0e9384",
}


def prepare(
    scenes: Sequence[str],
    folder: Path,
    *,
    allow: Sequence[Path] = (),
    backbone: str | None = None,
    dask: str | None = None,
) -> Workspace:
    """Open the scenes and make the workspace.

    Raises:
        InputError: Where a scene cannot be shown; the sentence names it.
    """
    bundle_name()  # says how to build the map, before anything starts
    sources = tuple(open_source(scene) for scene in scenes)  # before the workspace, which makes its folder
    demo = (DEMO,) if DEMO.is_dir() else ()  # what the tour shows
    workspace = Workspace.at(folder, allow=(*allow, *_folders_of(scenes), *demo), backbone=backbone, dask=dask)
    for source in sources:
        default_style(source, workspace.statistics)  # reads some pixels: a file without its end is found here
    return replace(workspace, scenes=sources)


def _folders_of(scenes: Sequence[str]) -> list[Path]:
    paths = [Path(scene) for scene in scenes if "://" not in scene]
    return [path if os.path.isdir(path) else path.parent for path in paths if os.path.exists(path)]


def serve(workspace: Workspace, *, port: int, address: str) -> None:
    """Run the server until it is stopped.

    Raises:
        InputError: Where the port is taken, or no Dask scheduler answers at the address given.
    """
    with closing(socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError as error:
            raise InputError(
                f"port {port} of {address} cannot be used ({error.strerror}); choose another with --port."
            ) from error
    # To judge the origin of a connection, Streamlit would ask a server on the internet for this machine's address.
    net_util._external_ip = ""
    use(workspace)
    cluster = JobCluster(workspace.dask)
    if workspace.dask:
        _ = cluster.client  # a scheduler that does not answer is said now
    stop = threading.Event()
    keep_going(workspace.jobs, cluster, stop)
    server = st.App(SCRIPT, routes=routes(workspace.registry), middleware=[Middleware(StreamlitFiles)])
    try:
        server.run(config={**QUIET, "server.port": port, "server.address": address})
    finally:
        stop.set()
        cluster.close()
