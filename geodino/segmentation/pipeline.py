"""A land-cover map of a scene of any size: tokens, head, refined scores, files."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geodino.dense.settings import DenseSettings
from geodino.dense.tokens import SceneTokens, TokenSource, tokens_from_cube
from geodino.heads.labels import Labels
from geodino.heads.legend import Legend
from geodino.heads.linear import cluster_head
from geodino.heads.model_file import Recipe, SegmentationModel
from geodino.heads.render import ClassRows, render_classes
from geodino.heads.validation import Validation
from geodino.segmentation.clusters import fit_clusters
from geodino.segmentation.training import UNTESTED, Examples
from tiles.errors import InputError
from tiles.progress import Progress, Share, Silent
from tiles.scenes.scene import Scene
from tiles.writing.cog import CogWriter, MapClass
from tiles.writing.outputs import check_output, part_of, staged

_CLUSTER_SAMPLE = 50_000
# Tolerance of the polygons' borders in pixel sides.
_SIMPLIFY_PIXELS = 1.0


@dataclass(frozen=True)
class SegmentationOutputs:
    """Where the results go.

    Attributes:
        classes: the map, uint8 COG.
        confidence: probability of the class in percent, uint8 COG; None for none.
        vector: polygons; None for none.
        model: the trained head; None for none.
        min_area_m2: objects below this area join their largest neighbour in the polygons.
        overwrite: replace existing files.
    """

    classes: Path
    confidence: Path | None = None
    vector: Path | None = None
    model: Path | None = None
    min_area_m2: float = 0.0
    overwrite: bool = False

    def check(self) -> None:
        """Refuse outputs that cannot be written, before any work.

        Raises:
            InputError: the smallest area is none.
            OutputError: one of them exists or has no folder.
        """
        if self.vector is not None or self.min_area_m2:
            from geodino.products.vector import check_area, check_vector_path

            check_area(self.min_area_m2)
            if self.vector is not None:
                check_vector_path(self.vector, overwrite=self.overwrite)
        for path in (self.classes, self.confidence, self.model):
            if path is not None:
                check_output(path, overwrite=self.overwrite)


@dataclass(frozen=True)
class SegmentationResult:
    """What was made.

    Attributes:
        path: the map.
        legend: its classes.
        validation: cross-validation on the labels, where it was asked for and they lie in places enough.
        notes: decisions taken, to be printed.
        shares: share of the valid pixels in each class.
    """

    path: Path
    legend: Legend
    validation: Validation | None
    notes: tuple[str, ...]
    shares: tuple[float, ...]


@dataclass(frozen=True)
class SegmentationQuestion:
    """Which classes to map: those of labels, of k-means or of a trained model.

    Attributes:
        labels: labelled pixels on the scene's grid.
        clusters: number of k-means classes.
        model: a head trained before.
        model_path: its file, for messages.
        validate: cross-validate the classes of labels, which takes longer than the map.
    """

    labels: Labels | None = None
    clusters: int | None = None
    model: SegmentationModel | None = None
    model_path: Path | None = None
    validate: bool = False

    def __post_init__(self) -> None:
        if sum(choice is not None for choice in (self.labels, self.clusters, self.model)) != 1:
            raise InputError("say which classes to map: give one of --labels, --clusters and --model")
        if self.validate and self.labels is None:
            raise InputError("--validate tests classes on their labels; give them with --labels")


def map_settings(upscale: int = 1) -> DenseSettings:
    """Dense settings of a map: every valid pixel lies in a valid token, so the map's nodata is the scene's."""
    return DenseSettings(upscale=upscale, min_valid=0.0)


def segment_scene(
    scene: Scene,
    source: TokenSource,
    outputs: SegmentationOutputs,
    question: SegmentationQuestion,
    *,
    refine: bool = True,
    use_pixels: bool = True,
    seed: int = 0,
    progress: Progress | None = None,
) -> SegmentationResult:
    """Make a land-cover map.

    Args:
        scene: any scene with the backbone's bands.
        source: where its tokens come from.
        outputs: where the results go.
        question: which classes to map.
        refine: sharpen the coarse scores with the image.
        use_pixels: let a head trained on labels read the bands of single pixels beside the tokens.
        seed: seed of samples, folds and clusters.
        progress: reporter of the share done, 0 to 1.

    Raises:
        InputError: an input does not fit; one sentence says which and how to go on.
        OutputError: an output exists or cannot be written.
    """
    outputs.check()
    progress = progress or Silent()
    labels, model, origin = question.labels, question.model, source.origin
    recipe = Recipe.of(scene, origin, use_pixels=use_pixels and labels is not None)
    notes = list(labels.notes) if labels is not None else []
    if model is not None:
        notes += model.recipe.fit(recipe, question.model_path or Path("the model"))
        recipe = model.recipe
    pixels = scene.select(recipe.pixel_bands) if recipe.pixel_bands else None
    guide = scene.select(origin.bands)
    tokens = source.tokens(Share(progress, 0, 0.85))
    if not tokens.valid.any():
        tokens.remove()
        raise InputError(f"{scene.source} has no valid pixel in the bands {', '.join(origin.bands)}")
    validation = None
    if labels is not None:
        examples = Examples.gather(labels, tokens, scene, recipe)
        notes += examples.notes
        validation = examples.validate(seed=seed) if question.validate else None
        if question.validate and validation is None:
            notes.append(UNTESTED)
        model = examples.fit(validation)
    elif model is None:
        model = _cluster_model(tokens, recipe, question.clusters or 0, seed)
    tags = origin.tags(scene=scene)
    if validation is not None:
        tags["GEODINO_VALIDATION"] = validation.to_json()
    rows = render_classes(
        model.head, model.waves, tokens, guide, pixels,
        refine=refine, confidence=outputs.confidence is not None,
    )  # fmt: skip
    with staged(outputs.classes, outputs.confidence, outputs.vector, outputs.model) as (classes, *others):
        assert classes is not None
        beside = replace(outputs, classes=classes, confidence=others[0], vector=others[1], model=others[2])
        counts = write_map(rows, scene, model.legend, beside, tags, progress)
        if beside.model is not None:
            model.save(beside.model)
        if beside.vector is not None:
            write_classes_vector(beside, model.legend, scene)
        outputs.check()  # nothing has taken a name meanwhile
    origin.write_item(outputs.classes, {"scene": scene}, task="semantic-segmentation")
    tokens.remove()  # last: what fails before it goes on from them
    total = max(int(counts[1:].sum()), 1)
    shares = tuple(float(counts[i + 1] / total) for i in range(len(model.legend)))
    return SegmentationResult(outputs.classes, model.legend, validation, tuple(notes), shares)


def validate_labels(scene: Scene, labels: Labels, features: Path, *, seed: int = 0) -> Validation | None:
    """The validation that ``segment_scene`` makes beside a map, alone, with the tokens of a cube.

    Args:
        scene: the scene the cube was made of.
        labels: labelled pixels on its grid.
        features: the cube.
        seed: seed of the folds.

    Returns:
        None where the labels of each class lie in a single place.

    Raises:
        InputError: the cube does not fit the scene, or every label of a class lies on nodata.
    """
    source = tokens_from_cube(features, scene)
    recipe = Recipe.of(scene, source.origin, use_pixels=True)
    return Examples.gather(labels, source.tokens(), scene, recipe).validate(seed=seed)


def _cluster_model(tokens: SceneTokens, recipe: Recipe, clusters: int, seed: int) -> SegmentationModel:
    """A head that gives each token to the nearest of k centres."""
    rows, columns = np.nonzero(tokens.valid)
    picked = np.random.default_rng(seed).permutation(len(rows))[:_CLUSTER_SAMPLE]
    picked.sort()
    centres = fit_clusters(tokens.at(rows[picked], columns[picked]), clusters, seed=seed)
    legend = Legend.of([f"cluster {index + 1}" for index in range(len(centres))])
    return SegmentationModel(cluster_head(centres), legend, recipe)


def write_map(
    rows: Iterator[ClassRows],
    scene: Scene,
    legend: Legend,
    outputs: SegmentationOutputs,
    tags: dict[str, Any],
    progress: Progress,
) -> NDArray[np.int64]:
    """Write the classes and, where asked, the confidence; count the pixels of each value `[256]`."""
    counts = np.zeros(256, dtype=np.int64)
    classes = [MapClass(i + 1, n, c) for i, (n, c) in enumerate(zip(legend.names, legend.colors, strict=True))]
    with contextlib.ExitStack() as stack:
        writer = stack.enter_context(
            CogWriter(
                outputs.classes, scene.geobox, dtype="uint8", nodata=0, classes=classes, resampling="nearest",
                descriptions=("class",), tags=tags, overwrite=outputs.overwrite,
            )
        )  # fmt: skip
        confidence = None
        if outputs.confidence is not None:
            confidence = stack.enter_context(
                CogWriter(
                    outputs.confidence, scene.geobox, dtype="uint8", nodata=255, resampling="average",
                    descriptions=("confidence in percent",), tags=tags, overwrite=outputs.overwrite,
                )
            )  # fmt: skip
        for piece in rows:
            writer.write(piece.row, piece.classes[None])
            if confidence is not None:
                assert piece.confidence is not None
                confidence.write(piece.row, piece.confidence[None])
            counts += np.bincount(piece.classes.ravel(), minlength=256)
            progress.update(0.85 + 0.14 * (piece.row + piece.classes.shape[0]) / scene.height, "map")
    return counts


def write_classes_vector(outputs: SegmentationOutputs, legend: Legend, scene: Scene) -> None:
    """Polygons of the finished map: class, name and true area; those below the minimum mapping unit join another."""
    if outputs.vector is None:
        return
    from geodino.products.sieve import merge_small_regions
    from geodino.products.vector import areas_m2, polygonize, write_vector

    source = outputs.classes
    merged = part_of(outputs.classes, ".merged")
    try:
        if outputs.min_area_m2 > 0:
            import rasterio

            with (
                rasterio.open(source) as file,
                CogWriter(merged, scene.geobox, dtype="uint8", nodata=0, resampling="nearest", overwrite=True) as out,
            ):
                for row, values in merge_small_regions(file, outputs.min_area_m2):
                    out.write(row, values[None])
            source = merged
        frame = polygonize(source, simplify_pixels=_SIMPLIFY_PIXELS, drop=(0,))
    finally:
        merged.unlink(missing_ok=True)
    frame["class"] = [legend.names[value - 1] for value in frame["value"]]
    frame["area_m2"] = areas_m2(frame).round(2)
    write_vector(
        frame[["value", "class", "area_m2", "geometry"]], outputs.vector, layer="classes", overwrite=outputs.overwrite
    )
