"""Brings vector labels into a scene's coordinate reference system."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from tiles.errors import InputError
from tiles.grids import turn_of

if TYPE_CHECKING:
    import geopandas as gpd
    from pyproj import CRS
    from shapely.geometry.base import BaseGeometry

_MARGIN = 0.1  # of a scene's size, kept around it of labels that reach too far
_EDGES = 1000  # the edges of those are at most this part of the surroundings' width and height, since they bend


def on_scene(frame: "gpd.GeoDataFrame", geobox: GeoBox, path: Path) -> tuple["gpd.GeoSeries", list[str]]:
    """The labels' geometries in the scene's coordinates, one a label, empty where there is no place for it.

    A label larger than the scene, or that reaches to where the scene's reference system ends, is cut to the scene's
    surroundings first, in its own reference system, in which its edges are straight.

    Raises:
        InputError: the labels have no reference system or one that the scene's cannot be reached from.
    """
    import pyproj
    import shapely
    from pyproj.exceptions import ProjError
    from shapely import affinity

    geometries = frame.geometry
    if geobox.crs is None:
        bare = geometries.set_crs(None, allow_override=True)
        kept, notes = _placed(bare)
        return kept, ["the scene has no coordinate reference system: labels are read in its own coordinates", *notes]
    if frame.crs is None:
        raise InputError(f"{path} has no coordinate reference system; store one in it (a .prj beside a shapefile)")
    try:
        target = pyproj.CRS.from_user_input(geobox.crs.to_wkt())
        _check_reachable(frame.crs, target)
        moved = geometries.to_crs(target)
        if frame.crs != target:
            near = _surroundings(geobox, frame.crs)
            west, south, east, north = near.bounds
            if frame.crs.is_geographic:  # the labels may be written in another turn of the globe
                near = shapely.union_all([affinity.translate(near, turn) for turn in (-360, 0, 360)])
            bounds = geometries.bounds
            large = ((bounds.maxx - bounds.minx) > east - west) | ((bounds.maxy - bounds.miny) > north - south)
            cut_off = large.to_numpy() | ~_finite(moved)
            if cut_off.any() and not near.is_empty:
                cut = geometries[cut_off].make_valid().intersection(near)
                moved[cut_off] = cut.segmentize((east - west + north - south) / _EDGES).to_crs(target)
    except ProjError as error:  # of which pyproj's CRSError is one
        raise InputError(
            f"{path} is in {frame.crs.name!r}, from which no way leads to the scene's {geobox.crs.proj.name!r}; "
            "give labels in the scene's coordinate reference system"
        ) from error
    return _placed(_in_turns(moved, geobox))


def _in_turns(geometries: "gpd.GeoSeries", geobox: GeoBox) -> "gpd.GeoSeries":
    """Each geometry also where another turn of the globe brings it onto the grid: at 185 degrees what lies at -175."""
    import shapely

    turn, box = turn_of(geobox), geobox.boundingbox
    own, bounds = geometries, geometries.bounds
    for shift in (-turn, turn) if turn else ():
        here = ((bounds.minx + shift < box.right) & (bounds.maxx + shift > box.left)).to_numpy()
        if here.any():
            geometries = geometries.copy()
            both = [geometries[here], own[here].translate(shift)]
            geometries[here] = shapely.geometrycollections(np.stack([one.to_numpy() for one in both], axis=1))
    return geometries


def _check_reachable(labels: "CRS", scene: "CRS") -> None:
    """Refuse local systems: PROJ takes coordinates from or into one as they are."""
    from pyproj.exceptions import CRSError

    if (labels.is_engineering or scene.is_engineering) and labels != scene:
        raise CRSError("a local coordinate reference system has no place on Earth")


def _finite(geometries: "gpd.GeoSeries") -> NDArray[np.bool_]:
    import shapely

    coordinates, numbers = shapely.get_coordinates(geometries.array, return_index=True)
    finite = np.ones(len(geometries), dtype=bool)
    finite[numbers[~np.isfinite(coordinates).all(axis=1)]] = False
    return finite


def _placed(geometries: "gpd.GeoSeries") -> tuple["gpd.GeoSeries", list[str]]:
    """Those with finite coordinates, the others emptied, with a note."""
    import shapely

    lost = ~_finite(geometries)
    if not lost.any():
        return geometries, []
    geometries = geometries.copy()
    geometries[lost] = shapely.Point()
    return geometries, [f"{int(lost.sum()):,} labels have no place in the scene's coordinates and are left out"]


def _surroundings(geobox: GeoBox, crs: "CRS") -> "BaseGeometry":
    """The scene's extent with a margin, in another reference system; it goes on past the antimeridian."""
    import shapely
    from pyproj import Transformer

    box = geobox.boundingbox
    across, up = _MARGIN * (box.right - box.left), _MARGIN * (box.top - box.bottom)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        transformer = Transformer.from_crs(geobox.crs.to_wkt(), crs, always_xy=True)
        left, bottom, right, top = transformer.transform_bounds(
            box.left - across, box.bottom - up, box.right + across, box.top + up
        )
    if not np.isfinite([left, bottom, right, top]).all():
        return shapely.Point()
    return shapely.box(left, bottom, right if left <= right else right + 360, top)
