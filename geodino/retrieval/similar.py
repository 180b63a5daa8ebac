"""From a scene or a cube and a few chosen places to a map of what is like them: what `geodino similar` does."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geodino.dense.cube_reader import cube_array
from geodino.dense.tokens import TokenSource
from geodino.products.vector import check_vector_path
from geodino.retrieval.likeness import Query, write_similarity
from geodino.retrieval.place_index import check_model, embed, model_of, read_index, search, write_hits
from tiles.errors import InputError
from tiles.progress import Progress
from tiles.scenes.scene import Scene
from tiles.writing.outputs import check_output

if TYPE_CHECKING:
    import geopandas as gpd


@dataclass(frozen=True)
class SimilarPlaces:
    """A question and where its answer goes.

    Attributes:
        query: What to look for.
        output: The map, or with an index the best places.
        index: Index of ``geodino index`` to search instead of the scene.
        count: Places of the index to keep.
        overwrite: Replace an existing output.
    """

    query: Query
    output: Path
    index: Path | None = None
    count: int = 100
    overwrite: bool = False

    def check(self) -> None:
        """Refuse an output that cannot be written, before any work.

        Raises:
            OutputError: It exists, or its name is none of what an index gives.
        """
        (check_output if self.index is None else check_vector_path)(self.output, overwrite=self.overwrite)

    def answer(
        self,
        source: TokenSource,
        scene: Scene | None,
        progress: Progress | None = None,
        say: Callable[[str], None] | None = None,
    ) -> Path:
        """Answer it.

        Args:
            source: Where the tokens come from.
            scene: The scene, on whose pixels the map goes; None leaves it on the token grid.
            progress: Is told the share made, 0 to 1.
            say: Is told how the polygons are read.

        Raises:
            InputError: A place lies outside the scene or on nodata, or a file cannot be used.
            OutputError: The output cannot be written.
        """
        for note in self.query.check(source.geobox):
            if say is not None:
                say(note)
        origin = source.origin
        if self.index is not None:
            check_model(read_index(self.index).attrs, model_of(origin), str(self.index), "the query")
        asked: dict[str, Any] = {"points": self.query.points, "crs": self.query.crs}
        tokens = source.tokens(progress)
        # Refused or failed from here on, the tokens stay: the next question goes on with them.
        vector = self.query.vector(tokens)
        if self.index is None:
            scenes = {} if scene is None else {"scene": scene}
            tags = origin.tags(**scenes)
            tags["GEODINO_SIMILARITY"] = "cosine to the mean feature of the chosen places"
            write_similarity(tokens, vector, self.output, scene=scene, tags=tags, overwrite=self.overwrite)
            origin.write_item(self.output, scenes, task="similarity-search", settings=asked)
        else:
            hits = search(self.index, vector, self.count, model=model_of(origin))
            asked |= {"count": self.count} | (origin.settings if scene is not None else {})
            where = scene if scene is not None else origin.cube or Path(origin.name)
            write_hits(hits, self.output, index=self.index, query=where, settings=asked)
        tokens.remove()
        return self.output


def is_cube(source: str | Path | Scene) -> bool:
    """Whether a source is a feature cube and not imagery."""
    if isinstance(source, Scene):
        return False
    path = Path(source)
    if path.suffix == ".zarr":
        return True
    if path.suffix.lower() not in (".tif", ".tiff") or not os.path.isfile(path):
        return False
    try:
        cube_array(path)
    except InputError:
        return False
    return True


def embed_source(source: TokenSource, scene: Scene | None, *, side: int) -> "gpd.GeoDataFrame":
    """Sparse embeddings of a scene or cube; see ``geodino.retrieval.place_index.embed``."""
    tokens = source.tokens()
    if scene is not None:
        frame = embed(tokens, scene.name, side=side, timestamp=scene.datetime)
    else:
        frame = embed(tokens, Path(source.origin.cube or "").stem, side=side)
    tokens.remove()
    return frame
