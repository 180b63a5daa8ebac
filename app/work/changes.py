"""A change score cut at a threshold: polygons with area and score, likeness to examples, and the map as a file."""

from dataclasses import dataclass
from pathlib import Path

import geopandas
import numpy as np
import rasterio
from odc.geo.geobox import GeoBox
from pyproj import Transformer
from rasterio.features import shapes
from rasterio.windows import Window
from scipy import ndimage
from shapely.geometry import shape

from app.work.cubes import Cube
from tiles.errors import InputError
from tiles.writing.cog import CogWriter, MapClass

LARGEST_PIXELS = 64_000_000  # a score of more is polygonised by a job, not by the page
MOST_POLYGONS = 5_000  # a table and a map of more help nobody; the largest are kept
CLASSES = (MapClass(0, "no change", (235, 235, 235)), MapClass(1, "change", (225, 29, 72)))
NODATA = 255
_ROWS = 2048


@dataclass(frozen=True)
class Changes:
    """Places above a threshold.

    Attributes:
        frame: ``id`` (text), ``area_m2``, ``score`` (mean) and ``geometry`` in the raster's CRS, largest first.
        left_out: Small polygons beyond the number that is kept.
    """

    frame: geopandas.GeoDataFrame
    left_out: int


def polygons(score: Path, threshold: float, *, least_pixels: int = 4) -> Changes:
    """Polygons of a score raster where it reaches a threshold.

    Args:
        score: float32 raster, NaN nodata.
        threshold: Lowest score that counts.
        least_pixels: Smaller places are left out.

    Raises:
        InputError: Where the raster is too large for a page.
    """
    with rasterio.open(score) as source:
        if source.width * source.height > LARGEST_PIXELS:
            raise InputError(
                "This score is too large for a table on the page; make the polygons with the full change map."
            )
        values, transform, crs = source.read(1), source.transform, source.crs
        mask = np.nan_to_num(values, nan=-np.inf) >= threshold
    numbers, count = ndimage.label(mask)
    index = np.arange(1, count + 1)
    pixels = np.bincount(numbers.ravel(), minlength=count + 1)[1:]
    means = ndimage.mean(np.nan_to_num(values), numbers, index) if count else np.zeros(0)
    order = np.argsort(-pixels, kind="stable")
    order = order[pixels[order] >= least_pixels]
    kept = order[:MOST_POLYGONS]
    wanted = np.zeros(count + 1, dtype=bool)
    wanted[kept + 1] = True
    chosen = np.where(wanted[numbers], numbers, 0).astype(np.int32)
    found = [
        (int(number), shape(geometry))
        for geometry, number in shapes(chosen, mask=chosen > 0, connectivity=4, transform=transform)
    ]
    frame = geopandas.GeoDataFrame({"number": [n for n, _ in found]}, geometry=[g for _, g in found], crs=crs)
    frame["score"] = np.asarray(means, dtype=np.float64)[frame["number"].to_numpy(dtype=np.int64) - 1]
    frame["area_m2"] = _areas(frame)
    frame = frame.sort_values("area_m2", ascending=False, kind="stable").reset_index(drop=True)
    frame["id"] = [str(number) for number in range(1, len(frame) + 1)]
    return Changes(frame[["id", "area_m2", "score", "geometry"]], int(len(order) - len(kept)))


def _areas(frame: geopandas.GeoDataFrame) -> np.ndarray:
    if len(frame) == 0:
        return np.zeros(0)
    return frame.to_crs(frame.estimate_utm_crs()).area.to_numpy() if frame.crs else frame.area.to_numpy()


def change_vectors(before: Cube, after: Cube, frame: geopandas.GeoDataFrame) -> np.ndarray:
    """What changed in each polygon, as the backbone sees it: float32 ``[N, D]``, unit length, zeros without data.

    The mean over a polygon's tokens of the features after less those before; the two dates' grids may differ.
    """
    places = frame.geometry.representative_point()
    first = _tokens_at(before, places, frame)
    second = _tokens_at(after, places, frame)
    change = second - first
    length = np.linalg.norm(change, axis=1, keepdims=True)
    return (change / np.maximum(length, 1e-9)).astype(np.float32)


def _tokens_at(cube: Cube, places: geopandas.GeoSeries, frame: geopandas.GeoDataFrame) -> np.ndarray:
    """Mean token in the box of each polygon, at most 64 of them; the token at its inside point for small ones."""
    to_grid = _to_grid(cube.geobox, frame.crs)
    found = np.zeros((len(frame), cube.tokens.shape[1]), dtype=np.float32)
    for number, (point, geometry) in enumerate(zip(places, frame.geometry, strict=True)):
        west, south, east, north = geometry.bounds
        columns, rows = to_grid(np.linspace(west, east, 8), np.linspace(south, north, 8))
        grid = np.stack(np.meshgrid(rows, columns), axis=-1).reshape(-1, 2)
        x, y = to_grid(np.array([point.x]), np.array([point.y]))
        cells = np.unique(np.concatenate([grid, [[y[0], x[0]]]]).astype(np.int64), axis=0)
        inside = (cells >= 0).all(axis=1) & (cells < cube.shape).all(axis=1)
        positions = cube.index[cells[inside, 0], cells[inside, 1]]
        positions = positions[positions >= 0]
        if len(positions):
            found[number] = cube.tokens[positions].astype(np.float32).mean(axis=0)
    return found


def _to_grid(geobox: GeoBox, crs: object) -> "_ToGrid":
    return _ToGrid(~geobox.affine, Transformer.from_crs(crs, str(geobox.crs), always_xy=True))


@dataclass(frozen=True)
class _ToGrid:
    """From coordinates to fractional columns and rows of a grid."""

    inverse: rasterio.Affine
    transformer: Transformer

    def __call__(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        east, north = self.transformer.transform(x, y)
        columns, rows = self.inverse @ (np.asarray(east), np.asarray(north))
        return np.floor(columns), np.floor(rows)


def likeness(vectors: np.ndarray, more: list[int], less: list[int]) -> np.ndarray:
    """How alike each change is to the wanted ones, less to the unwanted ones; float32 ``[N]`` in [-2, 1]."""
    score = (vectors @ vectors[more].T).max(axis=1) if more else np.zeros(len(vectors), dtype=np.float32)
    return score - np.maximum((vectors @ vectors[less].T).max(axis=1), 0) if less else score


def write_change_map(score: Path, threshold: float, output: Path) -> Path:
    """Write a score cut at a threshold: uint8, 0 no change, 1 change, 255 nodata; memory does not grow."""
    from rasterio.crs import CRS

    with rasterio.open(score) as source:
        crs: CRS | None = source.crs
        geobox = GeoBox((source.height, source.width), source.transform, crs.to_wkt() if crs else None)
        tags = {**source.tags(), "GEODINO_THRESHOLD": f"{threshold:.6g}"}
        with CogWriter(
            output,
            geobox,
            dtype="uint8",
            nodata=NODATA,
            classes=CLASSES,
            resampling="nearest",
            tags=tags,
            overwrite=True,
        ) as target:
            for top in range(0, source.height, _ROWS):
                window = Window(0, top, source.width, min(_ROWS, source.height - top))
                values = source.read(1, window=window)
                cut = np.where(np.isfinite(values), values >= threshold, NODATA).astype(np.uint8)
                target.write(top, cut[None])
    return output
