"""The web map in a real browser beside the analysis: jobs and runs go on, sessions are apart, an empty start helps."""

import signal
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from app_testing import WAIT_MS, Server, free_port, landscape, write_raster
from browser_testing import Open, go, still, tiles_shown

from app.work.jobs import JobStore, State

pytestmark = [pytest.mark.browser, pytest.mark.timeout(1500)]


def test_a_run_being_trained_shows_its_curves(server: Server, open_page: Open) -> None:
    """New rows of ``metrics.csv`` appear on the open page."""
    from pretrain.monitor.metrics import MetricsLog

    run = server.work / "runs" / "tiny"
    run.mkdir(parents=True, exist_ok=True)

    def train(log: MetricsLog, steps: range) -> None:
        for step in steps:
            log.write(step, {"loss": 9 / step, "dino": 5 / step, "ibot": 3 / step, "lr": 1e-3, "images_per_s": 20.0})

    with closing(MetricsLog(run, 0)) as log:
        train(log, range(1, 21))
        watched = open_page(server.url)
        go(watched, "Training")
        watched.page.get_by_text("Losses").wait_for()
        step = watched.page.get_by_test_id("stMetricValue").first
        assert step.inner_text() == "20"
        train(log, range(21, 35))
        watched.page.wait_for_function(
            "() => [...document.querySelectorAll('[data-testid=stMetricValue]')].some(e => e.innerText === '34')"
        )
    watched.page.locator("canvas, svg.marks").first.wait_for()
    watched.look("training")
    assert (run / "metrics.csv").read_text().count("\n") == 35
    assert watched.quiet(), (watched.external, watched.errors)


def test_a_job_is_cancelled_resumed_and_outlives_the_server(
    tmp_path: Path, tiny_backbone: Path, open_page: Open, server: Server
) -> None:
    """Prepare a large scene → cancel → go on → kill the server in mid-job → start it again → the features are there."""
    scene = write_raster(tmp_path / "large.tif", np.tile(landscape(), (1, 4, 4)), names=("red", "green", "blue"))
    own = Server(tmp_path, tmp_path / "work", [str(scene), "--backbone", str(tiny_backbone)], free_port())
    (own.work / "cache").mkdir(parents=True)
    (own.work / "cache" / "tour-seen").touch()
    own.start()
    store = JobStore(own.work / "jobs")
    try:
        watched = open_page(own.url)
        page = watched.page
        tiles_shown(watched)
        go(watched, "Explore")
        page.get_by_role("button", name="Prepare this scene").click()
        page.get_by_role("button", name="Cancel").click()
        job = _only_job(store)
        _until(lambda: store.status(job).state is State.cancelled)
        assert not list(own.work.glob("cache/features/*.zarr"))

        go(watched, "Jobs")
        page.get_by_text("cancelled", exact=True).wait_for()
        page.get_by_role("button", name="Go on").click()
        _until(lambda: store.status(job).state is State.running)
        own.stop(signal.SIGKILL)
        assert store.status(job).state in {State.running, State.done}
        own.start()
        again = open_page(own.url)
        go(again, "Jobs")
        again.page.get_by_text("done", exact=True).wait_for()
        assert store.status(job).state is State.done
        (features,) = own.work.glob("cache/features/*.zarr")
        go(again, "Explore")
        again.page.get_by_role("button", name="Show principal components").click()
        again.page.locator(".gd-name", has_text="PCA of large").wait_for()
        assert features.is_dir()
        assert again.maps_made() == 1
        assert again.quiet(), (again.external, again.errors)
    finally:
        own.stop()
        for one in store.jobs():
            store.cancel(one.id)


def _only_job(store: JobStore) -> str:
    (job,) = store.jobs()
    return job.id


def _until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_MS / 1000
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_names_are_text_and_never_markup(server: Server, open_page: Open, tmp_path: Path) -> None:
    """A file called like HTML is shown as it is called, in the layer list, the page and the values."""
    evil = "<img src=x onerror=document.title='owned'>"
    path = server.work / "uploads" / f"{evil.replace('/', '')}.tif"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_raster(path, landscape(size=64), names=("<b>red</b>", "<script>1</script>", "**blue**"))
    watched = open_page(server.url)
    page = watched.page
    tiles_shown(watched)
    page.get_by_text("Add a scene").click()
    page.get_by_role("textbox", name="Path", exact=True).fill(str(path))
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Add to the map", exact=True).click()
    page.locator(".gd-name", has_text="<img src=x").wait_for()
    page.get_by_text("About this layer").click()
    page.get_by_text("Footprint").wait_for()
    page.locator("path.leaflet-interactive").wait_for(state="attached")  # and on the map
    still(watched)
    watched.look("scenes-long-name")
    assert page.title() != "owned"
    assert page.locator("img[src=x]").count() == 0
    refused = page.get_by_role("textbox", name="Path", exact=True)
    page.get_by_text("Add a scene").click()  # it closed when the scene was added
    refused.fill("/etc/passwd")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Add to the map", exact=True).click()
    page.get_by_text("lies outside the allowed folders").wait_for()
    watched.look("scenes-refused")
    path.unlink()
    assert watched.maps_made() == 1
    assert watched.quiet(), (watched.external, watched.errors)


def test_sessions_are_separate_and_the_tour_ends_for_good(server: Server, open_page: Open) -> None:
    seen = server.work / "cache" / "tour-seen"
    seen.unlink()
    first, second = open_page(server.url), open_page(server.url)
    tiles_shown(first)
    tiles_shown(second)
    first.page.get_by_text("Tour 1 of 6").wait_for()
    first.page.get_by_role("button", name="Next").click()
    first.page.get_by_text("Tour 2 of 6").wait_for()
    first.look("tour")
    first.page.get_by_role("button", name="End the tour").click()
    first.page.get_by_text("Tour 2 of 6").wait_for(state="detached")
    still(first)
    assert seen.exists()
    first.page.get_by_role("button", name="Remove from the map").click()
    first.page.locator(".gd-name").nth(1).wait_for(state="detached")
    assert second.page.locator(".gd-name").count() == 2
    assert first.quiet() and second.quiet()


def test_pages_without_anything_say_what_to_do(tmp_path: Path, tiny_backbone: Path, open_page: Open) -> None:
    """A server without a scene, from a phone: every page is reached, says how to begin, and fits."""
    own = Server(tmp_path, tmp_path / "work", ["--backbone", str(tiny_backbone)], free_port())
    own.start()
    try:
        watched = open_page(own.url, width=390, height=844)
        page = watched.page
        page.get_by_text("Tour 1 of 6").wait_for()
        page.get_by_role("button", name="End the tour").click()
        marks = {
            "Explore": "then look at it through the backbone", "Segment": "then draw a few examples",
            "Change": "then compare two dates", "Jobs": "No job yet", "Training": "No run in the allowed folders yet",
            "Scenes": "Add a scene",
        }  # fmt: skip
        for name, mark in marks.items():
            go(watched, name)
            page.get_by_text(mark).first.wait_for()
            still(watched)
            watched.look(f"empty-{name.lower()}")
            page.set_viewport_size({"width": 390, "height": 844})
        assert watched.maps_made() == 1
        assert watched.quiet(), (watched.external, watched.errors)
    finally:
        own.stop()
