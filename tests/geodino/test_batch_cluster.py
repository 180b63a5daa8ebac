"""Many scenes on a Dask cluster: the bytes of one machine though a worker dies; a lost scheduler stops the batch."""

import os
import signal

import pytest
from batch_testing import digests, job, land_job, make_scenes
from distributed import CancelledError
from distributed.client import ClosedClientError
from distributed.comm import CommClosedError

from geodino.backbones.backbone import load_backbone
from geodino.jobs.batch import run_batch
from geodino.jobs.cluster import Cluster, ClusterLostError, on_worker, split
from geodino.jobs.run_options import RunOptions
from tiles.errors import InputError


def test_runs_are_split_into_ranges_of_whole_pieces():
    assert split([range(0, 640)], 4) == [
        range(0, 128),
        range(128, 256),
        range(256, 384),
        range(384, 512),
        range(512, 640),
    ]
    assert split([range(64, 70)], 8) == [range(64, 70)]
    parts = split([range(0, 64), range(128, 1000)], 3)
    assert [row for part in parts for row in part] == [*range(64), *range(128, 1000)]
    assert all(part.start % 64 == 0 for part in parts)


@pytest.mark.slow
def test_a_dask_cluster_gives_the_bytes_of_one_machine_even_when_a_worker_dies(tmp_path, run_folder, land_model):
    distributed = pytest.importorskip("distributed")
    make_scenes(tmp_path / "in", 2, height=5000)
    run_batch(job(tmp_path, run_folder, output=str(tmp_path / "one" / "{name}.zarr")))
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster:
        lines = []

        def kill_one(line):
            if not lines:
                worker = next(iter(cluster.workers.values()))
                os.kill(worker.pid, signal.SIGKILL)
            lines.append(line)

        report = run_batch(
            job(tmp_path, run_folder, output=str(tmp_path / "two" / "{name}.zarr")),
            dask=cluster.scheduler_address,
            say=kill_one,
        )
        maps = land_job(tmp_path, run_folder, land_model, "two")
        mapped = run_batch(maps, dask=cluster.scheduler_address)
    run_batch(maps.model_copy(update={"output": str(tmp_path / "one" / "{name}-land.tif")}))
    assert not mapped.failed and len(mapped.made) == 2
    assert not report.failed and len(report.made) == 2
    assert digests(tmp_path / "two") == digests(tmp_path / "one")


class Away:
    """A task whose file comes back at its third try, or never."""

    def __init__(self, folder, comes_back):
        self.folder, self.comes_back = folder, comes_back

    def run(self, backbone):
        tries = len(list(self.folder.iterdir()))
        (self.folder / str(tries)).touch()
        if tries < 2 or not self.comes_back:
            raise InputError("a.tif cannot be read")
        return tries

    def __str__(self):
        return "a.tif"


def test_a_cluster_tries_again_and_refuses_what_would_give_other_bytes(tmp_path, run_folder):
    distributed = pytest.importorskip("distributed")
    spec = RunOptions(run_folder, "cpu", "fp32")
    with distributed.LocalCluster(n_workers=0, processes=False, dashboard_address=":0") as local:
        with pytest.raises(InputError, match="has no workers"):
            Cluster(local.scheduler_address, spec)
        local.scale(1)
        local.wait_for_workers(1)
        with Cluster(local.scheduler_address, spec) as cluster:
            for name in ("once", "ever"):
                (tmp_path / name).mkdir()
            assert list(cluster.run([Away(tmp_path / "once", True)], "cpu float32")) == [2]
            with pytest.raises(InputError, match=r"a\.tif cannot be read"):
                list(cluster.run([Away(tmp_path / "ever", False)], "cpu float32"))
            assert len(list((tmp_path / "ever").iterdir())) == 3
            with pytest.raises(InputError, match="computes in cpu float32 and another in cpu bfloat16"):
                list(cluster.run([Away(tmp_path / "once", True)], "cpu bfloat16"))


def test_workers_that_die_of_a_task_are_one_sentence(monkeypatch, run_folder):
    pytest.importorskip("distributed")
    from distributed.scheduler import KilledWorker

    class Died:
        def result(self):
            raise KilledWorker("task", None, 3)

    class Client:
        loop = None

        def submit(self, *arguments, **options):
            return died

        def cancel(self, futures):
            assert futures == [died]

    died = Died()
    cluster = Cluster.__new__(Cluster)
    cluster.model, cluster.client = RunOptions(run_folder, "cpu", "fp32"), Client()
    monkeypatch.setattr("geodino.jobs.cluster.as_completed", lambda futures, loop: futures)
    with pytest.raises(InputError, match=r"died repeatedly on a\.tif"):
        list(cluster.run([Away(None, False)], "cpu float32"))


@pytest.mark.parametrize("lost", [CancelledError, ClosedClientError, CommClosedError])
def test_a_lost_scheduler_stops_the_batch_and_keeps_what_is_finished(tmp_path, run_folder, monkeypatch, lost):
    """A client whose scheduler goes away with the second scene."""
    make_scenes(tmp_path / "in", 4)
    backbone = load_backbone(run_folder, device="cpu", precision="fp32")
    asked = []

    class Done:
        def __init__(self, value):
            self.value = value

        def result(self):
            return self.value

    class Gone:
        def result(self):
            raise lost("the scheduler does not answer")

    class Client:
        loop = None

        def __init__(self, address, **options):
            pass

        def scheduler_info(self, **options):
            return {"workers": {"one": {}}}

        def submit(self, function, model, *arguments, **options):
            if function is not on_worker:
                return Done(("cpu float32", arguments[0].resolved(backbone)))
            asked.append(arguments[-1])
            return Done(arguments[-1].run(backbone)) if len(asked) == 1 else Gone()

        def cancel(self, futures):
            if len(asked) > 1:
                raise lost("the scheduler does not answer")

        def close(self):
            pass

    with monkeypatch.context() as patch:
        patch.setattr("geodino.jobs.cluster.Client", Client)
        patch.setattr("geodino.jobs.cluster.as_completed", lambda futures, loop: futures)
        patch.setattr("geodino.jobs.batch._Run.at_once", 1)
        with pytest.raises(ClusterLostError, match=r"tcp://there:1 is gone; .*run the same command again"):
            run_batch(job(tmp_path, run_folder), dask="tcp://there:1")
    assert len(asked) < 4  # what had not begun is not tried
    report = run_batch(job(tmp_path, run_folder))
    assert (len(report.kept), len(report.made), report.failed) == (1, 3, {})


def test_a_dask_address_without_a_scheduler_is_one_sentence(tmp_path, run_folder):
    make_scenes(tmp_path / "in", 1)
    with pytest.raises(InputError, match="no Dask scheduler answers"):
        run_batch(job(tmp_path, run_folder), dask="tcp://127.0.0.1:1")
