"""Long work, outside the pages: a journal of jobs, each of them a geodino command line in a process of its own.

A job is exactly the command that the page shows to be copied, so it can be run again anywhere. Its folder holds
``job.json`` (what to do, written once), ``status.json`` (how it goes, replaced whole at each change) and ``log.txt``.
The process that runs it (`app.runner`) is no child of the server's session: closing the tab, a rerun of the script or
a restart of the server does not touch it, and the next server finds it in the journal. geodino's commands keep
journals themselves: a job that is cancelled or killed and started again goes on where it was.
"""

import json
import os
import re
import secrets
import shlex
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path

POLL_S = 0.5
LOG_TAIL_BYTES = 64_000


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
    def command(self) -> str:
        """The command line to copy."""
        return shlex.join(("geodino", *self.arguments))


@dataclass(frozen=True)
class Status:
    """How a job goes.

    Attributes:
        state: See `State`.
        pid: The runner's process id while it runs.
        born: The runner's start time as the kernel gives it, to tell it from a later process with its id.
        started: Seconds since 1970, 0 before.
        ended: Seconds since 1970, 0 before.
        code: Exit status of the command.
    """

    state: State
    pid: int = 0
    born: str = ""
    started: float = 0.0
    ended: float = 0.0
    code: int | None = None


class JobStore:
    """The journal in a folder; safe to use from any thread and from several processes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def submit(self, title: str, arguments: list[str], outputs: list[Path], owner: str = "") -> Job:
        """Put a job into the queue."""
        now = time.time()
        name = f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime(now))}-{secrets.token_hex(3)}"
        job = Job(name, title, tuple(arguments), tuple(str(path) for path in outputs), now, owner)
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
                found.append(self._read(folder))
        return found

    def get(self, job: str) -> Job | None:
        """A job by its id."""
        folder = self.folder / Path(job).name
        return self._read(folder) if job and (folder / "job.json").exists() else None

    def _read(self, folder: Path) -> Job:
        record = json.loads((folder / "job.json").read_text())
        return Job(**{**record, "arguments": tuple(record["arguments"]), "outputs": tuple(record["outputs"])})

    def status(self, job: str) -> Status:
        """How a job goes; one whose runner vanished is found out here."""
        status = read_status(self.folder / job)
        if status.state is State.running and not _alive(status.pid, status.born):
            again = read_status(self.folder / job)  # it may have ended between the two looks
            if again.state is State.running:
                again = replace(again, state=State.interrupted, ended=time.time())
                write_status(self.folder / job, again)
            return again
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
            os.kill(status.pid, signal.SIGTERM)  # the runner interrupts the command and writes the end

    def resume(self, job: str) -> None:
        """Queue a job that ended without success again; it goes on where it was."""
        if self.status(job).state not in GOING:
            write_status(self.folder / job, Status(State.queued))

    def start_next(self, at_once: int) -> None:
        """Begin queued jobs, oldest first, while fewer than ``at_once`` run."""
        states = [(job, self.status(job.id).state) for job in reversed(self.jobs())]
        free = at_once - sum(state is State.running for _, state in states)
        for job, state in states:
            if state is State.queued and free > 0:
                self._start(job)
                free -= 1

    def _start(self, job: Job) -> None:
        folder = self.folder / job.id
        command = [sys.executable, "-m", "app.runner", str(folder)]
        with (folder / "log.txt").open("ab") as log:
            runner = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        # The runner begins when it finds itself in the journal.
        write_status(folder, Status(State.running, pid=runner.pid, born=_born(runner.pid), started=time.time()))
        threading.Thread(target=runner.wait, daemon=True).start()  # so that it does not stay as a zombie


def read_status(folder: Path) -> Status:
    """The journal's last word about a job."""
    record = json.loads((folder / "status.json").read_text())
    return Status(**{**record, "state": State(record["state"])})


def write_status(folder: Path, status: Status) -> None:
    """Replace the journal's last word in one step."""
    part = folder / f"status.{os.getpid()}.{threading.get_ident()}.part"
    part.write_text(json.dumps(asdict(status)))
    part.replace(folder / "status.json")


def _born(pid: int) -> str:
    """When a process began, in the kernel's clock ticks; empty where the system does not say."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]
    except (OSError, IndexError):
        return ""


def _alive(pid: int, born: str) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, PermissionError):
        return False
    now = _born(pid)
    return not born or not now or now == born


def keep_going(store: JobStore, at_once: int, stop: threading.Event) -> threading.Thread:
    """Start queued jobs from a thread of the server until ``stop``."""

    def run() -> None:
        while not stop.wait(POLL_S):
            store.start_next(at_once)

    thread = threading.Thread(target=run, name="jobs", daemon=True)
    thread.start()
    return thread
