"""The layers of one session, as an ordered list: what the layer tree shows, top first."""

import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from app.map.registry import PREFIX, Registry
from app.map.source import LAST_ZOOM, Meaning, Source
from app.map.style import CHANGE_COLOR, Paint, Style, ramp_colors


@dataclass(frozen=True)
class Layer:
    """One entry of the layer tree.

    Attributes:
        key: Name of the entry within the session; survives a change of its style.
        source: What is shown.
        style: How.
        name: Title.
        visible: Whether it is on.
        opacity: 0 to 1.
    """

    key: str
    source: Source
    style: Style
    name: str
    visible: bool = True
    opacity: float = 1.0


@dataclass
class LayerList:
    """Layers, top first."""

    layers: list[Layer] = field(default_factory=list)

    def add(
        self, source: Source, style: Style, *, key: str | None = None, name: str | None = None, opacity: float = 1.0
    ) -> Layer:
        """Put a source on top, or in the place of the layer with the same ``key``."""
        layer = Layer(key or secrets.token_hex(4), source, style, name or source.name, opacity=opacity)
        for index, old in enumerate(self.layers):
            if old.key == layer.key:
                self.layers[index] = replace(layer, visible=old.visible, opacity=old.opacity)
                return self.layers[index]
        self.layers.insert(0, layer)
        return layer

    def get(self, key: str | None) -> Layer | None:
        """The layer called ``key``."""
        return next((layer for layer in self.layers if layer.key == key), None)

    def remove(self, key: str) -> None:
        """Take a layer away."""
        self.layers = [layer for layer in self.layers if layer.key != key]

    def hide(self, key: str) -> None:
        """Let a layer begin switched off."""
        self.layers = [replace(layer, visible=False) if layer.key == key else layer for layer in self.layers]

    def restyle(self, key: str, style: Style) -> None:
        """Paint a layer differently."""
        self.layers = [replace(layer, style=style) if layer.key == key else layer for layer in self.layers]

    def arrange(self, arrangement: Iterable[dict[str, Any]]) -> None:
        """Take the order, visibility and opacity that the analyst gave the layers on the map."""
        entries = {str(entry["id"]): (index, entry) for index, entry in enumerate(arrangement)}
        known = [layer for layer in self.layers if layer.key in entries]
        known.sort(key=lambda layer: entries[layer.key][0])
        ordered = iter(known)
        self.layers = [_arranged(next(ordered), entries) if layer.key in entries else layer for layer in self.layers]

    def imagery(self) -> list[Layer]:
        """Layers that a backbone can look at."""
        return [layer for layer in self.layers if layer.source.meaning is Meaning.imagery]


def _arranged(layer: Layer, entries: dict[str, tuple[int, dict[str, Any]]]) -> Layer:
    entry = entries[layer.key][1]
    return replace(layer, visible=bool(entry["visible"]), opacity=min(1.0, max(0.0, float(entry["opacity"]))))


def for_browser(layer: Layer, registry: Registry) -> dict[str, Any]:
    """What the map component needs to know about a layer; the types are in app/frontend/src/types.ts."""
    address = registry.add(layer.source, layer.style)
    west, south, east, north = layer.source.bounds
    return {
        "id": layer.key,
        "name": layer.name,
        "url": f"{PREFIX}/tiles/{address}/{{z}}/{{x}}/{{y}}.png",
        "bounds": [[south, west], [north, east]],
        "maxNativeZoom": min(LAST_ZOOM, layer.source.max_zoom + layer.style.finer),
        "visible": layer.visible,
        "opacity": layer.opacity,
        "legend": _legend(layer.style),
        "threshold": _threshold(layer.style),
    }


def _legend(style: Style) -> dict[str, Any] | None:
    if style.paint in {Paint.classes, Paint.argmax}:
        return {"kind": "classes", "entries": [{"name": one.name, "color": one.hex} for one in style.classes]}
    if style.paint is Paint.ramp:
        low, high = style.stretch[0]
        entries = [{"name": "", "color": color} for color in ramp_colors(style.ramp)]
        return {"kind": "ramp", "entries": entries, "low": f"{low:.4g}", "high": f"{high:.4g}"}
    return None


def _threshold(style: Style) -> dict[str, Any] | None:
    if style.paint is not Paint.score or style.threshold is None:
        return None
    low, high = style.stretch[0]
    return {"low": low, "high": high, "value": style.threshold, "color": CHANGE_COLOR}
