"""Many scenes: bad ones are reported and the rest finished; killed anywhere, run again, the same bytes."""

import hashlib
import multiprocessing
import os
import signal
import textwrap

import numpy as np
import pytest
import rasterio
from affine import Affine
from distributed import CancelledError
from distributed.client import ClosedClientError
from distributed.comm import CommClosedError
from typer.testing import CliRunner

import geodino
from geodino.backbone import load_backbone, save_backbone, untrained_backbone
from geodino.batch import run_batch
from geodino.batch_job import BatchJob, read_job
from geodino.cli import build
from geodino.cluster import Cluster, ClusterLostError, ModelSpec, on_worker, split
from geodino.extraction import Extraction
from tiles.cog import DiskFullError
from tiles.errors import InputError


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    backbone = untrained_backbone("vit_small_patch16_dinov3", depth=1, embed_dim=64, num_heads=2, precision="fp32")
    save_backbone(backbone.module, backbone.card, folder)
    return folder


def make_scenes(folder, count=3, height=200):
    folder.mkdir(exist_ok=True)
    for i in range(count):
        write_scene(folder / f"s{i}.tif", np.random.default_rng(i).integers(0, 255, (3, height, 96), dtype=np.uint8))


def write_scene(path, array):
    count, height, width = array.shape
    place = {"crs": "EPSG:32633", "transform": Affine(10, 0, 5e5, 0, -10, 5e6)}
    colours = {"photometric": "rgb"} if count == 3 else {}
    with rasterio.open(
        path, "w", driver="GTiff", count=count, height=height, width=width, dtype="uint8", **place, **colours
    ) as out:
        out.write(array)


def job(tmp_path, run_folder, **more):
    words = {"window": 8, "halo": 1, "batch_size": 2, "precision": "fp32", "device": "cpu"}
    return BatchJob.model_validate(
        {
            "scenes": [str(tmp_path / "in" / "*.tif")],
            "output": str(tmp_path / "out" / "{name}.tif"),
            "backbone": str(run_folder),
        }
        | words
        | more
    )


def digests(folder):
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and "batch" not in p.name
    }


@pytest.fixture
def count_runs(monkeypatch):
    made = []
    original = Extraction.run

    def run(self, **options):
        made.append(self.spec.path.name)
        return original(self, **options)

    monkeypatch.setattr(Extraction, "run", run)
    return made


def test_a_second_run_does_nothing_twice_and_new_scenes_only(tmp_path, run_folder, count_runs):
    make_scenes(tmp_path / "in", 2)
    report = run_batch(job(tmp_path, run_folder))
    assert len(report.made) == 2 and not report.failed and len(count_runs) == 2
    before = digests(tmp_path / "out")
    make_scenes(tmp_path / "in", 3)
    os.utime(tmp_path / "in" / "s0.tif", (1, 1))
    os.utime(tmp_path / "in" / "s1.tif", (1, 1))
    report = run_batch(job(tmp_path, run_folder))
    # The two old outputs are of other inputs now: refused, not silently kept; the new scene is made.
    assert len(report.failed) == 2 and [p.name for p in report.made] == ["s2.tif"]
    assert all("overwrite" in reason for reason in report.failed.values())
    report = run_batch(job(tmp_path, run_folder), overwrite=True)
    assert (len(report.made), len(report.kept)) == (2, 1)
    assert {k: v for k, v in digests(tmp_path / "out").items() if k in before and "stac" not in k} == {
        k: v for k, v in before.items() if "stac" not in k
    }


def test_a_bad_scene_is_reported_and_the_rest_finishes(tmp_path, run_folder):
    make_scenes(tmp_path / "in", 2)
    (tmp_path / "in" / "broken.tif").write_bytes((tmp_path / "in" / "s0.tif").read_bytes()[:3000])
    (tmp_path / "in" / "text.tif").write_text("no raster")
    lines = []
    report = run_batch(
        job(tmp_path, run_folder, scenes=[str(tmp_path / "in" / "*.tif"), "absent.tif"]), say=lines.append
    )
    assert len(report.made) == 2
    assert sorted(os.path.basename(p) for p in report.failed) == ["absent.tif", "broken.tif", "text.tif"]
    assert sum(line.startswith("FAILED") for line in lines) == 3
    assert sorted(p.name for p in (tmp_path / "out").glob("*.tif")) == ["s0.tif", "s1.tif"]


def test_the_command_exits_with_1_when_a_scene_failed_and_0_when_none(tmp_path, run_folder):
    make_scenes(tmp_path / "in", 1)
    (tmp_path / "in" / "text.tif").write_text("no raster")
    text = f"""
    scenes: [{tmp_path}/in/*.tif]
    output: {tmp_path}/out/{{name}}.zarr
    backbone: {run_folder}
    quicklook: true
    """
    (tmp_path / "job.yaml").write_text(textwrap.dedent(text))
    result = CliRunner().invoke(build(), ["batch", str(tmp_path / "job.yaml")])
    assert result.exit_code == 1 and "1 made, 0 kept from before, 1 failed" in result.output
    assert (tmp_path / "out" / "s0.png").exists()
    (tmp_path / "in" / "text.tif").unlink()
    result = CliRunner().invoke(build(), ["batch", str(tmp_path / "job.yaml")])
    assert result.exit_code == 0 and "0 made, 1 kept from before, 0 failed" in result.output


def test_globs_need_no_job_file(tmp_path, run_folder):
    make_scenes(tmp_path / "in", 1)
    arguments = ["batch", str(tmp_path / "in" / "s*.tif"), "-o", str(tmp_path / "out"), "--backbone", str(run_folder)]
    result = CliRunner().invoke(build(), arguments)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "out" / "s0.zarr").is_dir()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("scenes: [a.tif]\noutput: out.tif", "{name}"),
        ("scenes: [a.tif]\noutput: 'o/{name}.tif'\ncolour: red", "colour"),
        ("scenes: []\noutput: 'o/{name}.tif'", "scenes"),
        ("scenes: [a.tif]\noutput: 'o/{name}.tif'\ntask: segment", "model"),
        ("scenes: [a.tif]\noutput: 'o/{name}.tif'\ntask: change", "pairs"),
        ("pairs: [{before: a.tif, after: b.tif}]\noutput: 'o/{name}.zarr'\ntask: change", "GeoTIFF"),
        ("scenes: [a.tif]\noutput: 'o/{name}.tif'\ntask: segment\nmodel: m\nwindow: 8", "window"),
        ("scenes: [a.tif]\noutput: 'o/{name}.tif'\nthreshold: 2", "threshold"),
        ("pairs: [{before: a, after: b}]\noutput: 'o/{name}.tif'\ntask: change\nthreshold: .nan", "finite number"),
        ("pairs: [{before: a, after: b}]\noutput: 'o/{name}.tif'\ntask: change\nwindow: 8", "window"),
        ("scenes: [a.tif]\noutput: 'o/{name}.tif'\ntask: segment\nmodel: m\nlayers: [0]", "layers"),
        ("scenes: [a.tif]\noutput: 'o/{name}.png'", "neither Zarr nor GeoTIFF"),
        ("scenes: [a.tif]\noutput: 'o/{name}.tif'\nupscale: 3", "1, 2 or 4"),
        ("scenes: [", "no YAML"),
    ],
)
def test_a_job_file_that_says_something_wrong_is_refused(tmp_path, text, says):
    (tmp_path / "job.yaml").write_text(text)
    with pytest.raises(InputError, match=says):
        read_job(tmp_path / "job.yaml")


def test_two_scenes_of_one_name_and_no_scene_at_all_are_refused(tmp_path, run_folder):
    make_scenes(tmp_path / "in", 1)
    make_scenes(tmp_path / "more", 1)
    both = [str(tmp_path / "in" / "s0.tif"), str(tmp_path / "more" / "s0.tif")]
    with pytest.raises(InputError, match="both become"):
        run_batch(job(tmp_path, run_folder, scenes=both))
    with pytest.raises(InputError, match="no scene matches"):
        run_batch(job(tmp_path, run_folder, scenes=[str(tmp_path / "nothing*.tif")]))


def test_what_a_job_file_says_is_not_said_again(tmp_path):
    (tmp_path / "job.yaml").write_text("scenes: [a.tif]\noutput: 'o/{name}.zarr'")
    for more in (["-o", "o"], ["--backbone", "b"], ["--device", "cpu"], ["--precision", "fp32"], ["--quicklook"]):
        result = CliRunner().invoke(build(), ["batch", str(tmp_path / "job.yaml"), *more])
        assert isinstance(result.exception, InputError) and "job.yaml says itself" in str(result.exception), more
    for arguments, says in ((["a.tif"], "-o"), ([str(tmp_path / "absent.yaml")], "absent.yaml cannot be read")):
        result = CliRunner().invoke(build(), ["batch", *arguments])
        assert isinstance(result.exception, InputError) and says in str(result.exception)


def test_what_spoils_every_scene_is_refused_before_the_first(tmp_path, run_folder, count_runs):
    make_scenes(tmp_path / "in", 2)
    (tmp_path / "file").write_text("no folder")
    for words, more, says in (
        ({"layers": (7,)}, {}, "has layers 0 to 0"),
        ({"output": str(tmp_path / "file" / "{name}.tif")}, {}, "cannot be made"),
        ({}, {"journal": tmp_path / "absent" / "journal.jsonl"}, "absent .* does not exist"),
    ):
        with pytest.raises(InputError, match=says):
            run_batch(job(tmp_path, run_folder, **words), **more)
    assert not count_runs


def test_a_full_disk_stops_the_batch(tmp_path, run_folder, monkeypatch):
    make_scenes(tmp_path / "in", 3)
    tried = []

    def full(self, **options):
        tried.append(self.spec.path)
        raise DiskFullError("no space left on the disk for x")

    monkeypatch.setattr(Extraction, "run", full)
    with pytest.raises(DiskFullError):
        run_batch(job(tmp_path, run_folder))
    assert tried and not list((tmp_path / "out").glob("*.tif"))


# Runs a job and dies by SIGKILL, tidying nothing up, before its n-th touch of a file in a folder. Text and not a
# function, since a child process cannot import this file.
RUN_UNTIL = """
import os, signal, sys
from geodino.batch import run_batch

TOUCHES = ("open", "os.mkdir", "os.rename", "os.remove", "shutil.rmtree")

def touch(event, arguments):
    global left
    if event in TOUCHES and str(arguments[0]).startswith(folder):
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(touch)
run_batch(job)
"""


@pytest.mark.parametrize("suffix", ["tif", "zarr"])
def test_killed_anywhere_and_run_again_gives_the_same_bytes(tmp_path, run_folder, suffix):
    """Each child dies some touches of its files later than the one before, until one comes to the end."""
    # A server that has imported everything makes children at once.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["geodino.batch", "geodino.api", "zarr", "rioxarray", "timm"])
    make_scenes(tmp_path / "in", 2, height=1100)
    run_batch(job(tmp_path, run_folder, output=str(tmp_path / "once" / f"{{name}}.{suffix}")))
    again = job(tmp_path, run_folder, output=str(tmp_path / "killed" / f"{{name}}.{suffix}"))
    kills, events = 0, 3
    while True:
        words = {"job": again, "folder": str(tmp_path / "killed"), "left": events}
        child = context.Process(target=exec, args=(RUN_UNTIL, words))
        child.start()
        child.join()
        assert child.exitcode in (0, -signal.SIGKILL)
        if child.exitcode == 0:
            break
        kills, events = kills + 1, events * 4 // 3 + 1
    assert kills > 3
    assert digests(tmp_path / "killed") == digests(tmp_path / "once")


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


@pytest.fixture
def land_model(tmp_path, run_folder):
    """A head that tells dark ground from bright, trained on a scene of two halves."""
    rng = np.random.default_rng(9)
    array = rng.integers(1, 90, (3, 96, 96), dtype=np.uint8)
    array[:, :, 48:] += 150
    write_scene(tmp_path / "halves.tif", array)
    kinds = np.zeros((96, 96), np.uint8)
    kinds[::8, ::8] = 1
    kinds[::8, 56::8] = 2
    write_scene(tmp_path / "kinds.tif", kinds[None])
    backbone = load_backbone(run_folder, device="cpu", precision="fp32")
    words = {"labels": tmp_path / "kinds.tif", "save_model": tmp_path / "land.safetensors", "backbone": backbone}
    geodino.segment(tmp_path / "halves.tif", tmp_path / "halves-map.tif", **words)
    return tmp_path / "land.safetensors"


def test_maps_of_many_scenes_by_one_model(tmp_path, run_folder, land_model):
    make_scenes(tmp_path / "in", 2)
    (tmp_path / "in" / "text.tif").write_text("no raster")
    work = BatchJob(
        task="segment",
        scenes=[str(tmp_path / "in" / "*.tif")],
        model=land_model,
        output=str(tmp_path / "out" / "{name}-land.tif"),
        backbone=str(run_folder),
        precision="fp32",
    )
    report = run_batch(work)
    assert [p.name for p in report.made] == ["s0-land.tif", "s1-land.tif"] and len(report.failed) == 1
    backbone = load_backbone(run_folder, device="cpu", precision="fp32")
    geodino.segment(tmp_path / "in" / "s1.tif", tmp_path / "alone.tif", model=land_model, backbone=backbone)
    assert (tmp_path / "alone.tif").read_bytes() == (tmp_path / "out" / "s1-land.tif").read_bytes()
    assert len(run_batch(work).kept) == 2
    # A map that a kill left without its item, and without a record of being done, is made again.
    lines = [
        line for line in (tmp_path / "out" / "geodino-batch.jsonl").read_text().splitlines() if '"done ' not in line
    ]
    (tmp_path / "out" / "geodino-batch.jsonl").write_text("\n".join(lines) + "\n")
    (tmp_path / "out" / "s1-land.tif.stac.json").unlink()
    assert len(run_batch(work).made) == 2 and (tmp_path / "out" / "s1-land.tif.stac.json").exists()
    with pytest.raises(InputError, match="nowhere"):
        run_batch(work.model_copy(update={"model": tmp_path / "nowhere"}))


def test_changes_of_many_pairs_found_by_name(tmp_path, run_folder):
    make_scenes(tmp_path / "2019", 2)
    make_scenes(tmp_path / "2021", 3)
    with rasterio.open(tmp_path / "2021" / "s1.tif", "r+") as file:
        file.write(np.full((3, 60, 40), 250, np.uint8), window=((20, 80), (30, 70)))
    work = BatchJob(
        task="change",
        pairs=[{"before": str(tmp_path / "2019" / "*.tif"), "after": str(tmp_path / "2021" / "*.tif")}],
        output=str(tmp_path / "out" / "{name}-change.tif"),
        backbone=str(run_folder),
        precision="fp32",
        threshold=3,
    )
    report = run_batch(work)
    assert [p.name for p in report.made] == ["s0-change.tif", "s1-change.tif"]
    assert ["s2.tif" in path and "same name" in reason for path, reason in report.failed.items()] == [True]
    with rasterio.open(tmp_path / "out" / "s1-change.tif") as file:
        changed = file.read(1) == 1
    assert changed[30:70, 40:60].mean() > 0.5 > changed[120:].mean()
    assert len(run_batch(work).kept) == 2
    layered = work.model_copy(update={"layers": (0,)})
    assert len(run_batch(layered).failed) == 3  # the maps that are there were made from other layers
    assert len(run_batch(layered, overwrite=True).made) == 2
    with rasterio.open(tmp_path / "out" / "s1-change.tif") as file:
        assert file.tags()["GEODINO_LAYERS"] == "[0]"


@pytest.mark.slow
def test_a_dask_cluster_gives_the_bytes_of_one_machine_even_when_a_worker_dies(tmp_path, run_folder, land_model):
    distributed = pytest.importorskip("distributed")
    make_scenes(tmp_path / "in", 2, height=5000)
    run_batch(job(tmp_path, run_folder, output=str(tmp_path / "one" / "{name}.zarr")))
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
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
        maps = BatchJob(
            task="segment",
            scenes=[str(tmp_path / "in" / "*.tif")],
            model=land_model,
            output=str(tmp_path / "two" / "{name}-land.tif"),
            backbone=str(run_folder),
            device="cpu",
            precision="fp32",
        )
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
    spec = ModelSpec.of(run_folder, "cpu", "fp32")
    with distributed.LocalCluster(n_workers=0, processes=False, dashboard_address=None) as local:
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
    cluster.model, cluster.client = ModelSpec.of(run_folder, "cpu", "fp32"), Client()
    monkeypatch.setattr("geodino.cluster.as_completed", lambda futures, loop: futures)
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
        patch.setattr("geodino.cluster.Client", Client)
        patch.setattr("geodino.cluster.as_completed", lambda futures, loop: futures)
        patch.setattr("geodino.batch._Run.at_once", 1)
        with pytest.raises(ClusterLostError, match=r"tcp://there:1 is gone; .*run the same command again"):
            run_batch(job(tmp_path, run_folder), dask="tcp://there:1")
    assert len(asked) < 4  # what had not begun is not tried
    report = run_batch(job(tmp_path, run_folder))
    assert (len(report.kept), len(report.made), report.failed) == (1, 3, {})


def test_a_dask_address_without_a_scheduler_is_one_sentence(tmp_path, run_folder):
    make_scenes(tmp_path / "in", 1)
    with pytest.raises(InputError, match="no Dask scheduler answers"):
        run_batch(job(tmp_path, run_folder), dask="tcp://127.0.0.1:1")
