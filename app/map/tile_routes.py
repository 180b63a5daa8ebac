"""Routes beside Streamlit's own, on the same port: tiles, values, downloads, and the map's JavaScript."""

import asyncio
import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import cache, partial
from pathlib import Path

import numpy as np
from cachetools import LRUCache
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from app.map.registry import PREFIX, Registry
from app.map.render import TILE, png, read_point, render
from tiles.errors import InputError

BUNDLE = Path(__file__).parents[1] / "frontend" / "dist" / "map.js"
FOREVER = {"Cache-Control": "private, max-age=31536000, immutable"}
CACHE_BYTES = 192 * 1024 * 1024
LAST_ZOOM = 24

# GDAL lets go of the interpreter while it reads and warps; more threads than this only compete for its caches.
_pool = ThreadPoolExecutor(max_workers=min(8, 2 * (os.cpu_count() or 2)), thread_name_prefix="tile")

EMPTY_TILE = png(np.zeros((TILE, TILE, 4), dtype=np.uint8))


@dataclass(frozen=True)
class Answers:
    """What the browser is given beside Streamlit's pages.

    Attributes:
        registry: What it may ask for.
        tiles: Tiles that were made lately; touched by the server's one event loop only.
    """

    registry: Registry
    tiles: LRUCache = field(default_factory=partial(LRUCache, CACHE_BYTES, len))

    async def tile(self, request: Request) -> Response:
        """PNG of a tile; empty where there is nothing, 404 for an unknown layer or an impossible address."""
        layer, z, x, y = (request.path_params[name] for name in ("layer", "z", "x", "y"))
        painted = self.registry.layer(layer)
        if painted is None or not 0 <= z <= LAST_ZOOM or not (0 <= x < 2**z and 0 <= y < 2**z):
            return Response(status_code=404)
        headers = {"ETag": f'"{layer}-{z}-{x}-{y}"', **FOREVER}
        if request.headers.get("if-none-match") == headers["ETag"]:
            return Response(status_code=304, headers=headers)
        made = self.tiles.get((layer, z, x, y))
        if made is None:
            if await request.is_disconnected():  # a tile that was scrolled away while it waited is not worth reading
                return Response(status_code=204)
            work = partial(render, painted.source, painted.style, z, x, y)
            try:
                made = await asyncio.get_running_loop().run_in_executor(_pool, work) or b""
            except (InputError, OSError) as error:
                return JSONResponse({"error": str(error)}, status_code=500)
            self.tiles[layer, z, x, y] = made
        return Response(made or EMPTY_TILE, media_type="image/png", headers=headers)

    async def point(self, request: Request) -> Response:
        """Values of a layer at a place."""
        painted = self.registry.layer(request.path_params["layer"])
        try:
            lng, lat = float(request.query_params["lng"]), float(request.query_params["lat"])
        except (KeyError, ValueError):
            return Response(status_code=400)
        if painted is None or not (-360 <= lng <= 360 and -90 <= lat <= 90):
            return Response(status_code=404)
        found = await asyncio.get_running_loop().run_in_executor(_pool, read_point, painted.source, lng, lat)
        return JSONResponse({"values": [asdict(one) for one in found]})

    async def download(self, request: Request) -> Response:
        """A file that a page offered, streamed from the disk."""
        path = self.registry.file(request.path_params["file"])
        if path is None or not path.is_file():
            return Response(status_code=404)
        return FileResponse(path, filename=path.name, headers={"X-Content-Type-Options": "nosniff"})


async def bundle(request: Request) -> Response:
    """The map's JavaScript, at an address that changes with it."""
    if request.path_params["name"] != bundle_name():
        return Response(status_code=404)
    return FileResponse(BUNDLE, media_type="text/javascript", headers=FOREVER)


@cache
def bundle_name() -> str:
    """File name of the map's JavaScript, with a digest of its content.

    Raises:
        InputError: Where the frontend has not been built.
    """
    if not BUNDLE.exists():
        raise InputError(
            "the web map's JavaScript has not been built; run: make frontend (or install geodino from a wheel)."
        )
    return f"map-{hashlib.sha256(BUNDLE.read_bytes()).hexdigest()[:16]}.js"


def routes(registry: Registry) -> list[Route]:
    """The routes of one server."""
    answers = Answers(registry)
    return [
        Route(f"{PREFIX}/tiles/{{layer}}/{{z:int}}/{{x:int}}/{{y:int}}.png", answers.tile),
        Route(f"{PREFIX}/tiles/{{layer}}/point", answers.point),
        Route(f"{PREFIX}/files/{{file}}", answers.download),
        Route(f"{PREFIX}/assets/{{name}}", bundle),
    ]
