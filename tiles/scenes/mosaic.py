"""Several scenes seen as one, on the grid of the first."""

from collections.abc import Sequence
from dataclasses import replace

from affine import Affine
from odc.geo.geobox import GeoBox

from tiles.errors import InputError
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
    grid = _union([scene.geobox for scene in scenes], source)
    parts = tuple(
        replace(scene.on(grid, "nearest" if _aligned(scene.geobox, grid) else "bilinear")) for scene in scenes
    )
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
        fill=None,
    )


def _union(grids: Sequence[GeoBox], source: str) -> GeoBox:
    first = grids[0]
    if first.crs is None:
        raise InputError(f"The scenes of {source} have no coordinate reference system to lay them side by side.")
    back = ~first.affine
    corners = []
    for grid in grids:
        extent = (
            grid.extent if grid.crs == first.crs else grid.extent.to_crs(first.crs, resolution=grid.resolution.x * 64)
        )
        corners += [back @ point for point in extent.exterior.points]
    left, top = (_whole(min(values)) for values in zip(*corners, strict=True))
    right, bottom = (-_whole(min(-v for v in values)) for values in zip(*corners, strict=True))
    return GeoBox((bottom - top, right - left), first.affine @ Affine.translation(left, top), first.crs)


def _whole(value: float) -> int:
    """The whole pixel at or before a coordinate, forgiving a thousandth of a pixel."""
    return int((value + 1e-3) // 1)


def _aligned(one: GeoBox, other: GeoBox) -> bool:
    """Whether the pixels of one grid are pixels of the other."""
    if one.crs != other.crs:
        return False
    shift = ~other.affine @ one.affine
    linear = abs(shift.a - 1) + abs(shift.e - 1) + abs(shift.b) + abs(shift.d)
    return linear < 1e-9 and abs(shift.c - round(shift.c)) < 1e-2 and abs(shift.f - round(shift.f)) < 1e-2
