"""The pages of the web map; each module has one function, ``show``, that draws its page.

A page's module is imported when the page is first opened: the first one must not wait for PyTorch.
"""

import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module

import streamlit as st


@dataclass(frozen=True)
class Page:
    """An entry of the navigation."""

    title: str
    icon: str
    path: str

    @property
    def module(self) -> str:
        """Name of the Python module that draws the page."""
        return f"app.pages.{self.path}"

    @property
    def show(self) -> Callable[[], None]:
        """The function that draws the page."""
        return partial(_show, self.module)


def _show(module: str) -> None:
    if module not in sys.modules:
        with st.spinner("Loading the page"):
            import_module(module)
    import_module(module).show()


PAGES = (
    Page("Scenes", ":material/layers:", "scenes"),
    Page("Explore", ":material/travel_explore:", "explore"),
    Page("Segment", ":material/category:", "segment"),
    Page("Change", ":material/difference:", "change"),
    Page("Jobs", ":material/pending_actions:", "jobs"),
    Page("Training", ":material/model_training:", "training"),
)

WARM_AFTER_S = 4.0  # the first tiles come before what nobody has asked for yet
_warming = threading.Lock()


def warm_up() -> None:
    """Import the other pages in the background, once, after the first one has been drawn."""
    if _warming.acquire(blocking=False):  # never released: once a process

        def run() -> None:
            time.sleep(WARM_AFTER_S)
            for module in (*(page.module for page in PAGES), "distributed"):  # the last one for the first job
                import_module(module)

        threading.Thread(target=run, name="warm-up", daemon=True).start()
