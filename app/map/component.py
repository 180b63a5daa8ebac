"""The map on a page: the Streamlit component, what is sent to it and what comes back as GeoPandas."""

from dataclasses import dataclass, field
from typing import Any

import geopandas
import streamlit as st

from app.map.layers import LayerList, for_browser
from app.map.registry import PREFIX, Registry
from app.map.source import ClassColor
from app.map.tile_routes import bundle_name

HEIGHT = 680  # pixels
KEY = "geodino_map"
EMPTY: dict[str, Any] = {"type": "FeatureCollection", "features": []}


@dataclass(frozen=True)
class VectorLayer:
    """Polygons on the map.

    Attributes:
        key: Name within the session.
        name: Title.
        frame: Geometries in any CRS; the column ``id`` names each.
        color: ``#rrggbb``.
        revision: Changes when the frame does; what has not changed is not sent again as new.
        selected: ``id`` of the one that stands out.
    """

    key: str
    name: str
    frame: geopandas.GeoDataFrame
    color: str
    revision: str
    selected: str | None = None


@dataclass(frozen=True)
class DrawTool:
    """Drawing of examples by class.

    Attributes:
        classes: Classes to draw.
        features: GeoJSON that the map begins with at each new revision.
        revision: A new number makes the map take ``features``.
    """

    classes: tuple[ClassColor, ...]
    features: dict[str, Any] = field(default_factory=lambda: dict(EMPTY))
    revision: int = 0


@dataclass(frozen=True)
class MapResult:
    """What the analyst did on the map.

    Attributes:
        drawn: GeoJSON of the drawn features, or None before the first; and the revision that it goes back to.
        revision: See ``drawn``.
        arranged: Order, visibility and opacity of the layers, or None.
        threshold: Layer and value of a threshold that was moved, or None.
        clicked: Longitude and latitude of a click in this very run, or None.
        picked: Vector layer and id of a polygon clicked in this very run, or None.
    """

    drawn: dict[str, Any] | None
    revision: int | None
    arranged: list[dict[str, Any]] | None
    threshold: tuple[str, float] | None
    clicked: tuple[float, float] | None
    picked: tuple[str, str] | None


def _component() -> Any:
    """The component; its code comes from our own route, cached by the browser, instead of with every message."""
    # Streamlit loads this text from a blob, against which no address is relative; hence the whole address.
    address = f'new URL("{PREFIX}/assets/{bundle_name()}", window.location.origin).href'
    script = f"const map = await import({address});\nexport default map.default;\n"
    return st.components.v2.component("geodino_map", js=script)


def map_events() -> MapResult:
    """What was done on the map since the last run; known before the page is drawn, so that it can react at once."""
    told = st.session_state.get(KEY) or {}
    drawn, threshold, clicked, picked = (told.get(name) for name in ("drawn", "threshold", "clicked", "picked"))
    return MapResult(
        drawn=drawn["features"] if drawn else None,
        revision=drawn["revision"] if drawn else None,
        arranged=told.get("arranged"),
        threshold=(str(threshold["layer"]), float(threshold["value"])) if threshold else None,
        clicked=(float(clicked["lng"]), float(clicked["lat"])) if clicked else None,
        picked=(str(picked["layer"]), str(picked["id"])) if picked else None,
    )


def show_map(
    layers: LayerList,
    registry: Registry,
    *,
    vectors: tuple[VectorLayer, ...] = (),
    draw: DrawTool | None = None,
    pick: bool = False,
    fit: tuple[str, tuple[float, float, float, float]] | None = None,
    swipe: tuple[str, str] | None = None,
) -> None:
    """Show the session's map; the same map lives on through reruns and pages.

    Args:
        layers: What to show, top first.
        registry: The server's.
        vectors: Polygons above the layers.
        draw: Drawing tools, or None.
        pick: Whether a click comes back as ``clicked``.
        fit: A name and west, south, east, north in degrees: each new name brings these bounds into view.
        swipe: Keys of the layers to begin comparing.
    """
    if "map_component" not in st.session_state:
        st.session_state.map_component = _component()
    data = {
        "map": "main",
        "layers": [for_browser(layer, registry) for layer in layers.layers],
        "vectors": [_vectors(one) for one in vectors],
        "draw": _draw(draw) if draw else None,
        "fit": {"token": fit[0], "bounds": [[fit[1][1], fit[1][0]], [fit[1][3], fit[1][2]]]} if fit else None,
        "pick": pick,
        "swipe": list(swipe) if swipe else None,
        "height": HEIGHT,
    }
    nothing = {f"on_{name}_change": _ignore for name in ("drawn", "arranged", "threshold", "clicked", "picked")}
    st.session_state.map_component(key=KEY, data=data, **nothing)


def _ignore() -> None:
    """Streamlit asks for a function to know the names; the values are read from the result."""


def _vectors(one: VectorLayer) -> dict[str, Any]:
    told = {"id": one.key, "name": one.name, "revision": one.revision, "color": one.color, "selected": one.selected}
    return {**told, "geojson": one.frame.to_crs(4326)[["id", "geometry"]].__geo_interface__}


def _draw(tool: DrawTool) -> dict[str, Any]:
    classes = [{"id": one.value, "name": one.name, "color": one.hex} for one in tool.classes]
    return {"revision": tool.revision, "classes": classes, "features": tool.features}


def examples(features: dict[str, Any] | None, classes: tuple[ClassColor, ...]) -> geopandas.GeoDataFrame:
    """Drawn features in EPSG:4326: ``id``, ``class`` (a name), its ``color`` (``#rrggbb``) and ``geometry``."""
    known = {one.value: one for one in classes}
    found = [one for one in (features or EMPTY)["features"] if one["properties"].get("class") in known]
    if not found:
        return geopandas.GeoDataFrame({"id": [], "class": [], "color": []}, geometry=[], crs=4326)
    frame = geopandas.GeoDataFrame.from_features(found, crs=4326)
    drawn = [known[value] for value in frame["class"]]
    frame["class"], frame["color"] = [one.name for one in drawn], [one.hex for one in drawn]
    return frame[["id", "class", "color", "geometry"]]
