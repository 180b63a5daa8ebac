"""Scenes: what is on the map."""

import streamlit as st

from app.mapview import show_map
from app.session import session
from app.workspace import current


def show() -> None:
    """Draw the page."""
    mine = session()
    result = show_map(mine.layers, current(), fit=mine.fit)
    if result.arranged:
        mine.layers.arrange(result.arranged)
