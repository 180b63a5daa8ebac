"""Long work, outside the pages: a journal of jobs, each of them a geodino command line in a process of its own.

A job is exactly the command that the page shows to be copied, so it can be run again anywhere. Its folder holds
``job.json`` (what to do, written once), ``status.json`` (how it goes, replaced whole at each change), ``log.txt`` and,
while it runs, ``claim`` (somebody has it), ``beat`` (touched while its runner lives) and ``cancel`` (it is to stop).
Which machine runs it is Dask's choice (`app.work.cluster`); the process that does (`app.work.runner`) is no child of a
session: closing the tab, a rerun of the script or a restart of the server does not touch it, and the next server finds
it in the journal. geodino's commands keep journals themselves: a job that is cancelled or killed and started again
goes on where it was.
"""

import json
import os
import re
import secrets
import socket
import threading
import time
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from geodino.jobs.command import Command
from tiles.writing.outputs import replacing

LOG_TAIL_BYTES = 64_000
SILENT_S = 60.0  # a runner on another machine that has not touched its ``beat`` for this long is gone


class State(StrEnum):
    """Where a job is in its life."""

    queued = "queued"
    running = "running"
    done = "done"
    failed = "failed"
    cancelled = "cancelled"
    interrupted = "interrupted"  # its process is gone without having said how it ended


GOING = frozenset({State.queued, State.running})


@dataclass(frozen=True)
class Job:
    """What is to be done.

    Attributes:
        id: Name of its folder; sorts by time.
        title: For people.
        arguments: Arguments of the ``geodino`` command.
        outputs: Files that it writes.
        created: Seconds since 1970.
        owner: The session that asked for it.
    """

    id: str
    title: str
    arguments: tuple[str, ...]
    outputs: tuple[str, ...]
    created: float
    owner: str = ""

    @property
    def command(self) -> Command:
        """The command."""
        return Command(self.arguments)


@dataclass(frozen=True)
class Status:
    """How a job goes.

    Attributes:
        state: See `State`.
        host: Machine of the runner, and its boot: a process id means something there only.
        pid: The runner's process id while it runs.
        born: The runner's start time as the kernel gives it, to tell it from a later process with its id.
        started: Seconds since 1970, 0 before.
        ended: Seconds since 1970, 0 before.
        code: Exit status of the command.
    """

    state: State
    host: str = ""
    pid: int = 0
    born: str = ""
    started: float = 0.0
    ended: float = 0.0
    code: int | None = None

    @property
    def machine(self) -> str:
        """Name of the machine that runs it, where that is another one than this."""
        return "" if self.host == host() else self.host.split("/")[0]


class Placer(Protocol):
    """Finds a machine for jobs: `app.work.cluster.JobCluster`."""

    @property
    def at_once(self) -> int:
        """How many jobs may run at once."""

    def place(self, folder: Path) -> None:
        """Have the job in a folder begun soon, once."""

    def placed(self, folder: Path) -> bool:
        """Whether that has been asked for and has not ended."""


class JobStore:
    """The journal in a folder; safe to use from any thread and from several processes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def submit(self, title: str, command: Command, outputs: list[Path], owner: str = "") -> Job:
        """Put a job into the queue."""
        now = time.time()
        name = f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime(now))}-{secrets.token_hex(3)}"
        job = Job(name, title, command.arguments, tuple(str(path) for path in outputs), now, owner)
        part = self.folder / f".{name}.part"
        part.mkdir()
        (part / "job.json").write_text(json.dumps(asdict(job), indent=1))
        write_status(part, Status(State.queued))
        part.rename(self.folder / name)  # a job appears whole
        return job

    def jobs(self) -> list[Job]:
        """All jobs, newest first."""
        found = []
        for folder in sorted(self.folder.iterdir(), reverse=True):
            if not folder.name.startswith(".") and (folder / "job.json").exists():
                found.append(read_job(folder))
        return found

    def get(self, job: str) -> Job | None:
        """A job by its id."""
        folder = self.folder / Path(job).name
        return read_job(folder) if job and (folder / "job.json").exists() else None

    def status(self, job: str) -> Status:
        """How a job goes; one whose runner vanished is found out here."""
        folder = self.folder / job
        status = read_status(folder)
        if status.state is State.running and not _alive(folder, status):
            status = read_status(folder)  # it may have ended between the two looks
            if status.state is State.running:
                status = replace(status, state=State.interrupted, ended=time.time())
                write_status(folder, status)
        return status

    def log(self, job: str) -> str:
        """The end of what the command said."""
        file = self.folder / job / "log.txt"
        if not file.exists():
            return ""
        with file.open("rb") as source:
            source.seek(max(0, file.stat().st_size - LOG_TAIL_BYTES))
            return source.read().decode(errors="replace")

    def progress(self, job: str) -> float | None:
        """Share done in [0, 1] from the last line that tells one."""
        found = re.findall(r"(\d{1,3}) %", self.log(job))
        return min(1.0, int(found[-1]) / 100) if found else None

    def cancel(self, job: str) -> None:
        """Stop a job: a queued one is not begun, a running one is interrupted as Ctrl-C would."""
        status = self.status(job)
        if status.state is State.queued:
            write_status(self.folder / job, replace(status, state=State.cancelled, ended=time.time()))
        elif status.state is State.running:
            (self.folder / job / "cancel").touch()  # the runner interrupts the command and writes the end

    def resume(self, job: str) -> None:
        """Queue a job that ended without success again; it goes on where it was."""
        if self.status(job).state not in GOING:
            for mark in ("claim", "cancel", "beat"):
                (self.folder / job / mark).unlink(missing_ok=True)
            write_status(self.folder / job, Status(State.queued))

    def recover(self) -> None:
        """Queue the jobs again that ran when the whole machine went down; called when a server starts."""
        for job in self.jobs():
            ran = read_status(self.folder / job.id).state is State.running
            if ran and self.status(job.id).state is State.interrupted:
                self.resume(job.id)

    def start_next(self, placer: Placer) -> None:
        """Have queued jobs begun, oldest first, as long as there is room."""
        states = [(self.folder / job.id, self.status(job.id).state) for job in reversed(self.jobs())]
        waiting = [folder for folder, state in states if state is State.queued]
        fresh = [folder for folder in waiting if not placer.placed(folder)]
        if fresh:
            taken = sum(state is State.running for _, state in states) + len(waiting) - len(fresh)
            for folder in fresh[: max(0, placer.at_once - taken)]:
                placer.place(folder)


def read_job(folder: Path) -> Job:
    """What is to be done, as it was written down."""
    record = json.loads((folder / "job.json").read_text())
    return Job(**{**record, "arguments": tuple(record["arguments"]), "outputs": tuple(record["outputs"])})


def read_status(folder: Path) -> Status:
    """The journal's last word about a job."""
    record = json.loads((folder / "status.json").read_text())
    return Status(**{**record, "state": State(record["state"])})


def write_status(folder: Path, status: Status) -> None:
    """Replace the journal's last word in one step."""
    with replacing(folder / "status.json", shared=True) as part:
        part.write_text(json.dumps(asdict(status)))


def host() -> str:
    """This machine since it was last started."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        boot = ""
    return f"{socket.gethostname()}/{boot}"


def born(pid: int) -> str:
    """When a process began, in the kernel's clock ticks; empty where the system does not say."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]
    except (OSError, IndexError):
        return ""


def _alive(folder: Path, status: Status) -> bool:
    if status.host != host():
        return silent_s(folder, folder / "beat") < SILENT_S
    try:
        os.kill(status.pid, 0)
    except (ProcessLookupError, PermissionError):
        return False
    now = born(status.pid)
    return not status.born or not now or now == status.born


def silent_s(folder: Path, mark: Path) -> float:
    """Seconds since a mark in a job's folder was touched, by the clock of the file system that all machines see."""
    now = folder / f".now-{socket.gethostname()}-{os.getpid()}-{threading.get_ident()}"
    now.touch()
    try:
        return now.stat().st_mtime - mark.stat().st_mtime
    except FileNotFoundError:
        return SILENT_S
    finally:
        now.unlink(missing_ok=True)
