"""Reading windows of a scene: natively where a file's grid is the scene's, through a warp where it is not."""

from collections import defaultdict
from contextlib import ExitStack
from typing import Self

import numpy as np
from odc.geo.geobox import GeoBox
from rasterio.enums import ColorInterp, MaskFlags, Resampling
from rasterio.io import DatasetReader
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from tiles.grids import same_grid
from tiles.scenes.band import Band, Pixels, to_unit
from tiles.scenes.raster import open_raster, reading
from tiles.scenes.scene import Scene
from tiles.scenes.validity import MaskKind, Nodata, cloudy, opaque, usable

# GDAL warps nothing without a reference system; rasters in bare pixels are placed in this plane, source and target.
_PLANE = "EPSG:3857"


class _File:
    """One open file (or mask file) of a scene, with the bands that the scene takes from it."""

    def __init__(
        self, stack: ExitStack, scene: Scene, path: str, bands: list[tuple[int, Band]], resampling: str
    ) -> None:
        self.path = path
        self.places = [place for place, _ in bands]  # where the bands stand in the scene
        self.indexes = [band.index for _, band in bands]
        self.nodata = Nodata.of([band for _, band in bands])
        source = stack.enter_context(open_raster(path))
        own = scene.source_grids.get(path)
        with reading(path):
            grid = own if own is not None else GeoBox(source.shape, source.transform, _crs_text(source))
            self.native = same_grid(grid, scene.geobox)
            flags = [source.mask_flag_enums[index - 1] for index in self.indexes]
            self.masked = any(MaskFlags.per_dataset in flag for flag in flags)
            self.dataset: DatasetReader | WarpedVRT = source
            self.alpha: int | None = None
            if not self.native:
                self.dataset = stack.enter_context(self._warp(source, grid, scene, resampling))

    def _warp(self, source: DatasetReader, grid: GeoBox, scene: Scene, resampling: str) -> WarpedVRT:
        options: dict[str, object] = {}
        alphas = [i for i, colour in enumerate(source.colorinterp, 1) if colour == ColorInterp.alpha]
        if alphas:
            self.alpha = alphas[0]
        else:
            self.alpha = source.count + 1
            options["add_alpha"] = True
        known = {value for value in self.nodata.values if value is not None}
        if known:
            options["src_nodata"] = known.pop()
            options["UNIFIED_SRC_NODATA"] = "YES" if self.nodata.picture else "NO"
        if grid.crs is None:
            options |= {"src_crs": _PLANE, "src_transform": grid.affine}
        target = scene.geobox
        return WarpedVRT(
            source,
            crs=_PLANE if target.crs is None else target.crs.to_wkt(),
            transform=target.affine,
            height=target.shape[0],
            width=target.shape[1],
            resampling=Resampling[resampling],
            **options,
        )

    def read(self, inside: Window, out: np.ndarray, valid: np.ndarray) -> None:
        """Read a window within the grid into ``out[places]``; clear ``valid`` where nothing was measured."""
        with reading(self.path):
            if self.places == list(range(len(out))) and out.flags.c_contiguous:
                self.dataset.read(self.indexes, window=inside, out=out)
                values = out
            else:
                values = self.dataset.read(self.indexes, window=inside)
                out[self.places] = values
            if self.alpha is not None:
                valid &= opaque(self.dataset.read(self.alpha, window=inside))
            elif self.masked:
                valid &= opaque(self.dataset.read_masks(self.indexes[0], window=inside))
        valid &= self.nodata.valid(values)

    def read_plane(self, inside: Window) -> np.ndarray:
        """Raw values of the first band alone, ``[H, W]``: of a mask, or of the witness of fill."""
        with reading(self.path):
            return self.dataset.read(self.indexes[0], window=inside)


def _crs_text(source: DatasetReader) -> str | None:
    return None if source.crs is None else source.crs.to_wkt()


class SceneReader:
    """An open scene, for one thread at a time: GDAL's handles are not to be used by two at once.

    Use as a context manager: ``with SceneReader(scene) as reader: reader.read(Window(0, 0, 512, 512))``.
    """

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self._stack = ExitStack()
        self.dtype = np.result_type(*(np.dtype(band.dtype) for band in scene.bands))
        self._scale = np.array([band.scale for band in scene.bands], np.float32)
        self._offset = np.array([band.offset for band in scene.bands], np.float32)
        try:
            self._parts = [self._stack.enter_context(SceneReader(part)) for part in scene.parts]
            by_path: dict[str, list[tuple[int, Band]]] = defaultdict(list)
            if not self._parts:
                for place, band in enumerate(scene.bands):
                    by_path[band.path].append((place, band))
            self._files = [_File(self._stack, scene, path, bands, scene.resampling) for path, bands in by_path.items()]
            self._fill = None if self._parts else scene.fill
            if self._fill is not None:
                self._witness = self._plane(self._fill.witness)
            self._masks = [
                (mask.kind, self._plane(Band("mask", mask.path, mask.index, "", None, 1, 0))) for mask in scene.masks
            ]
        except BaseException:
            self._stack.close()
            raise

    def _plane(self, band: Band) -> _File:
        """A band that says something about pixels: never mixed with its neighbours."""
        return _File(self._stack, self.scene, band.path, [(0, band)], "nearest")

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
        for file in self._files:
            file.read(inside, values, valid)
        for kind, raw in self._raw_masks(inside):
            valid &= usable(raw, kind)
        if self._fill is not None:
            witness = self._witness
            fill = self._fill.covers(witness.read_plane(inside), values, resampled=not witness.native)
            valid &= ~fill
        if whole:
            return Pixels(values, valid)
        padded = np.zeros((len(values), height, width), self.dtype)
        padded_valid = np.zeros((height, width), bool)
        padded[:, place[0], place[1]], padded_valid[place] = values, valid
        return Pixels(padded, padded_valid)

    def read_cloud(self, window: Window) -> np.ndarray | None:
        """Cloud, cirrus or cloud shadow, bool ``[H, W]``, False beyond the scene; None where no mask tells."""
        if self._parts:
            layers = [layer for part in self._parts if (layer := part.read_cloud(window)) is not None]
            return np.logical_and.reduce(layers) if layers else None
        if all(kind is MaskKind.explicit for kind, _ in self._masks):
            return None
        cloud = np.zeros((int(window.height), int(window.width)), bool)
        inside, place = self._inside(window)
        if inside is not None:
            for kind, raw in self._raw_masks(inside):
                cloud[place] |= cloudy(raw, kind)
        return cloud

    def _inside(self, window: Window) -> tuple[Window | None, tuple[slice, slice]]:
        """The part of a window that lies within the scene (None: none does), and its place in the window."""
        row, column = int(window.row_off), int(window.col_off)
        top, bottom = max(row, 0), min(row + int(window.height), self.scene.height)
        left, right = max(column, 0), min(column + int(window.width), self.scene.width)
        place = np.s_[top - row : bottom - row, left - column : right - column]
        return None if top >= bottom or left >= right else Window(left, top, right - left, bottom - top), place

    def _raw_masks(self, inside: Window) -> list[tuple[MaskKind, np.ndarray]]:
        return [(kind, file.read_plane(inside)) for kind, file in self._masks]

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
