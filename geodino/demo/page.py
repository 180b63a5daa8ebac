"""The demo's page: pictures side by side in one HTML file that needs nothing else, online or off."""

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from PIL import Image
from rasterio.enums import Resampling
from rasterio.windows import Window

from tiles.scenes.reader import SceneReader
from tiles.scenes.scene import Scene
from tiles.writing.cog import read_classes
from tiles.writing.outputs import replacing

PICTURE_PX = 760

_STYLE = """
:root { color-scheme: light dark; --line: light-dark(#d6dade, #3a4046); --soft: light-dark(#59636e, #9aa4ae);
  --card: light-dark(#f6f8fa, #1b1f24); --note: light-dark(#fff3cd, #4a3d12); }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 1280px; padding: 1.5rem; }
h1 { margin: 0 0 .25rem; font-size: 1.6rem; } h2 { margin: 2.2rem 0 .5rem; font-size: 1.2rem; }
p { margin: .4rem 0; max-width: 75ch; } .soft { color: var(--soft); }
.row { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 360px), 1fr)); gap: 1rem; }
figure { margin: 0; background: var(--card); border: 1px solid var(--line); border-radius: 8px; overflow: hidden; }
img { width: 100%; display: block; image-rendering: auto; } figcaption { padding: .6rem .8rem; font-size: .9rem; }
.legend { display: flex; flex-wrap: wrap; gap: .3rem .9rem; margin-top: .3rem; }
.legend i { display: inline-block; width: .9em; height: .9em; border-radius: 3px; margin-right: .35em; }
.note { background: var(--note); border-radius: 6px; padding: .1rem .5rem; }
pre { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: .8rem; overflow-x: auto; }
"""


@dataclass(frozen=True)
class Panel:
    """One picture of the page.

    Attributes:
        title: Short heading.
        caption: One or two sentences; plain text.
        picture: ``[H, W, 3 or 4]`` uint8.
        legend: Class names with ``#rrggbb`` colours.
        note: Something that must not be overlooked, shown on a coloured ground.
    """

    title: str
    caption: str
    picture: NDArray[np.uint8]
    legend: tuple[tuple[str, str], ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Section:
    """A heading with panels side by side."""

    title: str
    text: str
    panels: tuple[Panel, ...]


def write_page(path: Path, introduction: str, sections: Sequence[Section], commands: Sequence[str]) -> None:
    """Write the page; text is escaped, pictures are embedded."""
    body = "".join(_section(section) for section in sections)
    shell = html.escape("\n".join(f"$ {command}" for command in commands))
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" '
        f'content="width=device-width"><title>geodino demo</title><style>{_STYLE}</style></head><body>'
        f'<h1>geodino demo</h1><p class="soft">{html.escape(introduction)}</p>{body}'
        f"<h2>The commands that made this page</h2><pre>{shell}</pre></body></html>"
    )
    with replacing(path) as part:
        part.write_text(page, encoding="utf-8")


def scene_picture(scene: Scene, stretch: tuple[float, float] = (2, 98)) -> NDArray[np.uint8]:
    """The first three bands of a scene as ``[H, W, 4]`` uint8, stretched over the whole picture, nodata transparent."""
    small = scene.geobox.zoom_out(max(1.0, max(scene.height, scene.width) / PICTURE_PX))
    with SceneReader(scene.on(small, "average")) as reader:
        pixels = reader.read(Window(0, 0, small.shape[1], small.shape[0]))
    return _stretched(pixels.values[:3], pixels.valid, stretch)


def class_picture(path: Path) -> NDArray[np.uint8]:
    """A class map with its own colour table as ``[H, W, 4]`` uint8."""
    with rasterio.open(path) as source:
        values = source.read(1, out_shape=_small(source), resampling=Resampling.nearest)
        colours = np.zeros((256, 4), np.uint8)
        for value, colour in source.colormap(1).items():
            colours[value] = colour
        if source.nodata is not None:
            colours[int(source.nodata), 3] = 0
    return colours[values]


def score_picture(path: Path) -> NDArray[np.uint8]:
    """A score (NaN nodata) in the colours of ``magma``, its 2nd to 99.5th percentile stretched, ``[H, W, 4]`` uint8."""
    from matplotlib import colormaps

    with rasterio.open(path) as source:
        values = source.read(1, out_shape=_small(source), resampling=Resampling.average)
    valid = np.isfinite(values)
    low, high = np.percentile(values[valid], [2, 99.5])
    picture = colormaps["magma"](np.clip((np.nan_to_num(values) - low) / max(high - low, 1e-6), 0, 1), bytes=True)
    picture[..., 3] = valid * 255
    return picture


def truth_picture(path: Path) -> NDArray[np.uint8]:
    """A truth (1 changed, 0 not) as white on black, ``[H, W, 4]`` uint8, nodata transparent."""
    with rasterio.open(path) as source:
        values = source.read(1, out_shape=_small(source), resampling=Resampling.nearest)
        nodata = source.nodata
    grey = np.where(values == 1, 255, 0).astype(np.uint8)
    return np.stack([grey, grey, grey, np.where(values == nodata, 0, 255).astype(np.uint8)], axis=-1)


def legend(path: Path) -> tuple[tuple[str, str], ...]:
    """Names and colours of the classes that a map carries in its tags."""
    return tuple((c.name, "#{:02x}{:02x}{:02x}".format(*c.color)) for c in read_classes(path))


def _stretched(values: NDArray, valid: NDArray, stretch: tuple[float, float]) -> NDArray[np.uint8]:
    low, high = np.percentile(values[:, valid], stretch, axis=1)[..., None, None]
    scaled = np.clip((values - low) / np.maximum(high - low, 1e-6), 0, 1) * 255
    return np.concatenate([scaled, valid[None] * 255.0]).astype(np.uint8).transpose(1, 2, 0)


def _small(source: rasterio.DatasetReader) -> tuple[int, int]:
    scale = max(1.0, max(source.height, source.width) / PICTURE_PX)
    return round(source.height / scale), round(source.width / scale)


def _section(section: Section) -> str:
    panels = "".join(_figure(panel) for panel in section.panels)
    return f"<h2>{html.escape(section.title)}</h2><p>{html.escape(section.text)}</p><div class=row>{panels}</div>"


def _figure(panel: Panel) -> str:
    colours = "".join(
        f'<span><i style="background:{colour}"></i>{html.escape(name)}</span>' for name, colour in panel.legend
    )
    note = f'<p><span class="note">{html.escape(panel.note)}</span></p>' if panel.note else ""
    return (
        f'<figure><img alt="{html.escape(panel.title)}" src="data:image/png;base64,{_png(panel.picture)}"><figcaption>'
        f"<b>{html.escape(panel.title)}</b><br>{html.escape(panel.caption)}{note}"
        f'<div class="legend">{colours}</div></figcaption></figure>'
    )


def _png(picture: NDArray[np.uint8]) -> str:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()
