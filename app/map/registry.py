"""Layers and files that the browser may ask for, by ids that cannot be guessed.

The browser never names a path: it names an id that a page registered. An id is a keyed digest of what is shown and
how, so the same picture has the same address for everybody and after a restart (browsers keep their tiles), and
another picture has another one (no stale tile).
"""

import hmac
import json
import os
import secrets
import threading
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from app.map.source import Source
from app.map.style import Style

PREFIX = "/geodino"  # of the addresses of pictures and files


@dataclass(frozen=True)
class Painted:
    """A source and how it is painted."""

    source: Source
    style: Style


class Registry:
    """What this server shows; safe to use from any thread."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._layers: dict[str, Painted] = {}
        self._files: dict[str, Path] = {}
        self._lock = threading.Lock()

    def add(self, source: Source, style: Style) -> str:
        """Register a picture; returns its id, which a threshold does not change: the browser applies that."""
        painted = asdict(replace(style, threshold=None))
        told = json.dumps([source.fingerprint, source.parts, painted], sort_keys=True, default=str)
        layer = self._digest("layer", told)
        with self._lock:
            self._layers[layer] = Painted(source, style)
        return layer

    def layer(self, layer: str) -> Painted | None:
        """The picture of an id."""
        with self._lock:
            return self._layers.get(layer)

    def add_file(self, path: Path) -> str:
        """Register a file for download; returns its id, which changes with the file."""
        found = path.stat()
        file = self._digest("file", f"{path}:{found.st_size}:{found.st_mtime_ns}")
        with self._lock:
            self._files[file] = path
        return file

    def file(self, file: str) -> Path | None:
        """The file of an id."""
        with self._lock:
            return self._files.get(file)

    def _digest(self, kind: str, text: str) -> str:
        return hmac.new(self._secret, f"{kind}:{text}".encode(), "sha256").hexdigest()[:32]


def stored_secret(file: Path) -> bytes:
    """The server's key, made at first use and readable by its owner only."""
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "wb") as target:
            target.write(secrets.token_bytes(32))
    return file.read_bytes()
