"""Two pictures of a tile set to look at before training on it: a contact sheet and a map of footprints."""

import math
from pathlib import Path

import numpy as np
import shapely
from PIL import Image, ImageDraw, ImageFont

from tiles.archive.dataset import TileDataset
from tiles.writing.outputs import replacing

CONTACT_SHEET = "contact_sheet.png"
FOOTPRINT_MAP = "footprints.png"
_THUMB, _GAP, _CAPTION = 128, 6, 14
_SHEET_TILES = 64
_PANEL = 420
_PANELS = 6
_COLOURS = ("#1b6ca8", "#c8553d", "#3a7d44", "#8e5ea2", "#b8860b", "#2f4f4f")
_INK, _PAPER, _LINE = "#222222", "#ffffff", "#c9ced6"


def write_previews(path: Path) -> None:
    """Write both pictures into the tile set's folder."""
    tiles = TileDataset(path)
    for name, picture in ((CONTACT_SHEET, contact_sheet(tiles)), (FOOTPRINT_MAP, footprint_map(tiles))):
        with replacing(path / name) as part:
            picture.save(part, "PNG")


def contact_sheet(tiles: TileDataset) -> Image.Image:
    """Up to 64 tiles, evenly taken, each with its sensor and pixel size; invalid pixels are magenta."""
    chosen = np.unique(np.linspace(0, len(tiles) - 1, min(_SHEET_TILES, len(tiles))).astype(np.int64))
    across = max(1, math.ceil(math.sqrt(len(chosen))))
    down = math.ceil(len(chosen) / across)
    cell = (_THUMB + _GAP, _THUMB + _CAPTION + _GAP)
    sheet = Image.new("RGB", (across * cell[0] + _GAP, down * cell[1] + _GAP), _PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(10)
    shown = _shown_bands(tiles.bands)
    sensors, gsd = tiles.column("sensor"), tiles.column("gsd_m")
    for place, i in enumerate(chosen):
        pixels = tiles.read_unit(int(i))
        rgb = (pixels.values[shown].transpose(1, 2, 0) * 255).round().astype(np.uint8)
        rgb[~pixels.valid] = (255, 0, 255)
        thumb = Image.fromarray(rgb).resize(
            (_THUMB, _THUMB), Image.Resampling.BOX if tiles.size > _THUMB else Image.Resampling.NEAREST
        )
        x, y = _GAP + (place % across) * cell[0], _GAP + (place // across) * cell[1]
        sheet.paste(thumb, (x, y))
        draw.text((x, y + _THUMB + 1), f"{sensors[i]} {gsd[i]:.3g} m"[:24], fill=_INK, font=font)
    return sheet


def _shown_bands(bands: tuple[str, ...]) -> list[int]:
    if {"red", "green", "blue"} <= set(bands):
        return [bands.index(name) for name in ("red", "green", "blue")]
    return [0, 1, 2] if len(bands) >= 3 else [0, 0, 0]


def footprint_map(tiles: TileDataset) -> Image.Image:
    """The world with every place marked, and the largest places each in a panel of its own, coloured by sensor."""
    wkb, sensors = tiles.column("geometry"), tiles.column("sensor")
    placed = np.flatnonzero([item is not None for item in wkb])
    shapes = shapely.from_wkb(wkb[placed]) if len(placed) else np.zeros(0, object)
    names = sorted(set(sensors[placed]))
    colours = {name: _COLOURS[i % len(_COLOURS)] for i, name in enumerate(names)}
    groups = _places(shapes)
    panels = [_world(shapes)]
    for members in groups[:_PANELS]:
        panels.append(_panel(shapes[members], [colours[sensors[placed[i]]] for i in members]))
    across = min(3, len(panels))
    down = math.ceil(len(panels) / across)
    legend = 24 + 16 * len(names)
    picture = Image.new("RGB", (across * (_PANEL + _GAP) + _GAP, down * (_PANEL + _GAP) + legend), _PAPER)
    for place, panel in enumerate(panels):
        picture.paste(panel, (_GAP + (place % across) * (_PANEL + _GAP), _GAP + (place // across) * (_PANEL + _GAP)))
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(12)
    top = down * (_PANEL + _GAP) + 4
    without = len(tiles) - len(placed)
    left_out = max(0, len(groups) - _PANELS)
    text = f"{len(tiles)} tiles in {len(groups)} places"
    text += f"; {without} without a place" if without else ""
    text += f"; {left_out} places not drawn" if left_out else ""
    draw.text((_GAP, top), text, fill=_INK, font=font)
    for i, name in enumerate(names, 1):
        draw.rectangle((_GAP, top + 16 * i + 3, _GAP + 10, top + 16 * i + 13), fill=colours[name])
        draw.text((_GAP + 16, top + 16 * i), name, fill=_INK, font=font)
    return picture


def _places(shapes: np.ndarray) -> list[np.ndarray]:
    """Groups of footprints near each other, on a mesh of one degree, the largest first."""
    if not len(shapes):
        return []
    from scipy import ndimage  # which readers of tiles need not wait for

    column, row = np.floor(_centres(shapes)).astype(int).T
    # The mesh begins behind the widest gap around the globe, wherever the antimeridian is.
    taken = np.unique(column % 360)
    begin = taken[(np.argmax(np.diff(taken, append=taken[0] + 360)) + 1) % len(taken)]
    column, row = (column - begin) % 360, row - row.min()
    mesh = np.zeros((column.max() + 1, row.max() + 1), bool)
    mesh[column, row] = True
    numbers = ndimage.label(mesh, np.ones((3, 3)))[0][column, row]
    members = [np.flatnonzero(numbers == number) for number in np.unique(numbers)]
    return sorted(members, key=len, reverse=True)


def _centres(shapes: np.ndarray) -> np.ndarray:
    """Longitude and latitude ``[N, 2]`` of each footprint's middle; of one cut at the antimeridian, of its first part.

    The middle of both parts together would lie near Greenwich.
    """
    return shapely.get_coordinates(shapely.centroid(shapely.get_geometry(shapes, 0)))


def _world(shapes: np.ndarray) -> Image.Image:
    panel, draw, font = _blank()
    scale = _PANEL / 360

    def place(lon: float, lat: float) -> tuple[float, float]:
        return (lon + 180) * scale, _PANEL / 2 - lat * scale

    for lon in range(-180, 181, 30):
        draw.line([place(lon, -90), place(lon, 90)], fill=_LINE)
    for lat in range(-90, 91, 30):
        draw.line([place(-180, lat), place(180, lat)], fill=_LINE)
        draw.text(place(-178, lat), f"{lat}°", fill=_INK, font=font)
    if len(shapes):
        centres = np.unique(np.round(_centres(shapes), 1), axis=0)
        for lon, lat in centres:
            x, y = place(lon, lat)
            draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=_COLOURS[1])
    return panel


def _panel(shapes: np.ndarray, colours: list[str]) -> Image.Image:
    """One place, drawn with degrees shrunk by the cosine of its latitude."""
    panel, draw, font = _blank()
    west, south, east, north = shapely.total_bounds(shapes)
    if east - west > 180:  # on both sides of the antimeridian
        shapes = shapely.transform(shapes, lambda points: points + np.where(points[:, :1] < 0, [360.0, 0.0], 0.0))
        west, south, east, north = shapely.total_bounds(shapes)
    squeeze = max(math.cos(math.radians((south + north) / 2)), 0.05)
    scale = (_PANEL - 60) / max((east - west) * squeeze, north - south, 1e-9)
    left = (_PANEL - (east - west) * squeeze * scale) / 2
    top = (_PANEL - (north - south) * scale) / 2
    for shape, colour in zip(shapes, colours, strict=True):
        for part in shapely.get_parts(shape):
            points = shapely.get_coordinates(shapely.get_exterior_ring(part))
            x, y = left + (points[:, 0] - west) * squeeze * scale, top + (north - points[:, 1]) * scale
            draw.line([(float(u), float(v)) for u, v in zip(x, y, strict=True)], fill=colour, width=1)
    draw.text((4, _PANEL - 16), f"{west:.4f} … {east:.4f} E, {south:.4f} … {north:.4f} N", fill=_INK, font=font)
    draw.text((4, 2), f"{len(shapes)} tiles", fill=_INK, font=font)
    return panel


def _blank() -> tuple[Image.Image, ImageDraw.ImageDraw, ImageFont.FreeTypeFont | ImageFont.ImageFont]:
    panel = Image.new("RGB", (_PANEL, _PANEL), "#f6f7f9")
    draw = ImageDraw.Draw(panel)
    draw.rectangle((0, 0, _PANEL - 1, _PANEL - 1), outline=_LINE)
    return panel, draw, ImageFont.load_default(11)
