"""Reading windows of a scene: natively where a file's grid is the scene's, through a warp where it is not."""

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from functools import lru_cache
from typing import Self

import numpy as np
from affine import Affine
from odc.geo.geobox import GeoBox
from rasterio.enums import ColorInterp
from rasterio.io import DatasetReader
from rasterio.windows import Window

from tiles.grids import ground_sample_distance_m, same_grid
from tiles.scenes.band import Band, Pixels, to_unit
from tiles.scenes.raster import open_raster, own_masks, reading
from tiles.scenes.scene import Scene
from tiles.scenes.stacked import Stacked
from tiles.scenes.validity import Mask, MaskKind, OwnMask, cloudy, usable
from tiles.scenes.view import View, warped

# Many small reads of one file ask the same.
_side_m = lru_cache(maxsize=256)(ground_sample_distance_m)


class SceneReader:
    """An open scene, for one thread at a time: GDAL's handles are not to be used by two at once.

    Use as a context manager: ``with SceneReader(scene) as reader: reader.read(Window(0, 0, 512, 512))``.
    """

    def __init__(
        self, scene: Scene, *, opener: Callable[[str], DatasetReader] | None = None, pixel_m: float | None = None
    ) -> None:
        """Open every file of a scene.

        Args:
            scene: What to read.
            opener: Opens a file and keeps it open for later readers; None opens and closes here.
            pixel_m: Side in metres of the pixels wanted, for a look from afar: where a file's own are at least half as
                small, their nearest stand for all, and overviews are used; None reads every pixel.
        """
        self.scene = scene
        self._stack = ExitStack()
        self._opener, self._pixel_m = opener, pixel_m
        self._opened: dict[str, DatasetReader] = {}
        self._grids = dict(scene.source_grids)
        self.dtype = np.result_type(*(np.dtype(band.dtype) for band in scene.bands))
        self._scale = np.array([band.scale for band in scene.bands], np.float32)
        self._offset = np.array([band.offset for band in scene.bands], np.float32)
        self._parts: list[SceneReader] = []
        self._views: list[View] = []
        self._blank: dict[Band, View] | None = None  # bands that say what is blank, read natively; None: warps tell
        try:
            for part in scene.parts:
                self._parts.append(self._stack.enter_context(SceneReader(part, opener=opener, pixel_m=pixel_m)))
            if not self._parts:
                self._views = self._views_of_scene()
            self._masks = [(mask.kind, self._mask(mask)) for mask in scene.masks]
        except BaseException:
            self._stack.close()
            raise

    def _open(self, path: str) -> DatasetReader:
        if path not in self._opened:
            if self._opener is None:
                self._opened[path] = self._stack.enter_context(open_raster(path))
            else:
                self._opened[path] = self._opener(path)
        return self._opened[path]

    def _grid(self, path: str) -> GeoBox:
        if path not in self._grids:
            source = self._open(path)
            with reading(path):
                crs = None if source.crs is None else source.crs.to_wkt()
                self._grids[path] = GeoBox(source.shape, source.transform, crs)
        return self._grids[path]

    def _masks_on(self, grid: GeoBox) -> tuple[OwnMask, ...]:
        """What the scene's files say themselves of the pixels of a grid, whichever of their bands are read."""
        return tuple(mask for mask in self.scene.own_masks if same_grid(self._grid(mask.path), grid))

    def _views_of_scene(self) -> list[View]:
        scene = self.scene
        by_path: dict[str, list[tuple[int, Band]]] = defaultdict(list)
        for place, band in enumerate(scene.bands):
            by_path[band.path].append((place, band))
        read = [self._grid(path) for path in by_path]
        views = []
        if scene.blank is not None:
            # The bands that are nodata together lie on one grid: native, or warped together.
            together = list(dict.fromkeys(band.path for band in scene.blank.bands))
            grid = self._grid(together[0])
            if same_grid(grid, scene.geobox):
                self._blank = {}
            else:
                chosen = [pair for path in together for pair in by_path.pop(path, [])]
                views.append(self._stacked(grid, chosen, self._masks_on(grid), scene.source, scene.resampling))
                read.append(grid)
        for path, bands in by_path.items():
            views += self._file(path, bands, self._masks_on(self._grid(path)), scene.resampling)
        return views + self._masks_beside(by_path, read)

    def _masks_beside(self, native: Collection[str], read: list[GeoBox]) -> list[View]:
        """Views of the own masks of files of which no band is read: natively each, or those of one grid together."""
        views = []
        for path in dict.fromkeys(mask.path for mask in self.scene.own_masks):
            grid = self._grid(path)
            if same_grid(grid, self.scene.geobox):
                if path not in native:
                    covers = tuple(mask.index for mask in self.scene.own_masks if mask.path == path)
                    views.append(View(path, self._open(path), [], [], (), covers))
            elif not any(same_grid(grid, other) for other in read):
                views.append(self._stacked(grid, [], self._masks_on(grid), path, self.scene.resampling))
                read.append(grid)
        return views

    def _file(
        self, path: str, bands: Sequence[tuple[int, Band]], masks: Sequence[OwnMask], resampling: str
    ) -> list[View]:
        """Views of bands of one file: one where its grid is the scene's, else one for each band with nodata.

        Args:
            path: The file.
            bands: Its bands to read, each with its place in the scene.
            masks: What counts on the file's grid; a warp weighs by it, natively each file has its own.
            resampling: A rasterio ``Resampling`` name.
        """
        source, grid = self._open(path), self._grid(path)
        if same_grid(grid, self.scene.geobox):
            nodata = tuple(band.nodata for _, band in bands)
            covers = tuple(mask.index for mask in masks if mask.path == path)
            return [View(path, source, [b.index for _, b in bands], [place for place, _ in bands], nodata, covers)]
        # A warp knows one nodata value, mixes that of other bands into their ground, and fills a band from its
        # neighbours where only others are measured: so a band with nodata is warped alone, as from a file of its own.
        alone = [[pair] for pair in bands if pair[1].unmeasured is not None]
        others = [pair for pair in bands if pair[1].unmeasured is None]
        groups = [*alone, others] if others else alone
        thin = self._thinned(grid) != grid.shape
        # A warp takes all bands of what it warps, so a band alone is taken out first; so is the mask that counts.
        if thin or masks or ColorInterp.alpha in source.colorinterp or (alone and source.count > 1):
            return [self._stacked(grid, group, masks, path, resampling) for group in groups]
        return [
            self._warped(path, source, grid, group, [band.index for _, band in group], None, resampling)
            for group in groups
        ]

    def _thinned(self, grid: GeoBox) -> tuple[int, int]:
        """Shape of a grid after leaving out pixels that a look from afar does not need."""
        height, width = grid.shape
        if self._pixel_m is None:
            return height, width
        shrink = 2 ** max(0, math.floor(math.log2(self._pixel_m / _side_m(grid))))
        return max(1, height // shrink), max(1, width // shrink)

    def _stacked(
        self,
        grid: GeoBox,
        bands: Sequence[tuple[int, Band]],
        masks: Sequence[OwnMask],
        name: str,
        resampling: str,
    ) -> View:
        """A view of bands of files on one grid, warped together."""
        blank = self.scene.blank
        if blank is not None:
            together = {band.path for band in blank.bands}
            if not ({band.path for _, band in bands} <= together and same_grid(grid, self._grid(min(together)))):
                blank = None
        # A warp wants a band beside alpha.
        some = blank.bands[0] if blank else Band("", masks[0].path, 1, "uint8", None, 1, 0) if masks else None
        read = tuple(band for _, band in bands) or ((some,) if some else ())
        shape, thinned = grid.shape, self._thinned(grid)
        stacked = Stacked(shape, thinned, read, tuple(masks), blank)
        on = GeoBox(thinned, grid.affine @ Affine.scale(shape[1] / thinned[1], shape[0] / thinned[0]), grid.crs)
        alpha = len(read) + 1 if stacked.has_alpha else None
        indexes = list(range(1, len(read) + 1))
        return self._warped(name, self._open(stacked.xml()), on, bands, indexes, alpha, resampling)

    def _warped(
        self,
        name: str,
        source: DatasetReader,
        grid: GeoBox,
        bands: Sequence[tuple[int, Band]],
        indexes: list[int],
        alpha: int | None,
        resampling: str,
    ) -> View:
        nodata = bands[0][1].unmeasured if bands else None
        dataset = warped(name, source, grid, self.scene.geobox, resampling, nodata=nodata, add_alpha=alpha is None)
        self._stack.enter_context(dataset)
        alpha = source.count + 1 if alpha is None else alpha
        places, stated = [place for place, _ in bands], tuple(band.nodata for _, band in bands)
        return View(name, dataset, indexes, places, stated, (alpha,))

    def _plane(self, band: Band) -> View:
        """A band that says something about pixels: never mixed with its neighbours."""
        return self._file(band.path, [(0, band)], own_masks(band.path, self._open(band.path)), "nearest")[0]

    def _mask(self, mask: Mask) -> View:
        dtype = self._open(mask.path).dtypes[mask.index - 1]
        return self._plane(Band("", mask.path, mask.index, dtype, None, 1, 0))

    def _blank_at(self, inside: Window, values: np.ndarray) -> np.ndarray | None:
        """Where the bands that are nodata only together all are, bool ``[H, W]``; None where warps have told."""
        if self._blank is None or self.scene.blank is None:
            return None
        found = np.ones(values.shape[1:], bool)
        later = []
        for band, value in zip(self.scene.blank.bands, self.scene.blank.values, strict=True):
            place = next(
                (i for i, one in enumerate(self.scene.bands) if (one.path, one.index) == (band.path, band.index)), None
            )
            if place is None:
                later.append((band, value))
            else:
                found &= values[place] == value
        for band, value in later:
            if not found.any():
                break
            if band not in self._blank:
                self._blank[band] = self._plane(band)
            found &= self._blank[band].read_plane(inside) == value
        return found

    def read(self, window: Window) -> Pixels:
        """Read a window as float32 in [0, 1].

        Args:
            window: Whole pixels of the scene's grid; it may reach beyond the scene, where nothing is valid.

        Returns:
            Values ``[C, H, W]`` float32 in [0, 1], 0 where invalid, and validity ``[H, W]``.

        Raises:
            InputError: Where a file turns out to be damaged; the sentence names it.
        """
        pixels = self.read_dn(window)
        return Pixels(to_unit(pixels.values, pixels.valid, self._scale, self._offset), pixels.valid)

    def read_dn(self, window: Window, out: np.ndarray | None = None) -> Pixels:
        """As `read`, in native digital numbers ``[C, H, W]`` (whatever they are where invalid, 0 beyond the scene).

        Args:
            window: See `read`.
            out: Array of the result's shape and the scene's type, C-contiguous, which is filled and given back where
                the window lies within the scene: fresh memory for every read is not free.
        """
        height, width = int(window.height), int(window.width)
        inside, place = self._inside(window)
        if inside is None:
            return Pixels(np.zeros((len(self.scene.bands), height, width), self.dtype), np.zeros((height, width), bool))
        whole = (inside.height, inside.width) == (height, width)
        shape = (len(self.scene.bands), inside.height, inside.width)
        values = out if whole and out is not None else np.empty(shape, self.dtype)
        valid = np.ones(values.shape[1:], bool)
        if self._parts:
            self._read_parts(inside, values, valid)
        for view in self._views:
            view.read(inside, values, valid)
        blank = self._blank_at(inside, values)
        if blank is not None:
            valid &= ~blank
        for kind, view in self._masks:
            valid &= usable(view.read_plane(inside), kind)
            view.mark_covered(inside, valid)
        if whole:
            return Pixels(values, valid)
        padded = np.zeros((len(values), height, width), self.dtype)
        padded_valid = np.zeros((height, width), bool)
        padded[:, place[0], place[1]], padded_valid[place] = values, valid
        return Pixels(padded, padded_valid)

    def read_cloud(self, window: Window) -> np.ndarray | None:
        """Cloud, cirrus or cloud shadow, bool ``[H, W]``, False beyond the scene; None where no mask tells."""
        sky = self._sky(window)
        return None if sky is None else sky[0] & ~sky[1]

    def _sky(self, window: Window) -> tuple[np.ndarray, np.ndarray] | None:
        """Where a mask tells of cloud, and where one tells of clear ground; in a mosaic, of any part."""
        if self._parts:
            told = [sky for part in self._parts if (sky := part._sky(window)) is not None]
            if not told:
                return None
            cloud, clear = (np.logical_or.reduce(planes) for planes in zip(*told, strict=True))
            return cloud, clear
        if all(kind is MaskKind.explicit for kind, _ in self._masks):
            return None
        shape = (int(window.height), int(window.width))
        cloud, clear = np.zeros(shape, bool), np.zeros(shape, bool)
        inside, place = self._inside(window)
        if inside is not None:
            clear[place] = True
            for kind, view in self._masks:
                raw, covered = view.read_plane(inside), np.ones((inside.height, inside.width), bool)
                view.mark_covered(inside, covered)
                cloud[place] |= cloudy(raw, kind) & covered
                clear[place] &= usable(raw, kind) & covered
        return cloud, clear

    def _inside(self, window: Window) -> tuple[Window | None, tuple[slice, slice]]:
        """The part of a window that lies within the scene (None: none does), and its place in the window."""
        row, column = int(window.row_off), int(window.col_off)
        top, bottom = max(row, 0), min(row + int(window.height), self.scene.height)
        left, right = max(column, 0), min(column + int(window.width), self.scene.width)
        place = np.s_[top - row : bottom - row, left - column : right - column]
        return None if top >= bottom or left >= right else Window(left, top, right - left, bottom - top), place

    def _read_parts(self, inside: Window, values: np.ndarray, valid: np.ndarray) -> None:
        """Fill from the parts of a mosaic in turn: the first valid measurement of a pixel stays."""
        values[:], valid[:] = 0, False
        for part in self._parts:
            pixels = part.read_dn(inside)
            new = pixels.valid & ~valid
            values[:, new] = pixels.values[:, new]
            valid |= new
            if valid.all():
                return

    def close(self) -> None:
        """Close every file."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
