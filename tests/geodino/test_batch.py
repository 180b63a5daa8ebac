"""Many scenes: bad ones are reported and the rest finished; killed anywhere, run again, the same bytes."""

import multiprocessing
import os
import signal
import textwrap

import numpy as np
import pytest
import rasterio
from batch_testing import digests, job, land_job, make_scenes
from typer.testing import CliRunner

import geodino
from geodino.backbones.backbone import load_backbone
from geodino.cli import build
from geodino.dense.extraction import Extraction
from geodino.jobs.batch import run_batch
from geodino.jobs.batch_job import BatchJob, read_job
from tiles.errors import InputError
from tiles.writing.outputs import DiskFullError


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
        ("scenes: [a.tif]\noutput: 'o/{name}.tif'\ntask: segment\nmodel: m\nupscale: 2", "upscale"),
        (
            "pairs: [{before: a, after: b}]\noutput: 'o/{name}.tif'\ntask: change\nmodel: m\nupscale: 2",
            "upscale does not go with a model",
        ),
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
from geodino.jobs.batch import run_batch

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
    context.set_forkserver_preload(["geodino.jobs.batch", "geodino.api", "zarr", "rioxarray", "timm"])
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


def test_maps_of_many_scenes_by_one_model(tmp_path, run_folder, land_model):
    make_scenes(tmp_path / "in", 2)
    (tmp_path / "in" / "text.tif").write_text("no raster")
    work = land_job(tmp_path, run_folder, land_model, "out")
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
