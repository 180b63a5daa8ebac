"""A picture of the map with its legend, scale and names: PNG, for a report."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from app.map.layers import Layer
from app.map.render import TILE, paint, read_tile
from app.map.style import CHANGE_COLOR, Paint, ramp_colors
from tiles.writing.outputs import replacing

WIDTH = 1600
MARGIN, LINE = 24, 26
MOST_TILES = 60
_MERCATOR_M = 40_075_016.686


@dataclass(frozen=True)
class _View:
    """Tiles that cover some bounds: zoom, first and last column and row."""

    zoom: int
    left: float
    top: float
    right: float
    bottom: float


def draw_map(layers: list[Layer], bounds: tuple[float, float, float, float], path: Path, title: str) -> Path:
    """Write the visible layers over some bounds as a PNG with a legend beside it.

    Args:
        layers: Top first.
        bounds: West, south, east, north in degrees.
        path: Where.
        title: Over the legend.
    """
    shown = [layer for layer in layers if layer.visible]
    view = _view(bounds)
    picture = Image.new(
        "RGBA", (round((view.right - view.left) * TILE), round((view.bottom - view.top) * TILE)), "#ffffff"
    )
    for layer in reversed(shown):
        picture.alpha_composite(_layer(layer, view, picture.size))
    if picture.width > WIDTH:
        picture = picture.resize((WIDTH, round(picture.height * WIDTH / picture.width)))
    page = _page(picture, shown, title, bounds)
    with replacing(path) as part:
        page.convert("RGB").save(part, "PNG")
    return path


def _view(bounds: tuple[float, float, float, float]) -> _View:
    west, south, east, north = bounds

    def place(zoom: int) -> _View:
        size = 2.0**zoom
        x = [(lng + 180) / 360 * size for lng in (west, east)]
        y = [(1 - np.arcsinh(np.tan(np.radians(lat))) / np.pi) / 2 * size for lat in (north, south)]
        return _View(zoom, x[0], float(y[0]), x[1], float(y[1]))

    best = place(0)
    for zoom in range(1, 23):
        view = place(zoom)
        if (view.right - view.left) * (view.bottom - view.top) > MOST_TILES or (
            view.right - view.left
        ) * TILE > 2 * WIDTH:
            break
        best = view
    return best


def _layer(layer: Layer, view: _View, size: tuple[int, int]) -> Image.Image:
    canvas = Image.new("RGBA", size)
    for x in range(int(view.left), int(np.ceil(view.right))):
        for y in range(int(view.top), int(np.ceil(view.bottom))):
            smooth = layer.style.paint is not Paint.classes
            numbers = read_tile(layer.source, layer.style.channels, view.zoom, x % 2**view.zoom, y, smooth=smooth)
            if numbers is None:
                continue
            if layer.style.paint is Paint.score:
                cut = layer.style.threshold if layer.style.threshold is not None else 0.0
                painted = np.zeros((TILE, TILE, 4), dtype=np.uint8)
                painted[numbers.valid & (numbers.values[0] >= cut)] = (*bytes.fromhex(CHANGE_COLOR[1:]), 255)
            else:
                painted = paint(numbers, layer.style)
            painted[..., 3] = (painted[..., 3] * layer.opacity).astype(np.uint8)
            at = (round((x - view.left) * TILE), round((y - view.top) * TILE))
            canvas.paste(Image.fromarray(painted, "RGBA"), at)
    return canvas


def _page(
    picture: Image.Image, layers: list[Layer], title: str, bounds: tuple[float, float, float, float]
) -> Image.Image:
    side = 380
    rows = sum(2 + len(_legend(layer)) for layer in layers)
    height = max(picture.height, LINE * (rows + 5)) + 2 * MARGIN
    page = Image.new("RGBA", (picture.width + side + 3 * MARGIN, height), "#ffffff")
    page.paste(picture, (MARGIN, MARGIN))
    pen = ImageDraw.Draw(page)
    pen.rectangle((MARGIN - 1, MARGIN - 1, MARGIN + picture.width, MARGIN + picture.height), outline="#888888")
    font, small = ImageFont.load_default(18), ImageFont.load_default(15)
    x, y = picture.width + 2 * MARGIN, MARGIN
    pen.text((x, y), _fitted(title, font, side), fill="#111111", font=ImageFont.load_default(22))
    y += LINE + 14
    for layer in layers:
        pen.text((x, y), _fitted(layer.name, font, side), fill="#111111", font=font)
        y += LINE
        for color, text in _legend(layer):
            pen.rectangle((x, y + 2, x + 16, y + 18), fill=color, outline="#555555")
            pen.text((x + 26, y), _fitted(text, small, side - 26), fill="#222222", font=small)
            y += LINE
        y += LINE // 2
    _scale(pen, picture, bounds, small)
    return page


def _legend(layer: Layer) -> list[tuple[str, str]]:
    style = layer.style
    if style.paint in {Paint.classes, Paint.argmax}:
        return [(one.hex, one.name) for one in style.classes]
    if style.paint is Paint.score:
        return [(CHANGE_COLOR, f"above {style.threshold:.4g}")]
    if style.paint is Paint.ramp:
        low, high = style.stretch[0]
        colors = ramp_colors(style.ramp, 5)
        return [(color, f"{value:.4g}") for color, value in zip(colors, np.linspace(low, high, 5), strict=True)]
    names = [layer.source.channel_names[channel] for channel in style.channels]
    return list(zip(("#dd0000", "#00aa00", "#0044dd"), names, strict=False))


def _fitted(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


def _scale(
    pen: ImageDraw.ImageDraw,
    picture: Image.Image,
    bounds: tuple[float, float, float, float],
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
) -> None:
    """A bar of a round length in the lower left corner."""
    west, south, east, north = bounds
    metres = (east - west) / 360 * _MERCATOR_M * np.cos(np.radians((south + north) / 2)) / picture.width
    wanted = metres * picture.width / 4
    digit = 10 ** np.floor(np.log10(wanted))
    length = max(step * digit for step in (1, 2, 5) if step * digit <= wanted)
    x, y = MARGIN + 16, MARGIN + picture.height - 20
    end = x + length / metres
    pen.rectangle((x - 8, y - 26, end + 8, y + 10), fill="#ffffff")
    pen.line([(x, y - 6), (x, y), (end, y), (end, y - 6)], fill="#111111", width=2)
    pen.text((x, y - 24), f"{length / 1000:g} km" if length >= 1000 else f"{length:g} m", fill="#111111", font=font)
