"""The box on the Segment page with the classes: names, colours, and how many examples each has."""

from collections import Counter

import geopandas
import streamlit as st

from app.map.component import EMPTY, examples
from app.map.source import ClassColor
from app.store.session import Session
from geodino.heads.legend import palette

ONE_ROW = {"horizontal": True, "vertical_alignment": "center", "gap": "small"}  # on a phone too, unlike columns


def class_list(mine: Session) -> None:
    """Draw the box."""
    counts = Counter(int(feature["properties"].get("class", 0)) for feature in mine.drawn["features"])
    with st.expander(f"Classes and examples ({counts.total()})", icon=":material/edit:", expanded=True):
        kept = [edited for one in mine.classes if (edited := _row(one, counts[one.value], len(mine.classes) > 1))]
        taken_away = len(kept) < len(mine.classes)
        mine.classes = kept
        if taken_away:
            values = {one.value for one in kept}
            left = [feature for feature in mine.drawn["features"] if feature["properties"].get("class") in values]
            mine.replace_examples({"type": "FeatureCollection", "features": left})
            st.rerun()
        with st.container(horizontal=True):
            add = st.button("Class", icon=":material/add:", help="Add a class")
            clear = st.button("Clear", icon=":material/ink_eraser:", help="Take all examples away", disabled=not counts)
        if add:
            value = 1 + max((one.value for one in mine.classes), default=0)
            mine.classes.append(ClassColor(value, f"class {value}", palette(value - 1)))
            st.rerun()
        if clear:
            mine.replace_examples(dict(EMPTY))
            st.rerun()
        st.caption("Choose a class on the map, then draw a point, line, box or polygon. U takes the last step back.")


def _row(one: ClassColor, count: int, removable: bool) -> ClassColor | None:
    """One class as the analyst has it now; None where it is taken away."""
    name, picked = f"class-name-{one.value}", f"class-color-{one.value}"
    with st.container(**ONE_ROW):
        color = st.color_picker("Colour", one.hex, key=picked, label_visibility="collapsed", width=44)
        text = st.text_input("Name", one.name, key=name, label_visibility="collapsed", max_chars=60, width=150)
        st.caption(str(count), width=24)
        gone = st.button(
            "", key=f"class-gone-{one.value}", icon=":material/close:", help="Take this class away", type="tertiary",
            width=24,
        )  # fmt: skip
    if gone and removable:
        return None
    return ClassColor.of(one.value, text.strip() or one.name, color)


def drawn_examples(mine: Session) -> geopandas.GeoDataFrame:
    """What was drawn, see `app.map.component.examples`."""
    return examples(mine.drawn, tuple(mine.classes))


def why_not(mine: Session) -> str | None:
    """Why the examples make no map yet: a sentence, or None where they do."""
    if len({one.name for one in mine.classes}) < len(mine.classes):
        return "Two classes have the same name; give each its own."
    if drawn_examples(mine)["class"].nunique() < 2:
        return "Draw examples of two classes or more; the map follows at once."
    return None
