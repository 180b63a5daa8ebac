"""Runs one job in a process of its own and writes how it ended: ``python -m app.runner JOB_FOLDER``."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import FrameType

from app.jobs import State, read_status, write_status

PROGRAM = (sys.executable, "-c", "from geodino.cli import main; main()")
STARTED_WITHIN_S = 30.0
KILLED_AFTER_S = 30.0  # a command that does not end at an interrupt within this time is killed


def _is_mine(folder: Path) -> bool:
    """Wait until the journal says that this very process runs the job.

    It never does where the server died before it wrote the start down; the job is still in the queue then, and the
    next server starts another runner.
    """
    deadline = time.monotonic() + STARTED_WITHIN_S
    while time.monotonic() < deadline:
        status = read_status(folder)
        if status.state is State.running and status.pid == os.getpid():
            return True
        time.sleep(0.02)
    return False


def run(folder: Path, program: tuple[str, ...] = PROGRAM) -> State:
    """Run the job in ``folder`` to its end: ``program`` with the job's arguments."""
    if not _is_mine(folder):
        return read_status(folder).state
    arguments = json.loads((folder / "job.json").read_text())["arguments"]
    command = [*program, *arguments]
    with (folder / "log.txt").open("ab") as log:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    asked: list[float] = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        asked.append(time.monotonic())
        os.killpg(child.pid, signal.SIGINT)

    signal.signal(signal.SIGTERM, interrupt)
    signal.signal(signal.SIGINT, interrupt)
    while True:
        try:
            code = child.wait(timeout=1)
            break
        except subprocess.TimeoutExpired:
            if asked and time.monotonic() - asked[0] > KILLED_AFTER_S:
                os.killpg(child.pid, signal.SIGKILL)
    state = State.done if code == 0 else State.cancelled if asked else State.failed
    write_status(folder, replace(read_status(folder), state=state, ended=time.time(), code=code))
    return state


if __name__ == "__main__":
    sys.exit(0 if run(Path(sys.argv[1])) is State.done else 1)
