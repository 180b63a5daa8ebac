"""Jobs: a journal that survives everything, and a runner that says how a command ended."""

import json
import os
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from app.store.workspace import Workspace
from app.work import commands, runner
from app.work.cluster import JobCluster, keep_going
from app.work.jobs import SILENT_S, JobStore, State, Status, born, host, read_status, silent_s, write_status
from tiles.errors import InputError

PATIENCE_S = 120


@pytest.fixture(scope="module")
def cluster() -> Iterator[JobCluster]:
    """The cluster that a server makes for itself."""
    made = JobCluster()
    yield made
    made.close()


@dataclass
class Noted:
    """A placer that only notes."""

    at_once: int = 2
    folders: list[Path] = field(default_factory=list)

    def place(self, folder: Path) -> None:
        self.folders.append(folder)

    def placed(self, folder: Path) -> bool:
        return folder in self.folders


def running_here(pid: int) -> Status:
    return Status(State.running, host=host(), pid=pid, born=born(pid))


def wait_for(store: JobStore, job: str, *states: State) -> State:
    deadline = time.monotonic() + PATIENCE_S
    while (state := store.status(job).state) not in states:
        assert time.monotonic() < deadline, (state, store.log(job))
        time.sleep(0.05)
    return state


def test_a_job_runs_the_command_that_is_shown_and_its_log_is_kept(tmp_path: Path, cluster: JobCluster) -> None:
    store = JobStore(tmp_path)
    job = store.submit("Version", ["--version"], [])
    assert store.status(job.id).state is State.queued
    assert job.command == "geodino --version"
    store.start_next(cluster)
    assert wait_for(store, job.id, State.done, State.failed) is State.done
    assert store.log(job.id).strip()[0].isdigit()
    assert read_status(tmp_path / job.id).code == 0


def test_a_command_that_fails_says_why_and_can_go_on(tmp_path: Path, cluster: JobCluster) -> None:
    store = JobStore(tmp_path)
    job = store.submit("Bad", ["models", "--nonsense"], [])
    store.start_next(cluster)
    assert wait_for(store, job.id, State.done, State.failed) is State.failed
    assert "nonsense" in store.log(job.id)
    assert "Traceback" not in store.log(job.id)
    store.resume(job.id)
    assert store.status(job.id).state is State.queued


def test_only_so_many_run_at_once_and_the_oldest_begins(tmp_path: Path) -> None:
    store = JobStore(tmp_path)
    jobs = sorted((store.submit(str(number), ["--version"], []) for number in range(4)), key=lambda job: job.id)
    placer = Noted()
    for _ in range(2):
        store.start_next(placer)
    assert placer.folders == [tmp_path / job.id for job in jobs[:2]]
    write_status(tmp_path / jobs[0].id, running_here(os.getpid()))
    store.start_next(placer)
    assert len(placer.folders) == 2
    write_status(tmp_path / jobs[0].id, Status(State.done))
    store.start_next(placer)
    assert placer.folders[2:] == [tmp_path / jobs[2].id]


def test_a_queued_job_that_is_cancelled_never_begins(tmp_path: Path) -> None:
    store = JobStore(tmp_path)
    job = store.submit("x", ["--version"], [])
    store.cancel(job.id)
    placer = Noted()
    store.start_next(placer)
    assert placer.folders == []
    assert runner.run(tmp_path / job.id) is State.cancelled  # one that was placed before it was cancelled


def test_the_journal_is_found_again_and_a_vanished_process_is_found_out(tmp_path: Path) -> None:
    job = JobStore(tmp_path).submit("x", ["--version"], [Path("/a/b.tif")], owner="me")
    again = JobStore(tmp_path)
    assert again.jobs() == [job]
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    write_status(tmp_path / job.id, Status(State.running, host=host(), pid=gone.pid, born="1"))
    assert again.status(job.id).state is State.interrupted
    # Another process that has taken the number since is not the job's.
    write_status(tmp_path / job.id, Status(State.running, host=host(), pid=os.getpid(), born="1"))
    assert again.status(job.id).state is State.interrupted
    write_status(tmp_path / job.id, running_here(os.getpid()))
    assert again.status(job.id).state is State.running


def test_a_runner_on_another_machine_lives_as_long_as_it_touches_its_beat(tmp_path: Path) -> None:
    store = JobStore(tmp_path)
    folder = tmp_path / store.submit("x", ["--version"], []).id
    write_status(folder, Status(State.running, host="elsewhere/boot", pid=1))
    beat = folder / "beat"
    beat.touch()
    assert store.status(folder.name).state is State.running
    assert store.status(folder.name).machine == "elsewhere"
    os.utime(beat, (time.time() - 2 * SILENT_S,) * 2)
    assert silent_s(folder, beat) > SILENT_S
    assert store.status(folder.name).state is State.interrupted


def test_a_server_that_starts_queues_what_ran_when_the_machine_went_down_and_nothing_else(tmp_path: Path) -> None:
    store = JobStore(tmp_path)
    states = {
        "ran": Status(State.running, host=host(), pid=os.getpid(), born="1"),
        "runs": running_here(os.getpid()),
        "stopped": Status(State.cancelled),
        "seen": Status(State.interrupted),
    }
    jobs = {name: store.submit(name, ["--version"], []) for name in states}
    for name, status in states.items():
        write_status(tmp_path / jobs[name].id, status)
        (tmp_path / jobs[name].id / "claim").touch()
    store.recover()
    found = {name: store.status(job.id).state for name, job in jobs.items()}
    assert found == {
        "ran": State.queued, "runs": State.running, "stopped": State.cancelled, "seen": State.interrupted,
    }  # fmt: skip
    assert not (tmp_path / jobs["ran"].id / "claim").exists()


def test_progress_is_the_last_share_that_the_log_tells(tmp_path: Path) -> None:
    store = JobStore(tmp_path)
    job = store.submit("x", [], [])
    assert store.progress(job.id) is None
    (tmp_path / job.id / "log.txt").write_text("features: 10 %\nfeatures: 62 % rows\n")
    assert store.progress(job.id) == 0.62


def test_cancelling_interrupts_the_command_as_a_keyboard_would_and_it_goes_on_when_asked(tmp_path: Path) -> None:
    store = JobStore(tmp_path)
    job = store.submit("x", [], [])
    folder = tmp_path / job.id
    program = "import time\ntry:\n print('begun', flush=True)\n time.sleep(60)\nexcept KeyboardInterrupt:\n exit(130)"
    thread = threading.Thread(target=runner.run, args=(folder, (sys.executable, "-c", program)))
    thread.start()
    deadline = time.monotonic() + PATIENCE_S
    while "begun" not in store.log(job.id):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    store.cancel(job.id)
    thread.join(PATIENCE_S)
    assert (read_status(folder).state, read_status(folder).code) == (State.cancelled, 130)
    store.resume(job.id)
    assert runner.run(folder, (sys.executable, "-c", "print('went on')")) is State.done
    assert "went on" in store.log(job.id)


def test_a_job_is_run_by_one_runner_only(tmp_path: Path) -> None:
    """Two servers may share a folder, and Dask may begin a task twice; a claim whose owner vanished is taken over."""
    store = JobStore(tmp_path)
    folder = tmp_path / store.submit("x", [], []).id
    (folder / "claim").touch()
    assert runner.run(folder, (sys.executable, "-c", "")) is State.queued
    os.utime(folder / "claim", (time.time() - 2 * SILENT_S,) * 2)
    assert runner.run(folder, (sys.executable, "-c", "")) is State.done


def test_a_job_waits_in_the_journal_while_no_scheduler_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.work.cluster.ANSWERS_WITHIN", "100ms")
    store = JobStore(tmp_path)
    job = store.submit("x", ["--version"], [])
    away = JobCluster("tcp://127.0.0.1:9")
    with pytest.raises(InputError, match="no Dask scheduler"):
        store.start_next(away)
    assert store.status(job.id).state is State.queued
    away.close()


@pytest.mark.slow
def test_jobs_run_on_the_workers_of_another_cluster(tmp_path: Path) -> None:
    """Two workers, so two jobs at once; the cluster that is not the server's stays when the server leaves."""
    from distributed import LocalCluster

    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0", processes=True) as workers:
        joined = JobCluster(workers.scheduler_address)
        assert joined.at_once == 2
        store = JobStore(tmp_path)
        jobs = [store.submit(str(number), ["--version"], []) for number in range(3)]
        stop = threading.Event()
        thread = keep_going(store, joined, stop)
        for job in jobs:
            assert wait_for(store, job.id, State.done, State.failed) is State.done
        stop.set()
        thread.join()
        joined.close()
        assert len(workers.scheduler_info["workers"]) == 2


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
