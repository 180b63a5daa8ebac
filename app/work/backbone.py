"""The server's backbone: loaded once, used by every session."""

import threading

from geodino.backbones.backbone import Backbone, load_backbone

_loaded: dict[str | None, Backbone] = {}
_lock = threading.Lock()


def backbone(name: str | None) -> Backbone:
    """The backbone that the server was started with, as for ``--backbone``; None for the packaged one.

    Raises:
        InputError: Where it cannot be loaded; the sentence says why.
    """
    with _lock:
        if name not in _loaded:
            _loaded[name] = load_backbone(name)
        return _loaded[name]
