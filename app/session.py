"""What belongs to one analyst's browser tab: layers, the part of the world in view, and what a page remembers."""

from dataclasses import dataclass, field
from typing import Any

import streamlit as st

from app.layers import LayerList
from app.workspace import Workspace, current

Bounds = tuple[float, float, float, float]


@dataclass
class Session:
    """One tab's state; pages keep their own things in ``st.session_state``.

    Attributes:
        layers: The layer tree.
        fit: Name and bounds of the last place that a page asked to show.
    """

    layers: LayerList
    fit: tuple[str, Bounds] | None = None
    fits: int = 0
    notes: dict[str, Any] = field(default_factory=dict)

    def look_at(self, bounds: Bounds) -> None:
        """Bring bounds (degrees) into view at the next drawing of the map."""
        self.fits += 1
        self.fit = (str(self.fits), bounds)


def session() -> Session:
    """This tab's state, begun with the scenes that the server was started on."""
    if "geodino" not in st.session_state:
        st.session_state.geodino = _begin(current())
    return st.session_state.geodino


def _begin(workspace: Workspace) -> Session:
    begun = Session(LayerList())
    for source in reversed(workspace.scenes):
        begun.layers.add(workspace, source)
    if workspace.scenes:
        begun.look_at(workspace.scenes[0].bounds)
    return begun
