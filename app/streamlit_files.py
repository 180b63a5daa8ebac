"""Streamlit's own browser files, answered from memory, with hints of what the first page will ask for next.

Opening the page asks for over a hundred small files; each would go through sessions, compression checks and a thread
pool to the disk. Here their names are known beforehand and their bytes are kept after the first reading. The hints
let the browser fetch the map's code while it still works on the page that will ask for it.
"""

import mimetypes
import re
from pathlib import Path

import streamlit
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.map.registry import PREFIX
from app.map.tile_routes import bundle_name

STATIC = Path(streamlit.__file__).parent / "static"
FOREVER = b"public, immutable, max-age=31536000"  # the names carry a digest of the content
COMPONENT = "BidiComponent"  # Streamlit's code that runs a component such as the map


class StreamlitFiles:
    """ASGI middleware around the whole server."""

    def __init__(self, app: ASGIApp, static: Path = STATIC) -> None:
        self._app = app
        self._static = static
        files = (path for path in (static / "static").rglob("*") if path.is_file())
        self._known = {f"/{path.relative_to(static).as_posix()}": path for path in files}
        self._held: dict[str, bytes] = {}
        self._link = ", ".join(f"<{address}>; rel=modulepreload; fetchpriority=low" for address in self._hinted())

    def _hinted(self) -> list[str]:
        """The map's code, Streamlit's code for components, and what that one imports beyond the page's own list."""
        index = self._static / "index.html"
        at_once = index.read_text() if index.exists() else ""
        found: list[str] = []
        wanted = [address for address, path in self._known.items() if path.match(f"{COMPONENT}.*.js")]
        while wanted:
            address = wanted.pop()
            name = address.rsplit("/", 1)[1]
            if address in self._known and address not in found and name not in at_once:
                found.append(address)
                text = self._known[address].read_text()
                folder = address.removesuffix(name)
                wanted += [folder + other for other in re.findall(r'from\s*["\']\./([\w.\-]+\.js)["\']', text)]
        return [f"{PREFIX}/assets/{bundle_name()}", *found]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a known file; let everything else pass, HTML with the hints."""
        if scope["type"] != "http" or scope["method"] != "GET":
            await self._app(scope, receive, send)
            return
        path = self._known.get(scope["path"])
        if path is None:
            await self._app(scope, receive, self._hinting(send))
            return
        body = self._held.get(scope["path"])
        if body is None:
            body = self._held[scope["path"]] = path.read_bytes()
        kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        headers = [
            (b"content-type", kind.encode()),
            (b"content-length", str(len(body)).encode()),
            (b"cache-control", FOREVER),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def _hinting(self, send: Send) -> Send:
        async def hinted(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                if headers.get("content-type", "").startswith("text/html"):
                    headers["Link"] = self._link
            await send(message)

        return hinted
