"""Several scenes seen as one, on the grid of the first."""

from collections.abc import Sequence
from dataclasses import replace

from tiles.errors import InputError
from tiles.grids import aligned, union
from tiles.scenes.scene import Scene


def mosaic(scenes: Sequence[Scene], *, name: str, source: str) -> Scene:
    """One scene over all the ground of several; where they overlap, the first valid measurement counts.

    The grid is the first scene's, extended; scenes whose pixels lie on it are copied, others resampled.

    Raises:
        InputError: Where bands, units or types differ.
    """
    first = scenes[0]
    for scene in scenes[1:]:
        units = [(b.name, b.dtype, b.scale, b.offset) for b in scene.bands]
        if units != [(b.name, b.dtype, b.scale, b.offset) for b in first.bands]:
            raise InputError(
                f"{first.name} and {scene.name} differ in bands or units, so {source} cannot be one scene."
            )
    if first.crs is None:
        raise InputError(f"The scenes of {source} have no coordinate reference system to lay them side by side.")
    grid = union([scene.geobox for scene in scenes])
    parts = tuple(scene.on(grid, "nearest" if aligned(scene.geobox, grid) else "bilinear") for scene in scenes)
    note = f"mosaic of {len(scenes)} scenes, earlier ones on top: {', '.join(scene.name for scene in scenes)}"
    return replace(
        first,
        name=name,
        source=source,
        geobox=grid,
        parts=parts,
        masks=(),
        notes=(*first.notes, note),
        source_grids={},
        blank=None,
        own_masks=(),
    )
