"""What one server has: its folder, the folders that it may read, its layers and its jobs. One a process."""

import re
import secrets
import time
from dataclasses import dataclass
from pathlib import Path

from app.map.registry import Registry, stored_secret
from app.map.source import Source
from app.store.access import Access
from app.work.jobs import JobStore
from geodino.jobs.command import Command


@dataclass(frozen=True)
class Workspace:
    """The server's own things, shared by all sessions.

    Attributes:
        folder: Where projects, jobs, uploads and results are kept.
        access: Which files may be read.
        registry: Pictures and files that the browser may ask for.
        jobs: Journal of long work.
        scenes: Layers that every new session begins with.
        backbone: Backbone that the jobs use, as for ``--backbone``; None for the packaged one.
        dask: Address of a Dask scheduler that the jobs use, if any.
    """

    folder: Path
    access: Access
    registry: Registry
    jobs: JobStore
    scenes: tuple[Source, ...] = ()
    backbone: str | None = None
    dask: str | None = None

    @classmethod
    def at(
        cls,
        folder: Path,
        *,
        allow: tuple[Path, ...] = (),
        scenes: tuple[Source, ...] = (),
        backbone: str | None = None,
        dask: str | None = None,
    ) -> "Workspace":
        """The workspace in a folder, made where it does not exist."""
        for name in ("projects", "jobs", "uploads", "results", "cache"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        real = folder.resolve()
        registry = Registry(stored_secret(real / "cache" / "key"))
        return cls(real, Access.to(real, *allow), registry, JobStore(real / "jobs"), scenes, backbone, dask)

    def command(self, name: str, *inputs: str | Path, **options: str | Path | float | bool | None) -> Command:
        """A geodino command that uses the server's backbone; see `Command.of`."""
        return Command.of(name, *inputs, **options, backbone=self.backbone)

    @property
    def statistics(self) -> Path:
        """Where statistics of rasters are kept."""
        return self.folder / "cache" / "statistics"

    @property
    def results(self) -> Path:
        """Where jobs write."""
        return self.folder / "results"

    def new_result(self, scene: str, kind: str) -> Path:
        """A new folder for what a job makes of a scene."""
        cleaned = re.sub(r"[^\w\-]+", "-", scene)[:60]
        folder = self.results / f"{time.strftime('%Y%m%d-%H%M%S')}-{cleaned}-{kind}-{secrets.token_hex(2)}"
        folder.mkdir(parents=True)
        return folder

    @property
    def projects(self) -> Path:
        """Where projects are."""
        return self.folder / "projects"

    @property
    def uploads(self) -> Path:
        """Where uploaded files go."""
        return self.folder / "uploads"


_current: list[Workspace] = []


def use(workspace: Workspace) -> None:
    """Make a workspace this process's own."""
    _current[:] = [workspace]


def current() -> Workspace:
    """The workspace of this process.

    Raises:
        RuntimeError: Before `use`.
    """
    if not _current:
        raise RuntimeError("no workspace yet: the server calls app.store.workspace.use at its start")
    return _current[0]
