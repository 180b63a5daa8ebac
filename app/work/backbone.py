"""The server's backbone: loaded once, used by every session."""

import threading
from pathlib import Path
from typing import TYPE_CHECKING

from geodino.backbones.card import CARD_FILE, PACKAGED, read_card

if TYPE_CHECKING:
    from geodino.backbones.backbone import Backbone

_loaded: dict[str | None, "Backbone"] = {}
_lock = threading.Lock()


def backbone(name: str | None) -> "Backbone":
    """The backbone that the server was started with, as for ``--backbone``; None for the packaged one.

    Raises:
        InputError: Where it cannot be loaded; the sentence says why.
    """
    from geodino.backbones.backbone import load_backbone  # PyTorch, which no page needs to be drawn

    with _lock:
        if name not in _loaded:
            _loaded[name] = load_backbone(name)
        return _loaded[name]


def weights_hash(name: str | None) -> str:
    """SHA-256 of its weights: from the card beside them, else by loading it.

    Raises:
        InputError: Where the card cannot be read, or the backbone not be loaded.
    """
    card = (PACKAGED if name in {None, "packaged"} else Path(str(name))) / CARD_FILE
    return (card.is_file() and read_card(card).weights_hash) or backbone(name).hash
