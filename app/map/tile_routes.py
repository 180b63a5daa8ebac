"""Routes beside Streamlit's own, on the same port: tiles, values, downloads, and the map's JavaScript."""

import asyncio
import hashlib
import os
import threading
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import cache
from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from app.map.render import read_point, render
from app.store.workspace import current
from tiles.errors import InputError

BUNDLE = Path(__file__).parents[1] / "frontend" / "dist" / "map.js"
PREFIX = "/geodino"
FOREVER = {"Cache-Control": "private, max-age=31536000, immutable"}
CACHE_BYTES = 192 * 1024 * 1024
LAST_ZOOM = 24

# GDAL lets go of the interpreter while it reads and warps; more threads than this only compete for its caches.
_pool = ThreadPoolExecutor(max_workers=min(8, 2 * (os.cpu_count() or 2)), thread_name_prefix="tile")


class TileCache:
    """The newest tiles as PNG, within a number of bytes."""

    def __init__(self, most_bytes: int) -> None:
        self._most, self._held = most_bytes, 0
        self._tiles: OrderedDict[tuple[str, int, int, int], bytes] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: tuple[str, int, int, int]) -> bytes | None:
        """The tile, if it is still held."""
        with self._lock:
            tile = self._tiles.get(key)
            if tile is not None:
                self._tiles.move_to_end(key)
            return tile

    def put(self, key: tuple[str, int, int, int], tile: bytes) -> None:
        """Hold a tile; the ones unused for longest go."""
        with self._lock:
            self._held += len(tile) - len(self._tiles.pop(key, b""))
            self._tiles[key] = tile
            while self._held > self._most:
                _, oldest = self._tiles.popitem(last=False)
                self._held -= len(oldest)


_tiles = TileCache(CACHE_BYTES)


async def tile(request: Request) -> Response:
    """PNG of a tile; 204 where it is empty, 404 for an unknown layer or an impossible address."""
    layer, z, x, y = (request.path_params[name] for name in ("layer", "z", "x", "y"))
    painted = current().registry.layer(layer)
    if painted is None or not 0 <= z <= LAST_ZOOM or not (0 <= x < 2**z and 0 <= y < 2**z):
        return Response(status_code=404)
    tag = f'"{layer}-{z}-{x}-{y}"'
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers={"ETag": tag, **FOREVER})
    key = (layer, z, x, y)
    held = _tiles.get(key)
    if held is None:
        # A tile that was scrolled away while it waited is not worth reading.
        def make() -> bytes:
            return render(painted.source, painted.style, z, x, y) or b""

        if await request.is_disconnected():
            return Response(status_code=204)
        try:
            held = await asyncio.get_running_loop().run_in_executor(_pool, make)
        except (InputError, OSError) as error:
            return JSONResponse({"error": str(error)}, status_code=500)
        _tiles.put(key, held)
    if not held:
        return Response(EMPTY_TILE, media_type="image/png", headers={"ETag": tag, **FOREVER})
    return Response(held, media_type="image/png", headers={"ETag": tag, **FOREVER})


async def point(request: Request) -> Response:
    """Values of a layer at a place."""
    painted = current().registry.layer(request.path_params["layer"])
    try:
        lng, lat = float(request.query_params["lng"]), float(request.query_params["lat"])
    except (KeyError, ValueError):
        return Response(status_code=400)
    if painted is None or not (-360 <= lng <= 360 and -90 <= lat <= 90):
        return Response(status_code=404)
    found = await asyncio.get_running_loop().run_in_executor(_pool, read_point, painted.source, lng, lat)
    return JSONResponse({"values": [asdict(one) for one in found]})


async def download(request: Request) -> Response:
    """A file that a page offered, streamed from the disk."""
    path = current().registry.file(request.path_params["file"])
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


def _empty_tile() -> bytes:
    import numpy as np

    from app.map.render import TILE, png

    return png(np.zeros((TILE, TILE, 4), dtype=np.uint8))


EMPTY_TILE = _empty_tile()

ROUTES = [
    Route(f"{PREFIX}/tiles/{{layer}}/{{z:int}}/{{x:int}}/{{y:int}}.png", tile),
    Route(f"{PREFIX}/tiles/{{layer}}/point", point),
    Route(f"{PREFIX}/files/{{file}}", download),
    Route(f"{PREFIX}/assets/{{name}}", bundle),
]
