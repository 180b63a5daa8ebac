"""Where else does it look like this? Cosine similarity of every token of a scene to a few chosen ones.

The query is the mean of the unit features under clicks or polygons, brought to unit length; the map is its cosine with
every token, brought to the scene's pixel grid. Tokens without data have no weight in between.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from affine import Affine
from odc.geo.geobox import GeoBox
from pyproj import CRS, Transformer
from pyproj.exceptions import CRSError, ProjError
from rasterio.features import geometry_mask
from rasterio.windows import Window

from geodino.dense.cube import PIECE_ROWS
from geodino.dense.tokens import SceneTokens
from tiles.errors import InputError
from tiles.grids import turns_to
from tiles.scenes.reader import SceneReader
from tiles.scenes.scene import Scene
from tiles.writing.cog import CogWriter
from tiles.writing.stitch import upsample_rows

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Query:
    """What to look for.

    Attributes:
        points: Places ``(x, y)``.
        polygons: Vector file whose polygons, all together, are looked for.
        crs: Coordinate reference system of the points; the scene's own when None.
        layer: Layer of the polygons' file; None for all of them together.
    """

    points: tuple[tuple[float, float], ...] = ()
    polygons: Path | None = None
    crs: str | None = None
    layer: str | None = None

    def __post_init__(self) -> None:
        if not self.points and self.polygons is None:
            raise InputError("say what to look for: --at X,Y or --polygons FILE")
        if self.crs is not None and not self.points:
            raise InputError("--crs says in which system the places of --at are; give places or leave it out")
        if self.layer is not None and self.polygons is None:
            raise InputError("--layer names one of the layers of --polygons; give polygons or leave it out")

    def check(self, box: GeoBox) -> list[str]:
        """Refuse, before any tokens are made, what does not lie on their grid.

        Returns:
            Notes on how the file is read.

        Raises:
            InputError: A place lies outside, or the file holds no polygon on the grid.
        """
        for x, y in self.points:
            self._place(box, x, y)
        if self.polygons is None:
            return []
        shapes, notes = read_polygons(self.polygons, box, self.layer)
        if geometry_mask(shapes, box.shape, box.affine, all_touched=True).all():
            raise _nowhere(self.polygons, box)
        return notes

    def vector(self, tokens: SceneTokens) -> FloatArray:
        """Unit feature ``[D]`` of the query.

        Raises:
            InputError: A place lies outside the tokens' grid or on nodata, or the file holds no polygon on it.
        """
        found = [self._at(tokens, x, y) for x, y in self.points]
        if self.polygons is not None:
            found.append(self._under(tokens, self.polygons))
        return unit(np.concatenate(found).mean(0))

    def _place(self, box: GeoBox, x: float, y: float) -> tuple[int, int]:
        """Row and column of the token in which a place lies."""
        east, north = (x, y) if self.crs is None else _transform(self.crs, box, x, y)
        with np.errstate(invalid="ignore"):
            east = float(turns_to(box, np.array([east]))[0])
        affine: Affine = ~box.affine
        column, row = np.floor(affine @ (east, north))
        # A place that its CRS does not hold comes as infinity: outside, like any other.
        if not (0 <= row < box.shape[0] and 0 <= column < box.shape[1]):
            raise InputError(
                f"{x:g},{y:g} lies outside the scene, which covers {_extent(box)}; "
                "give X,Y in its CRS or name theirs with --crs"
            )
        return int(row), int(column)

    def _at(self, tokens: SceneTokens, x: float, y: float) -> FloatArray:
        row, column = self._place(tokens.geobox, x, y)
        if not tokens.valid[row, column]:
            raise InputError(f"{x:g},{y:g} lies on nodata; choose another place")
        return tokens.at(np.array([row]), np.array([column]))

    def _under(self, tokens: SceneTokens, path: Path) -> FloatArray:
        box = tokens.geobox
        shapes, _ = read_polygons(path, box, self.layer)
        # Tokens by their centres; polygons smaller than a token by whatever they touch.
        for touched in (False, True):
            inside = ~geometry_mask(shapes, box.shape, box.affine, all_touched=touched, invert=False) & tokens.valid
            if inside.any():
                return tokens.at(*np.nonzero(inside))
        raise _nowhere(path, box)


def read_polygons(path: Path, box: GeoBox, layer: str | None = None) -> tuple[list[Any], list[str]]:
    """Polygons of a vector file in a grid's coordinates, read as labels are, and notes on what was decided.

    Raises:
        InputError: The file cannot be read or laid on the grid, or holds no polygon.
    """
    from geodino.heads.labels.features import read_features
    from geodino.heads.labels.projecting import on_scene
    from geodino.heads.labels.vector import parts_of

    if not os.path.exists(path):
        raise InputError(f"{path} does not exist")
    frame, notes = read_features(path, box, layer)
    geometries, projected = on_scene(frame, box, path)
    shapes = [part for whole in geometries for part in parts_of(whole) if "Polygon" in part.geom_type]
    if not shapes:
        raise InputError(f"{path} holds no polygon")
    return shapes, notes + projected


def _nowhere(path: Path, box: GeoBox) -> InputError:
    return InputError(f"no polygon of {path} lies on valid pixels of the scene, which covers {_extent(box)}")


def _transform(crs: str, box: GeoBox, x: float, y: float) -> tuple[float, float]:
    if box.crs is None:
        raise InputError("the scene has no coordinate reference system: give X,Y in its own pixels, without --crs")
    try:
        moved = Transformer.from_crs(CRS.from_user_input(crs), box.crs.to_wkt(), always_xy=True).transform(x, y)
    except (CRSError, ProjError):
        raise InputError(f"{crs} is no coordinate reference system; name one such as EPSG:4326") from None
    return float(moved[0]), float(moved[1])


def _extent(box: GeoBox) -> str:
    bounds = box.boundingbox
    return f"x {bounds.left:.6g} to {bounds.right:.6g}, y {bounds.bottom:.6g} to {bounds.top:.6g}"


def unit(vector: npt.NDArray[np.floating]) -> FloatArray:
    """The vector at length 1."""
    return np.asarray(vector / max(float(np.linalg.norm(vector)), 1e-12), np.float32)


def token_rows(tokens: SceneTokens) -> Iterator[tuple[int, FloatArray, npt.NDArray[np.bool_]]]:
    """Rows of tokens from top to bottom: first row, features ``[D, h, w]`` (0 where not valid) and validity."""
    height = tokens.valid.shape[0]
    for start in range(0, height, PIECE_ROWS):
        yield start, *tokens.read(start, min(start + PIECE_ROWS, height))


def cosine_rows(tokens: SceneTokens, query: FloatArray) -> Iterator[tuple[int, FloatArray, npt.NDArray[np.bool_]]]:
    """Cosine ``[h, w]`` in [-1, 1] of each token with a unit query ``[D]``, row by row, with validity.

    Features of unit length are assumed up to their code's rounding, which is divided out.
    """
    for start, features, valid in token_rows(tokens):
        length = np.sqrt(np.einsum("dhw,dhw->hw", features, features))
        yield start, np.einsum("d,dhw->hw", query, features) / np.maximum(length, 1e-12), valid


def write_similarity(
    tokens: SceneTokens,
    query: FloatArray,
    output: Path,
    *,
    scene: Scene | None,
    tags: dict[str, Any],
    overwrite: bool = False,
) -> None:
    """Write a similarity map: float32 COG, cosine in [-1, 1], NaN where nodata.

    Args:
        tokens: Features.
        query: Unit vector ``[D]``.
        output: The map.
        scene: The scene on whose pixel grid the map goes; None leaves it on the token grid.
        tags: What the file says about its making.
        overwrite: Replace an existing file.
    """
    options: dict[str, Any] = {"dtype": "float32", "nodata": float("nan"), "tags": tags, "overwrite": overwrite}
    options["descriptions"] = ("cosine similarity",)
    if scene is None:
        with CogWriter(output, tokens.geobox, **options) as out:
            for start, score, valid in cosine_rows(tokens, query):
                out.write(start, np.where(valid, score, np.float32(np.nan))[None])
        return
    weighted = (np.stack([score * valid, valid]) for _, score, valid in cosine_rows(tokens, query))
    with CogWriter(output, scene.geobox, **options) as out, SceneReader(scene) as reader:
        for start, (total, weight) in upsample_rows(weighted, tokens.pixels, scene.height, scene.width):
            measured = reader.read(Window(0, start, scene.width, total.shape[0])).valid & (weight > 1e-6)
            with np.errstate(invalid="ignore", divide="ignore"):
                score = np.where(measured, np.clip(total / weight, -1, 1), np.float32(np.nan))
            out.write(start, score[None].astype(np.float32))


def parse_points(texts: Sequence[str]) -> tuple[tuple[float, float], ...]:
    """Places from texts such as ``500010,4649990``.

    Raises:
        InputError: A text is not two numbers.
    """
    points = []
    for text in texts:
        parts = text.replace(";", ",").split(",")
        try:
            x, y = (float(part) for part in parts)
        except ValueError:
            raise InputError(f"a place is two numbers, X,Y, not '{text}'") from None
        points.append((x, y))
    return tuple(points)
