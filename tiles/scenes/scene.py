"""A scene: the bands of one acquisition on one pixel grid, whatever files they lie in.

It describes; `tiles.scenes.opening` makes it from files, `tiles.scenes.reader` reads its pixels in windows.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from affine import Affine
from odc.geo.geobox import GeoBox

from tiles.errors import InputError
from tiles.grids import ground_sample_distance_m, same_grid
from tiles.scenes.band import Band
from tiles.scenes.raster import files_of
from tiles.scenes.validity import Blank, Mask, OwnMask

if TYPE_CHECKING:
    from odc.geo.crs import CRS


@dataclass(frozen=True)
class Scene:
    """Bands of one acquisition on one grid.

    Attributes:
        name: Short name, unique enough for people.
        source: What was opened.
        bands: The bands, in reading order.
        geobox: Pixel grid: shape, affine and CRS (None for a raster in bare pixels).
        sensor: Name of the row of the sensor table that gave the units.
        gsd_m: Ground sample distance in metres, at the centre.
        block_shape: Rows and columns that the first band's file decodes at once.
        datetime: ISO 8601 date or time, or None.
        notes: What was decided about sensor, bands and units, to be printed.
        masks: Files that say which pixels are usable.
        resampling: How bands on other grids are brought onto this one.
        parts: Scenes of which this one is the mosaic, earlier ones on top; empty for a plain scene.
        source_grids: Grids of files that cannot state their own.
        blank: What is nodata in several bands together only (pictures, undeclared fill); the bands' own nodata counts
            band by band beside it.
        own_masks: Masks and alpha bands of the bands' files; they count whichever bands are read.
    """

    name: str
    source: str
    bands: tuple[Band, ...]
    geobox: GeoBox
    sensor: str
    gsd_m: float
    block_shape: tuple[int, int]
    datetime: str | None
    notes: tuple[str, ...]
    masks: tuple[Mask, ...] = ()
    resampling: str = "bilinear"
    parts: tuple["Scene", ...] = ()
    source_grids: dict[str, GeoBox] = field(default_factory=dict)
    blank: Blank | None = None
    own_masks: tuple[OwnMask, ...] = ()

    @property
    def height(self) -> int:
        """Rows of the grid."""
        return int(self.geobox.shape[0])

    @property
    def width(self) -> int:
        """Columns of the grid."""
        return int(self.geobox.shape[1])

    @property
    def crs(self) -> "CRS | None":
        """Coordinate reference system of the grid."""
        return self.geobox.crs

    @property
    def band_names(self) -> tuple[str, ...]:
        """Names of the bands, in reading order."""
        return tuple(band.name for band in self.bands)

    def select(self, names: Sequence[str]) -> "Scene":
        """The same scene with the bands called ``names``, in that order.

        Raises:
            InputError: Where one is missing; the sentence names it and what exists.
        """
        by_name = {band.name: band for band in self.bands}
        missing = [name for name in names if name not in by_name]
        if missing:
            raise InputError(
                f"{self.source} has no band called {', '.join(missing)}; it has {', '.join(self.band_names)} "
                "(choose among them with --bands, or name the file's bands with --band-names)."
            )
        chosen = tuple(by_name[name] for name in names)
        return replace(self, bands=chosen, parts=tuple(part.select(names) for part in self.parts))

    def on(self, geobox: GeoBox, resampling: str = "bilinear") -> "Scene":
        """The same pixels seen on another grid, warped while reading.

        Args:
            geobox: Grid to read on; it has a CRS exactly when the scene has one.
            resampling: A rasterio ``Resampling`` name; ``average`` weighs by area, for shrinking.
        """
        if same_grid(geobox, self.geobox):
            return self
        if (geobox.crs is None) != (self.geobox.crs is None):
            raise InputError(f"{self.source} and the grid asked for cannot be brought together: only one has a CRS.")
        return replace(
            self,
            geobox=geobox,
            gsd_m=ground_sample_distance_m(geobox),
            resampling=resampling,
            parts=tuple(part.on(geobox, resampling) for part in self.parts),
        )

    def at_gsd(self, gsd_m: float) -> "Scene":
        """The same scene at another ground sample distance, weighed by area when shrinking, bilinear when enlarging."""
        factor = gsd_m / self.gsd_m
        if abs(factor - 1) < 1e-3:
            return self
        shape = (max(1, round(self.height / factor)), max(1, round(self.width / factor)))
        geobox = GeoBox(shape, self.geobox.affine @ Affine.scale(factor), self.geobox.crs)
        return replace(self.on(geobox, "average" if factor > 1 else "bilinear"), gsd_m=gsd_m)

    def paths(self) -> list[str]:
        """What is opened for the scene, its parts aside, sorted."""
        together = () if self.blank is None else self.blank.bands
        beside = {mask.path for mask in self.masks} | {mask.path for mask in self.own_masks}
        return sorted({band.path for band in (*self.bands, *together)} | beside)

    def files(self) -> Iterator[str]:
        """Paths and addresses that are read for the scene, with the files beside them and those they refer to."""
        yield self.source
        for path in self.paths():
            yield from files_of(path)
        for part in self.parts:
            yield from part.files()

    def fingerprint(self) -> str:
        """Hexadecimal digest that changes when a file read, the band choice, the scaling or the grid changes."""
        digest = hashlib.sha256()
        bands = [[b.name, b.path, b.index, b.dtype, repr(b.nodata), repr(b.scale), repr(b.offset)] for b in self.bands]
        masks = [[m.path, m.index, m.kind] for m in self.masks] + [[m.path, m.index] for m in self.own_masks]
        grid = [list(self.geobox.shape), list(self.geobox.affine)[:6], str(self.geobox.crs), self.resampling]
        files = [_state(path) for path in sorted({file for path in self.paths() for file in files_of(path)})]
        blank = None if self.blank is None else [[b.path, b.index] for b in self.blank.bands] + [*self.blank.values]
        digest.update(json.dumps([bands, masks, grid, files, blank]).encode())
        for part in self.parts:
            digest.update(part.fingerprint().encode())
        return digest.hexdigest()[:32]


def _state(path: str) -> list[object]:
    """What tells a file's state without reading it; for a URL only its name is known."""
    try:
        found = os.stat(path)
    except OSError:
        return [path]
    return [path, found.st_size, found.st_mtime_ns]
