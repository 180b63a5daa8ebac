"""From a scene or a cube and a few chosen places to a map of what is like them: what `geodino similar` does."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geodino.backbones.backbone import Backbone, load_backbone
from geodino.dense.cube_reader import open_cube
from geodino.dense.engine import LocalEngine
from geodino.dense.extraction import Extraction
from geodino.dense.stream import DenseSettings
from geodino.inputs import check_not_input
from geodino.products.stac import write_item, write_item_of_cube
from geodino.products.tags import provenance
from geodino.products.vector import check_vector_path
from geodino.retrieval.likeness import FloatArray, Query, write_similarity
from geodino.retrieval.place_index import embed, model_of, search, write_hits
from tiles.errors import InputError
from tiles.progress import Progress
from tiles.scenes.opening import open_scene
from tiles.scenes.scene import Scene
from tiles.writing.cog import check_output, part_of

if TYPE_CHECKING:
    import geopandas as gpd
    import xarray as xr


@dataclass(frozen=True)
class SimilarPlaces:
    """A question and where its answer goes; see ``geodino.similar`` for the fields."""

    scene: str | Scene
    output: Path
    points: tuple[tuple[float, float], ...]
    polygons: Path | None
    crs: str | None
    index: Path | None
    count: int
    overwrite: bool

    def run(self, backbone: str | Path | Backbone | None, settings: DenseSettings, progress: Progress | None) -> Path:
        """Answer it; refuses what cannot be answered before any work."""
        query = Query(self.points, self.polygons, self.crs)
        if self.index is None:
            check_output(self.output, overwrite=self.overwrite)
        else:
            check_vector_path(self.output, overwrite=self.overwrite)
        source = self.scene
        if not isinstance(source, Scene) and not is_cube(source):
            source = open_scene(source)
        check_not_input((self.output,), source, self.index, self.polygons)
        with cube_of(source, backbone, settings, self.output, progress) as made:
            vector = query.vector(made.cube)
            asked: dict[str, Any] = {"points": self.points, "crs": self.crs}
            if made.scene is not None:
                asked |= settings.identity()
            if self.index is None:
                self._map(made, vector, asked)
            else:
                hits = search(self.index, vector, self.count, model=model_of(made.cube))
                asked_in = Path(source) if isinstance(source, str) else source
                asked |= {"count": self.count}
                write_hits(hits, self.output, index=self.index, query=asked_in, settings=asked)
        return self.output

    def _map(self, made: "MadeCube", vector: FloatArray, asked: dict[str, Any]) -> None:
        tags = {"GEODINO_SIMILARITY": "cosine to the mean feature of the chosen places", **made.tags}
        write_similarity(made.cube, vector, self.output, scene=made.scene, tags=tags, overwrite=self.overwrite)
        task = "similarity-search"
        if made.scene is None:
            write_item_of_cube(self.output, Path(str(self.scene)), task=task, settings=asked)
        else:
            write_item(self.output, {"scene": made.scene}, made.backbone, task=task, settings=asked)


@dataclass(frozen=True)
class MadeCube:
    """Features to work on.

    Attributes:
        cube: The features.
        scene: What they were made from; None when the cube was there already.
        backbone: What made them, if it was done now.
        pixels: Scene pixels along a token's side; 1 when unknown.
        tags: What a product of them should say.
    """

    cube: "xr.DataArray"
    scene: Scene | None
    backbone: Backbone | None
    pixels: int
    tags: dict[str, object]


def is_cube(source: str | Scene) -> bool:
    """Whether a source is a feature cube and not imagery."""
    if isinstance(source, Scene):
        return False
    if source.endswith(".zarr"):
        return True
    if not source.lower().endswith((".tif", ".tiff")) or not Path(source).is_file():
        return False
    try:
        open_cube(source).close()
    except InputError:
        return False
    return True


@contextmanager
def cube_of(
    source: str | Scene,
    backbone: str | Path | Backbone | None,
    settings: DenseSettings,
    beside: Path,
    progress: Progress | None,
) -> Iterator[MadeCube]:
    """A cube, opened or made for the moment.

    Args:
        source: A feature cube, a scene, or what ``open_scene`` takes.
        backbone: Needed for scenes only.
        settings: How windows are laid.
        beside: Output next to which a temporary cube may lie; an interrupted run goes on with it.
        progress: Is told the share done.
    """
    if not isinstance(source, Scene) and is_cube(source):
        cube = open_cube(source)
        how = ("GEODINO_CUBE", "GEODINO_CODE")  # how to read the cube: no product of it is one
        tags = {str(k): v for k, v in cube.attrs.items() if str(k).startswith("GEODINO_") and k not in how}
        yield MadeCube(cube, None, None, 1, tags)
        return
    scene = source if isinstance(source, Scene) else open_scene(source)
    model = backbone if isinstance(backbone, Backbone) else load_backbone(backbone)
    work = _temporary(beside)
    plan = Extraction.plan(scene, LocalEngine(model), work, settings)
    try:
        plan.run(overwrite=True, progress=progress)
        yield MadeCube(
            open_cube(work), scene, model, model.patch_size // settings.upscale, provenance(model, scene=scene)
        )
    finally:
        # The unfinished work folder stays for the next run; the whole cube has served.
        shutil.rmtree(work, ignore_errors=True)
        work.with_name(work.name + ".stac.json").unlink(missing_ok=True)


def _temporary(beside: Path) -> Path:
    return beside.with_name(beside.name + ".features.zarr")


def unfinished(beside: Path) -> Path:
    """Folder that ``cube_of`` leaves beside an output when it is cut off."""
    return part_of(_temporary(beside))


def embed_source(
    source: str | Scene,
    backbone: str | Path | Backbone | None,
    settings: DenseSettings,
    beside: Path,
    *,
    tokens: int,
    progress: Progress | None = None,
) -> "gpd.GeoDataFrame":
    """Sparse embeddings of a scene or cube; see ``geodino.retrieval.place_index.embed``."""
    with cube_of(source, backbone, settings, beside, progress) as made:
        name = made.scene.name if made.scene is not None else Path(str(source)).stem
        when = made.scene.datetime if made.scene is not None else None
        return embed(made.cube, name, tokens=tokens, timestamp=when, pixels=made.pixels)
