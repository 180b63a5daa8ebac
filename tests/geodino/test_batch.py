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
from typer.testing import CliRunner

from geodino.backbone import save_backbone, untrained_backbone
from geodino.batch import BatchJob, read_job, run_batch
from geodino.cli import build
from geodino.cluster import split
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
        with rasterio.open(
            folder / f"s{i}.tif",
            "w",
            driver="GTiff",
            count=3,
            height=height,
            width=96,
            dtype="uint8",
            crs="EPSG:32633",
            transform=Affine(10, 0, 5e5, 0, -10, 5e6),
            photometric="rgb",
        ) as out:
            out.write(np.random.default_rng(i).integers(0, 255, (3, height, 96), dtype=np.uint8))


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


@pytest.mark.parametrize("suffix", ["tif", "zarr"])
def test_killed_anywhere_and_run_again_gives_the_same_bytes(tmp_path, run_folder, suffix):
    """Each child is killed a little later than the one before, until one comes to the end."""
    # A server that has imported everything makes children at once: kills fall into the work, not into imports.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["geodino.batch"])
    make_scenes(tmp_path / "in", 2, height=2200)
    plain = job(tmp_path, run_folder, output=str(tmp_path / "once" / f"{{name}}.{suffix}"))
    again = job(tmp_path, run_folder, output=str(tmp_path / "killed" / f"{{name}}.{suffix}"))
    run_batch(plain)
    kills, wait = 0, 0.05
    while True:
        child = context.Process(target=run_batch, args=(again,))
        child.start()
        child.join(wait)
        if not child.is_alive():
            break
        child.kill()  # SIGKILL: nothing can be tidied up
        child.join()
        kills, wait = kills + 1, wait * 1.6
    assert child.exitcode == 0 and kills >= 3
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


@pytest.mark.slow
def test_a_dask_cluster_gives_the_bytes_of_one_machine_even_when_a_worker_dies(tmp_path, run_folder):
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
    assert not report.failed and len(report.made) == 2
    assert digests(tmp_path / "two") == digests(tmp_path / "one")


def test_a_dask_address_without_a_scheduler_is_one_sentence(tmp_path, run_folder):
    make_scenes(tmp_path / "in", 1)
    with pytest.raises(InputError, match="no Dask scheduler answers"):
        run_batch(job(tmp_path, run_folder), dask="tcp://127.0.0.1:1")
