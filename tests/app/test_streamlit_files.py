"""The page's own files from memory: only those, byte for byte, with hints on the page itself."""

import urllib.request
from pathlib import Path

import pytest
from app_testing import serving
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route

from app.map import tile_routes
from app.streamlit_files import STATIC, StreamlitFiles


async def behind(request: Request) -> Response:
    """What Streamlit would answer."""
    return HTMLResponse("<html></html>") if request.url.path == "/" else PlainTextResponse("behind")


@pytest.fixture
def static(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "streamlit"
    (folder / "static" / "js").mkdir(parents=True)
    (folder / "index.html").write_text('<link rel="modulepreload" href="./static/js/known.js">')
    (folder / "static" / "js" / "BidiComponent.x1.js").write_text(
        'import{a}from"./middle.js";import{b}from"./known.js";'
    )
    (folder / "static" / "js" / "extra.js").write_text("export const a = 1")
    (folder / "static" / "js" / "middle.js").write_text("import{a}from'./extra.js'")
    (folder / "static" / "js" / "known.js").write_text("export const b = 1")
    (tmp_path / "secret.js").write_text("secret")
    bundle = tmp_path / "map.js"
    bundle.write_text("export default 1")
    monkeypatch.setattr(tile_routes, "BUNDLE", bundle)
    tile_routes.bundle_name.cache_clear()
    yield folder
    tile_routes.bundle_name.cache_clear()


def test_known_files_come_from_memory_and_everything_else_from_behind(static: Path) -> None:
    app = Starlette(routes=[Route("/{path:path}", behind)], middleware=[Middleware(StreamlitFiles, static=static)])
    with serving(app) as base:
        with urllib.request.urlopen(f"{base}/static/js/extra.js") as answer:
            assert answer.read() == b"export const a = 1"
            assert "javascript" in answer.headers["Content-Type"]
            assert "immutable" in answer.headers["Cache-Control"]
        (static / "static" / "js" / "extra.js").unlink()
        with urllib.request.urlopen(f"{base}/static/js/extra.js") as answer:
            assert answer.read() == b"export const a = 1"
        for path in ("static/js/other.js", "static/..%2f..%2fsecret.js", "index.html", "_stcore/health"):
            with urllib.request.urlopen(f"{base}/{path}") as answer:
                assert answer.read() == b"behind"
                assert answer.headers["Link"] is None
        with urllib.request.urlopen(base + "/") as answer:
            hints = answer.headers["Link"]
    assert tile_routes.bundle_name() in hints
    assert "/static/js/BidiComponent.x1.js" in hints
    assert "/static/js/middle.js" in hints and "/static/js/extra.js" in hints
    assert "known.js" not in hints  # the page itself asks for it


def test_streamlit_has_the_files_that_are_hinted_at() -> None:
    """Another release may call them differently; the page would open a little later."""
    assert list((STATIC / "static" / "js").glob("BidiComponent.*.js"))
