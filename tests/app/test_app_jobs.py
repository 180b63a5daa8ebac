"""Jobs: a journal that survives everything, and a runner that says how a command ended."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from app import commands
from app.jobs import JobStore, State, Status, read_status, write_status
from app.workspace import Workspace

PATIENCE_S = 120


def wait_for(store: JobStore, job: str, *states: State) -> State:
    deadline = time.monotonic() + PATIENCE_S
    while (state := store.status(job).state) not in states:
        assert time.monotonic() < deadline, (state, store.log(job))
        time.sleep(0.05)
    return state


def test_a_job_runs_the_command_that_is_shown_and_its_log_is_kept(tmp_path: Path) -> None:
    store = JobStore(tmp_path)
    job = store.submit("Version", ["--version"], [])
    assert store.status(job.id).state is State.queued
    assert job.command == "geodino --version"
    store.start_next(1)
    assert wait_for(store, job.id, State.done, State.failed) is State.done
    assert store.log(job.id).strip()[0].isdigit()
    assert read_status(tmp_path / job.id).code == 0


def test_a_command_that_fails_says_why_and_can_go_on(tmp_path: Path) -> None:
    store = JobStore(tmp_path)
    job = store.submit("Bad", ["app", "/does/not/exist.tif"], [])
    store.start_next(1)
    assert wait_for(store, job.id, State.done, State.failed) is State.failed
    assert "exist" in store.log(job.id)
    assert "Traceback" not in store.log(job.id)
    store.resume(job.id)
    assert store.status(job.id).state is State.queued


def test_only_so_many_run_at_once_and_the_oldest_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = JobStore(tmp_path)
    jobs = [store.submit(str(number), ["--version"], []) for number in range(3)]
    jobs.sort(key=lambda job: job.id)
    started: list[str] = []

    def start(job: object) -> None:
        started.append(job.id)  # type: ignore[attr-defined]
        write_status(tmp_path / started[-1], Status(State.running, pid=os.getpid()))

    monkeypatch.setattr(store, "_start", start)
    store.start_next(2)
    store.start_next(2)
    assert started == [job.id for job in jobs[:2]]


def test_a_queued_job_that_is_cancelled_never_begins(tmp_path: Path) -> None:
    store = JobStore(tmp_path)
    job = store.submit("x", ["--version"], [])
    store.cancel(job.id)
    store.start_next(5)
    assert store.status(job.id).state is State.cancelled


def test_the_journal_is_found_again_and_a_vanished_process_is_found_out(tmp_path: Path) -> None:
    job = JobStore(tmp_path).submit("x", ["--version"], [Path("/a/b.tif")], owner="me")
    again = JobStore(tmp_path)
    assert again.jobs() == [job]
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    write_status(tmp_path / job.id, Status(State.running, pid=gone.pid, born="1"))
    assert again.status(job.id).state is State.interrupted
    # Another process that has taken the number since is not the job's.
    write_status(tmp_path / job.id, Status(State.running, pid=os.getpid(), born="1"))
    assert again.status(job.id).state is State.interrupted


def test_progress_is_the_last_share_that_the_log_tells(tmp_path: Path) -> None:
    store = JobStore(tmp_path)
    job = store.submit("x", [], [])
    assert store.progress(job.id) is None
    (tmp_path / job.id / "log.txt").write_text("features: 10 %\nfeatures: 62 % rows\n")
    assert store.progress(job.id) == 0.62


def test_cancelling_interrupts_the_command_as_a_keyboard_would(tmp_path: Path) -> None:
    """The runner, given a long command: SIGTERM to the runner is SIGINT to the command, and the journal says so."""
    store = JobStore(tmp_path)
    job = store.submit("x", [], [])
    folder = tmp_path / job.id
    program = (
        "import time\ntry:\n print('begun', flush=True)\n time.sleep(60)\nexcept KeyboardInterrupt:\n print('stopped')"
    )
    given = (sys.executable, "-c", program)
    code = f"from pathlib import Path; from app.runner import run; run(Path({str(folder)!r}), {given!r})"
    runner = subprocess.Popen([sys.executable, "-c", code])
    write_status(folder, replace(store.status(job.id), state=State.running, pid=runner.pid))
    deadline = time.monotonic() + PATIENCE_S
    while "begun" not in store.log(job.id):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    store.cancel(job.id)
    runner.wait(PATIENCE_S)
    assert "stopped" in store.log(job.id)
    assert read_status(folder).state in {State.cancelled, State.done}


def test_a_runner_whose_server_died_before_the_start_was_written_leaves_the_job_queued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from app import runner

    monkeypatch.setattr(runner, "STARTED_WITHIN_S", 0.1)
    store = JobStore(tmp_path)
    job = store.submit("x", ["--version"], [])
    handler = signal.getsignal(signal.SIGTERM)
    assert runner.run(tmp_path / job.id) is State.queued
    assert store.status(job.id).state is State.queued
    signal.signal(signal.SIGTERM, handler)


def test_half_written_jobs_are_not_listed(tmp_path: Path) -> None:
    store = JobStore(tmp_path)
    (tmp_path / ".x.part").mkdir()
    (tmp_path / "y").mkdir()
    assert store.jobs() == []
    assert store.get("../../etc") is None


def test_the_commands_are_ones_that_the_command_line_takes(workspace: Workspace, tmp_path: Path) -> None:
    """Every argument that the pages write is known to geodino's own parser."""
    import typer

    from geodino.cli import build

    known = typer.main.get_command(build()).commands  # type: ignore[attr-defined]
    full = replace(workspace, backbone="b", dask="tcp://x:1")
    made = [
        commands.features(full, "s.tif", tmp_path / "f.zarr"),
        commands.segment(full, "s.tif", tmp_path / "l.tif", labels=tmp_path / "l.gpkg", vector=tmp_path / "v.gpkg"),
        commands.segment(full, "s.tif", tmp_path / "l.tif", clusters=5, save_model=tmp_path / "m.safetensors"),
        commands.segment(full, "s.tif", tmp_path / "l.tif", model=tmp_path / "m.safetensors"),
        commands.change(full, "a.tif", "b.tif", tmp_path / "c.tif", score=tmp_path / "s.tif", threshold=1.5),
        commands.similar(full, "s.tif", tmp_path / "o.tif", at=(1.0, -2.0)),
    ]
    for arguments in made:
        assert arguments[0] in known, shlex.join(arguments)
        known[arguments[0]].make_context(arguments[0], list(arguments[1:]))


def test_the_record_of_a_job_is_plain_json(tmp_path: Path) -> None:
    job = JobStore(tmp_path).submit("ä <b>", ["segment", "a b.tif"], [Path("o.tif")])
    record = json.loads((tmp_path / job.id / "job.json").read_text())
    assert record["arguments"] == ["segment", "a b.tif"]
    assert job.command == "geodino segment 'a b.tif'"
