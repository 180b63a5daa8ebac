"""What a user's argument stands for: one scene, or a folder of many."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tiles.errors import InputError
from tiles.scenes.folder import RASTER_SUFFIXES, list_stack
from tiles.scenes.images import is_image_set
from tiles.scenes.torchgeo_set import TORCHGEO, torchgeo_sources


@dataclass(frozen=True)
class Found:
    """A source and, where its folder names one, its class."""

    source: str
    label: str | None = None


def expand(argument: str) -> Iterator[Found]:
    """Yield the scenes that an argument stands for.

    A folder is one scene when it holds a stack of single bands, an image set when its images have no georeference,
    else each raster in it (and in its class folders) is a scene of its own.
    """
    if argument.startswith(TORCHGEO):
        yield from (Found(source) for source in torchgeo_sources(argument))
        return
    path = Path(argument)
    if path.suffix.lower() in (".json", ".geojson") and os.path.isfile(path):
        from tiles.scenes.stac import days  # pystac is needed for items only

        found = days(argument)
        yield from (Found(argument if len(found) == 1 else f"{argument}#{day}") for day in found)
        return
    if not os.path.isdir(path) or is_image_set(argument):
        yield Found(argument)
        return
    try:
        list_stack(argument)
        yield Found(argument)
        return
    except InputError as error:
        files = sorted(f for f in path.rglob("*") if f.suffix.lower() in RASTER_SUFFIXES and f.is_file())
        if not files:
            raise
        if all(f.parent == path for f in files) and len(files) == 1:
            yield Found(str(files[0]))
            return
        if "several reference systems" in str(error) or "several sizes" in str(error):
            raise
    for file in files:
        yield Found(str(file), None if file.parent == path else file.parent.name)
