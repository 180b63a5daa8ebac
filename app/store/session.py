"""What belongs to one analyst's browser tab: layers, examples, jobs asked for, and the part of the world in view."""

import secrets
import time
import zlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import streamlit as st

from app.map.component import EMPTY, MapResult
from app.map.layers import Layer, LayerList
from app.map.preview import Preview
from app.map.source import SCORE_TAG, ClassColor, open_source, threshold_of
from app.map.style import TOKEN_LEVELS, Style, default_style
from app.store.workspace import Workspace, current
from app.work.jobs import GOING, Job, State
from geodino.jobs.command import Command
from tiles.errors import InputError

OLD_S = 60  # tiles of a preview that was replaced within this time may still be on their way
SHOWN_OPACITY = 0.8  # a result lets the scene below shine through
Bounds = tuple[float, float, float, float]
FIRST_CLASSES = (("water", (0, 114, 178)), ("vegetation", (0, 158, 115)), ("built-up", (213, 94, 0)))


@dataclass
class Session:
    """One tab's state.

    Attributes:
        layers: The layer tree.
        id: Name of the session: owner of its jobs, folder of its files.
        fit: Name and bounds of the last place that a page asked to show.
        classes: Classes that examples are drawn of.
        drawn: Examples as GeoJSON.
        revision: Number of the last state of the examples that Python gave the map.
        awaited: Jobs whose results go onto the map when they are done.
        arranged: The arrangement that was last taken from the map.
        cut: The layer and threshold that were last taken from the map.
        project: Name of the open project.
        settings: What else a project remembers, as plain YAML: ``least_pixels`` of a change; places (longitude,
            latitude) of wanted (``more_like``) and unwanted changes (``not_like``).
        results: Folders of the maps that were asked for here, the newest first.
        validations: For those made from labels: the command that measures how good the map is, then its job.
    """

    layers: LayerList
    id: str = field(default_factory=lambda: secrets.token_hex(6))
    fit: tuple[str, Bounds] | None = None
    classes: list[ClassColor] = field(
        default_factory=lambda: [ClassColor(i, name, color) for i, (name, color) in enumerate(FIRST_CLASSES, 1)]
    )
    drawn: dict[str, Any] = field(default_factory=lambda: dict(EMPTY))
    revision: int = 0
    awaited: list[str] = field(default_factory=list)
    arranged: list[dict[str, Any]] | None = None
    cut: tuple[str, float] | None = None
    project: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    results: list[Path] = field(default_factory=list)
    validations: dict[Path, Command | Job] = field(default_factory=dict)

    def look_at(self, bounds: Bounds) -> None:
        """Bring bounds (degrees) into view at the next drawing of the map."""
        self.fit = (secrets.token_hex(4), bounds)

    def take(self, events: MapResult) -> None:
        """Keep what was drawn, arranged and cut on the map."""
        if events.drawn is not None and events.revision == self.revision:
            self.drawn = events.drawn
        if events.arranged is not None and events.arranged != self.arranged:
            self.arranged = events.arranged
            self.layers.arrange(events.arranged)
        if events.threshold is not None and events.threshold != self.cut:
            self.cut = events.threshold
            layer = self.layers.get(self.cut[0])
            if layer is not None:
                self.layers.restyle(layer.key, replace(layer.style, threshold=self.cut[1]))

    def replace_examples(self, features: dict[str, Any]) -> None:
        """Give the map other examples than it has."""
        self.drawn = features
        self.revision = int(time.time() * 1000)

    def folder(self, workspace: Workspace) -> Path:
        """Where this session's own results go."""
        folder = workspace.results / self.id
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def submit(self, workspace: Workspace, title: str, command: Command, outputs: list[Path]) -> Job:
        """Queue a job whose rasters go onto the map when it is done."""
        job = workspace.jobs.submit(title, command, outputs, owner=self.id)
        self.awaited.append(job.id)
        return job

    def going(self, workspace: Workspace) -> list[Job]:
        """Jobs that were asked for here and have not ended."""
        jobs = [workspace.jobs.get(name) for name in self.awaited]
        return [job for job in jobs if job is not None and workspace.jobs.status(job.id).state in GOING]

    def show_scene(self, workspace: Workspace, path: str | Path) -> Layer:
        """Put a raster on top of the map and bring it into view.

        Raises:
            InputError: Where it cannot be shown.
        """
        source = open_source(path)
        self.look_at(source.bounds)
        return self.layers.add(source, default_style(source, workspace.statistics))

    def show_preview(
        self,
        workspace: Workspace,
        layer: Layer,
        kind: str,
        name: str,
        preview: Preview,
        style: Style,
        *,
        opacity: float = 1.0,
        hidden: bool = False,
    ) -> None:
        """Put what a page has just computed of a layer onto the map, in the place of the one before.

        Args:
            workspace: The server's.
            layer: What it was computed of.
            kind: One preview of each kind is shown a layer.
            name: Its title.
            preview: The raster.
            style: How it is painted.
            opacity: Of its first showing.
            hidden: Whether it begins switched off.
        """
        key = f"{kind}-{layer.key}"
        stem = f"{kind}-{zlib.crc32(key.encode()):08x}-"
        for old in self.folder(workspace).glob(f"{stem}*.tif"):
            if time.time() - old.stat().st_mtime > OLD_S:
                old.unlink(missing_ok=True)
        path = preview.write(self.folder(workspace) / f"{stem}{time.time_ns():x}.tif")
        hidden = hidden and self.layers.get(key) is None
        style = replace(style, finer=TOKEN_LEVELS)
        self.layers.add(open_source(path), style, key=key, name=name, opacity=opacity)
        if hidden:
            self.layers.hide(key)

    def collect(self, workspace: Workspace) -> list[str]:
        """Put the rasters of jobs that have ended onto the map; returns sentences to be shown."""
        said = []
        for name in list(self.awaited):
            status, job = workspace.jobs.status(name), workspace.jobs.get(name)
            if status.state in GOING or job is None:
                continue
            self.awaited.remove(name)
            if status.state is not State.done:
                said.append(f"{job.title}: {status.state}. The Jobs page has its log and can start it again.")
                continue
            said += self.show_results(workspace, job)
            said.append(f"{job.title}: done.")
        return said

    def show_results(self, workspace: Workspace, job: Job) -> list[str]:
        """Put a job's rasters onto the map: the first in view, the others to be switched on; what cannot be is said."""
        said = []
        rasters = [path for path in job.outputs if path.endswith(".tif") and Path(path).exists()]
        for path in reversed(rasters):
            try:
                source = open_source(path)
            except InputError as error:
                said.append(str(error))
                continue
            style = default_style(source, workspace.statistics, threshold_of(job.outputs))
            title = _title(job.title, path, len(rasters))
            layer = self.layers.add(source, style, key=path, name=title, opacity=SHOWN_OPACITY)
            if path != rasters[0]:
                self.layers.hide(layer.key)
        return said


def _title(title: str, path: str, count: int) -> str:
    return title if count == 1 else f"{Path(path).stem.replace('-', ' ').capitalize()}: {title}"


def session() -> Session:
    """This tab's state, begun with the scenes that the server was started on."""
    if "geodino" not in st.session_state:
        st.session_state.geodino = _begin(current())
    return st.session_state.geodino


def _begin(workspace: Workspace) -> Session:
    begun = Session(LayerList())
    cuts = {one.tags.get(SCORE_TAG): one.threshold for one in workspace.scenes if one.threshold is not None}
    for source in workspace.scenes:  # later ones on top: first the scenes, then the maps made of them
        # A score is cut where the change map that was made of it is, if that is shown too.
        begun.layers.add(source, default_style(source, workspace.statistics, cuts.get(source.tags.get(SCORE_TAG))))
    if workspace.scenes:
        begun.look_at(workspace.scenes[0].bounds)
    return begun
