"""From what to what: the classes of changed places before and after, by a trained segmentation model."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from geodino.change_detection.pair import Comparison
from geodino.heads.model_file import SegmentationModel
from geodino.heads.render import render_classes
from geodino.products.pixel_areas import PixelAreas
from tiles.writing.cog import CogWriter, MapClass
from tiles.writing.outputs import part_of


@dataclass(frozen=True)
class Transitions:
    """Changed pixels by class before and after.

    Attributes:
        names: class names.
        counts: changed pixels `[before, after]`.
        areas_m2: their area on the ellipsoid, `[before, after]`.
    """

    names: tuple[str, ...]
    counts: NDArray[np.int64]
    areas_m2: NDArray[np.float64]

    def describe(self) -> list[str]:
        """The ten largest transitions as lines."""
        order = np.argsort(self.areas_m2, axis=None)[::-1][:10]
        lines = []
        for place in order:
            before, after = np.unravel_index(int(place), self.counts.shape)
            if self.counts[before, after]:
                lines.append(f"{self.names[before]} → {self.names[after]}: {self.areas_m2[before, after]:,.0f} m²")
        return lines


@contextmanager
def class_maps(model: SegmentationModel, comparison: Comparison, target: Path) -> Iterator[tuple[Path, Path]]:
    """Class maps of both dates of a pair, under temporary names beside ``target`` as long as the context lasts."""
    paths = part_of(target, ".classes_before"), part_of(target, ".classes_after")
    legend, recipe = model.legend, model.recipe
    classes = [MapClass(i + 1, n, c) for i, (n, c) in enumerate(zip(legend.names, legend.colors, strict=True))]
    try:
        for path, date, tokens in zip(paths, comparison.dates, comparison.tokens, strict=True):
            scene = date.scene
            pixels = scene.select(recipe.pixel_bands) if recipe.pixel_bands else None
            rows = render_classes(model.head, model.waves, tokens, scene.select(recipe.bands), pixels)
            with CogWriter(
                path, scene.geobox, dtype="uint8", nodata=0, classes=classes, resampling="nearest", overwrite=True
            ) as out:
                for piece in rows:
                    out.write(piece.row, piece.classes[None])
        yield paths
    finally:
        for path in paths:
            path.unlink(missing_ok=True)


def count_transitions(mask: Path, maps: tuple[Path, Path], names: tuple[str, ...]) -> Transitions:
    """Count changed pixels by class before and after, row by row."""
    size = len(names)
    counts, areas = np.zeros(size * size, dtype=np.int64), np.zeros(size * size)
    with rasterio.open(mask) as changed, rasterio.open(maps[0]) as before, rasterio.open(maps[1]) as after:
        pixels = PixelAreas(GeoBox.from_rio(changed))
        for start in range(0, changed.height, 512):
            window = ((start, min(start + 512, changed.height)), (0, changed.width))
            first, second = before.read(1, window=window), after.read(1, window=window)
            here = (changed.read(1, window=window) == 1) & (first > 0) & (second > 0)
            flat = (first[here].astype(np.int64) - 1) * size + second[here] - 1
            counts += np.bincount(flat, minlength=size * size)
            areas += np.bincount(flat, weights=pixels.rows(*window[0])[here], minlength=size * size)
    return Transitions(names, counts.reshape(size, size), areas.reshape(size, size))
