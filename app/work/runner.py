"""Runs one job in a process of its own and writes how it ended: ``python -m app.work.runner JOB_FOLDER``."""

import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from subprocess import TimeoutExpired

from app.work.jobs import SILENT_S, State, Status, born, host, read_job, read_status, silent_s, write_status

LOOK_S = 0.2  # between looks whether the command has ended or is to stop
KILLED_AFTER_S = 30.0  # a command that does not end at an interrupt within this time is killed


def _claim(folder: Path) -> bool:
    """Whether this process is the one that runs the job: there may be two servers, or a task that Dask began twice."""
    claim = folder / "claim"
    try:
        claim.touch(exist_ok=False)
    except FileExistsError:
        if silent_s(folder, claim) < SILENT_S:
            return False
        claim.touch()  # whoever had it went away before its first word in the journal
    return read_status(folder).state is State.queued


def run(folder: Path) -> State:
    """Run the command of the job in ``folder`` to its end."""
    if not _claim(folder):
        return read_status(folder).state
    beat, cancel = folder / "beat", folder / "cancel"
    beat.touch()
    me = os.getpid()
    write_status(folder, Status(State.running, host=host(), pid=me, born=born(me), started=time.time()))
    with (folder / "log.txt").open("ab") as log:
        child = read_job(folder).command.start(log)
    asked = 0.0
    while True:
        try:
            code = child.wait(timeout=LOOK_S)
            break
        except TimeoutExpired:
            beat.touch()
        if not asked and cancel.exists():
            asked = time.monotonic()
            os.killpg(child.pid, signal.SIGINT)
        elif asked and time.monotonic() - asked > KILLED_AFTER_S:
            os.killpg(child.pid, signal.SIGKILL)
    state = State.done if code == 0 else State.cancelled if asked else State.failed
    write_status(folder, replace(read_status(folder), state=state, ended=time.time(), code=code))
    return state


if __name__ == "__main__":
    # A server started in the background by a script ignores interrupts, and would hand that on to the command.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(0 if run(Path(sys.argv[1])) is State.done else 1)
