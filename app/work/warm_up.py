"""What the first click, job or chart would wait for, loaded in the background once the first page has been drawn."""

import os
import sys
import threading
import time
from contextlib import suppress
from functools import cache
from importlib import import_module

from app.work.backbone import backbone
from tiles.errors import InputError

AFTER_S = 4.0  # the first tiles come before what nobody has asked for yet
MODULES = ("sklearn.linear_model", "geodino.dense.quicklook", "app.work.attention", "distributed", "altair")


@cache  # once a process
def warm_up(name: str | None) -> None:
    """Begin to load the libraries and the backbone that a server was started with."""
    threading.Thread(target=_load, args=(name,), name="warm-up", daemon=True).start()


def _load(name: str | None) -> None:
    if sys.platform == "linux":  # where a thread has a priority of its own: what is asked for comes first
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
    time.sleep(AFTER_S)
    for module in MODULES:
        import_module(module)
    with suppress(InputError):  # the page that needs it says why it cannot be loaded
        backbone(name)
