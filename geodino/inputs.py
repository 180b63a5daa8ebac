"""Which files a command reads, so that no output takes the place of one of them."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import rasterio

from tiles.errors import OutputError
from tiles.scenes.scene import Scene


def check_not_input(outputs: Iterable[Path | None], *inputs: str | Path | Scene | None) -> None:
    """Refuse an output that is an input too, which ``--overwrite`` would replace while it is needed.

    Args:
        outputs: Where results go.
        *inputs: Scenes, and whatever else is read: labels, models, cubes, indices.

    Raises:
        OutputError: One of the outputs is one of the inputs, or a file of a scene.
    """
    existing = [output for output in outputs if output is not None and output.exists()]
    if not existing:
        return
    for source in inputs:
        for file in _files(source):
            for output in existing:
                if os.path.exists(file) and os.path.samefile(output, file):
                    name = source.name if isinstance(source, Scene) else source
                    raise OutputError(f"{output} is also the input {name}; choose another name for the output")


def _files(source: str | Path | Scene | None) -> Iterator[str]:
    """Paths that are read for a source; of a VRT also what it refers to."""
    if source is None:
        return
    if not isinstance(source, Scene):
        yield str(source)
        return
    yield source.source
    for path in {band.path for band in source.bands} | {mask.path for mask in source.masks}:
        yield path
        if path.lower().endswith(".vrt"):
            with rasterio.open(path) as raster:
                yield from raster.files
    for part in source.parts:
        yield from _files(part)
