"""Fixtures of the web map's tests: a workspace, a running server, a real browser."""

import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # the tests' own helpers are no package

from app_testing import BROWSERS, QUIET_BROWSER, WAIT_MS, Server, Watched, free_port, landscape, write_raster

from app.store.workspace import Workspace

if TYPE_CHECKING:
    from playwright.sync_api import Browser


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.at(tmp_path / "work", allow=(tmp_path,))


@pytest.fixture(scope="session")
def tiny_backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an untrained backbone: enough for everything but accuracy."""
    from geodino.backbones.backbone import save_backbone, untrained_backbone

    folder = tmp_path_factory.mktemp("backbone") / "tiny"
    model = untrained_backbone("vit_small_patch16_dinov3", depth=2)
    assert model.card is not None
    save_backbone(model.module, model.card, folder)
    return folder


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, tiny_backbone: Path) -> Iterator[Server]:
    """A server with two dates of one generated place, the older one first; the features of both have been prepared."""
    folder = tmp_path_factory.mktemp("app")
    if not (Path(__file__).parents[2] / "app/frontend/dist/map.js").exists():
        pytest.skip("the map's JavaScript has not been built: run make frontend")
    names = ("red", "green", "blue")
    write_raster(folder / "before.tif", landscape(1), names=names)
    write_raster(folder / "after.tif", landscape(2, built=True), names=names)
    work = folder / "work"
    (work / "cache").mkdir(parents=True)
    (work / "cache" / "tour-seen").touch()
    arguments = [str(folder / "before.tif"), str(folder / "after.tif"), "--backbone", str(tiny_backbone)]
    running = Server(folder, work, arguments, free_port())
    running.launch()
    try:
        _prepare(work, folder / "before.tif", folder / "after.tif", tiny_backbone)
        running.wait()
    except BaseException:
        running.stop()
        raise
    yield running
    running.stop()


def _prepare(work: Path, before: Path, after: Path, backbone: Path) -> None:
    """Write the features where the app looks for them, as its own jobs would (one test has the app do it)."""
    import geodino
    from app.map.source import open_source
    from app.pages.features_box import cube_path

    workspace = Workspace.at(work, backbone=str(backbone))
    for scene in (before, after):
        geodino.features(scene, cube_path(workspace, open_source(scene)), backbone=backbone)


@pytest.fixture(scope="session")
def browser() -> Iterator["Browser"]:
    """The machine's Chromium; the tests skip, saying so, where there is none."""
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"no browser here (looked for {', '.join(BROWSERS)})")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=found, args=QUIET_BROWSER)
        yield launched
        launched.close()


@pytest.fixture
def open_page(browser: "Browser", request: pytest.FixtureRequest) -> Iterator[Callable[..., Watched]]:
    """Open an address in a tab of its own, watched; a screenshot is kept where the test fails."""
    contexts = []
    opened: list[Watched] = []

    def make(url: str, *, width: int = 1440, height: int = 900, dark: bool = False) -> Watched:
        context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light", accept_downloads=True
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(WAIT_MS)
        watched = Watched(page)
        opened.append(watched)
        own = re.compile(r"^(https?|wss?)://127\.0\.0\.1[:/]|^(data|blob):")
        page.on("request", lambda asked: None if own.match(asked.url) else watched.external.append(asked.url))
        page.on("websocket", lambda made: None if own.match(made.url) else watched.external.append(made.url))
        page.on("console", lambda said: watched.errors.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: watched.errors.append(str(error)))
        page.goto(url)
        return watched

    yield make
    for number, watched in enumerate(opened):
        if os.environ.get("GEODINO_KEEP") or request.node.stash.get(FAILED, False):
            watched.keep(f"failed-{request.node.name}-{number}")
    for context in contexts:
        context.close()


FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    outcome = yield
    if outcome.get_result().failed and call.when == "call":
        item.stash[FAILED] = True
