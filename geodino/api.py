"""The public functions: each does what the command of the same name does."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from geodino.dense.settings import DenseSettings
from geodino.jobs.run_options import RunKeywords, RunOptions
from tiles.errors import InputError
from tiles.progress import Progress
from tiles.scenes.opening import as_scene
from tiles.scenes.scene import Scene
from tiles.writing.outputs import check_not_input, check_output, locked

if TYPE_CHECKING:
    import xarray as xr

    from geodino.change_detection.pipeline import ChangeResult
    from geodino.change_detection.series import SeriesResult
    from geodino.heads.validation import Validation
    from geodino.segmentation.pipeline import SegmentationResult


def features(
    scene: str | Path | Scene,
    output: str | Path,
    *,
    settings: DenseSettings | None = None,
    dtype: str = "auto",
    quicklook: str | Path | None = None,
    progress: Progress | None = None,
    **run: Unpack[RunKeywords],
) -> "xr.DataArray":
    """Make a cube of dense features on the backbone's token grid, with a STAC item beside it.

    Args:
        scene: A scene, or what ``open_scene`` takes. It may be larger than memory.
        output: ``.zarr`` (Zarr v3, sharded) or ``.tif`` (Cloud-Optimized GeoTIFF).
        settings: Window, halo, finer grid, layers and batch.
        dtype: ``auto`` (float16 in Zarr, one-byte code in GeoTIFF), ``float16``, ``float32`` or ``int8``.
        quicklook: Also a picture of the three main components, ``.png`` or ``.tif``, named in the cube's item. Where it
            alone is missing, it is drawn from the cube there, if that is of the same scene, model and settings.
        progress: Reporter of the share done, 0 to 1.
        **run: See ``RunKeywords``.

    Returns:
        The cube, lazily: ``[D, ceil(H / p), ceil(W / p)]`` float32 of unit length along ``D``, NaN where nodata, with
        coordinates and CRS; ``p`` is the patch size divided by ``settings.upscale``.

    Raises:
        InputError: The scene lacks a band of the backbone, a file is damaged, or another unfinished run lies there.
        OutputError: An output exists or cannot be written.
    """
    from geodino.dense.cube_reader import open_cube
    from geodino.jobs.features import make_features

    made = make_features(
        scene, Path(output), RunOptions(**run), settings=settings, dtype=dtype, quicklook=_path(quicklook),
        progress=progress,
    )  # fmt: skip
    return open_cube(made)


def segment(
    scene: str | Path | Scene,
    output: str | Path,
    *,
    labels: str | Path | None = None,
    field: str | None = None,
    layer: str | None = None,
    clusters: int | None = None,
    model: str | Path | None = None,
    save_model: str | Path | None = None,
    vector: str | Path | None = None,
    min_area_m2: float = 0.0,
    confidence: str | Path | None = None,
    validate: bool = False,
    features: str | Path | None = None,
    upscale: int | None = None,
    progress: Progress | None = None,
    **run: Unpack[RunKeywords],
) -> "SegmentationResult":
    """Make a land-cover map; exactly one of ``labels``, ``clusters`` and ``model`` says of which classes.

    Args:
        scene: a scene, or what ``open_scene`` takes. It may be larger than memory.
        output: the map: a COG on the scene's pixel grid, uint8, 0 = nodata, classes from 1 named and coloured in it.
        labels: points, polygons, a table of points or a raster of classes, any coordinate reference system.
        field: attribute of the labels that holds the class; chosen when there is one choice.
        layer: layer of the labels' file; None for all of them together.
        clusters: number of k-means classes, 2 to 254.
        model: a model that ``save_model`` wrote, made with the same backbone and normalisation.
        save_model: where to keep the trained head (safetensors with a JSON header).
        vector: polygons of the classes with their area in m²; the suffix chooses the format.
        min_area_m2: polygons below this area join their largest neighbour.
        confidence: probability of the class in percent, uint8, 255 = nodata, same grid.
        validate: also do what ``validate`` does alone; it takes longer than the map.
        features: a cube that ``features`` made of this scene: its tokens are taken, and no backbone is run.
        upscale: tokens per patch side, 1, 2 or 4 (1 if not given); a model and a cube bring their own.
        progress: reporter of the share done, 0 to 1.
        **run: See ``RunKeywords``.

    Returns:
        Classes, cross-validation and notes; the map itself is in ``output``.

    Raises:
        InputError: an input does not fit; one sentence says which and how to go on.
        OutputError: an output exists or cannot be written.
    """
    from geodino.heads.labels import check_reading, read_labels
    from geodino.heads.model_file import SegmentationModel
    from geodino.segmentation.clusters import check_clusters
    from geodino.segmentation.pipeline import SegmentationOutputs, SegmentationQuestion, map_settings, segment_scene

    options = RunOptions(**run)
    options.check_cubes(() if features is None else (features,), upscale=upscale)
    written = (Path(output), _path(confidence), _path(vector), _path(save_model))
    outputs = SegmentationOutputs(*written, min_area_m2, overwrite=options.overwrite)
    outputs.check()
    check_reading(labels, "labels", field, layer)
    if clusters is not None:
        check_clusters(clusters)
    trained = None if model is None else SegmentationModel.load(Path(model))
    scene = as_scene(scene)
    check_not_input(written, scene, labels, model, features)
    found = None if labels is None else read_labels(labels, scene.geobox, field=field, layer=layer)
    question = SegmentationQuestion(found, clusters, trained, _path(model), validate)
    settings = map_settings(trained.upscale(upscale, model or "") if trained else upscale or 1)
    with locked(*written), options.tokens(scene, outputs.classes, features=features, settings=settings) as source:
        return segment_scene(scene, source, outputs, question, progress=progress)


def validate(
    scene: str | Path | Scene, labels: str | Path, features: str | Path, *,
    field: str | None = None, layer: str | None = None,
) -> "Validation | None":  # fmt: skip
    """How good ``segment``'s map from these labels is likely to be, without making it.

    Args:
        scene: a scene, or what ``open_scene`` takes.
        labels: as for ``segment``.
        features: a cube that ``features`` made of the scene.
        field: attribute of the labels that holds the class.
        layer: layer of the labels' file.

    Returns:
        Agreement of the head, and of a forest on the pixels' bands, with labels of places kept apart; None where the
        labels of each class lie in a single place.

    Raises:
        InputError: an input does not fit; one sentence says which and how to go on.
    """
    from geodino.heads.labels import read_labels
    from geodino.segmentation.pipeline import validate_labels

    scene = as_scene(scene)
    return validate_labels(scene, read_labels(labels, scene.geobox, field=field, layer=layer), Path(features))


def change(
    before: str | Path | Scene,
    after: str | Path | Scene,
    output: str | Path,
    *,
    score: str | Path | None = None,
    threshold: float | None = None,
    method: str = "auto",
    objects: bool = False,
    like: str | Path | None = None,
    field: str | None = None,
    layer: str | None = None,
    model: str | Path | None = None,
    vector: str | Path | None = None,
    min_area_m2: float = 0.0,
    features: Sequence[str | Path] = (),
    upscale: int | None = None,
    layers: Sequence[int] = (),
    progress: Progress | None = None,
    **run: Unpack[RunKeywords],
) -> "ChangeResult":
    """Map what changed between two dates of one place.

    Args:
        before: First date: a scene, or what ``open_scene`` takes. The map has its pixel grid, cut to where both lie.
        after: Second date; any coordinate reference system, resolution and extent that overlaps.
        output: The mask: a Cloud-Optimized GeoTIFF, uint8, 0 no change, 1 change, 255 nodata (of either date).
        score: Where to keep the score: float32, standard deviations of the log distance above the stable background,
            larger = more change, NaN nodata. One that exists and was made from the same inputs and settings is taken.
        threshold: Scores above are change; None for the automatic one, calibrated on the stable background.
        method: ``features`` (tokens), ``spectral`` (IR-MAD of shared bands), ``fused`` or ``auto`` (both).
        objects: Pool the score over small image objects; for objects many pixels wide.
        like: Labels of two classes, the wanted one called 1, change or yes; the score becomes its log odds.
        field: Attribute of the examples that holds the class.
        layer: Layer of the examples' file; None for all of them together.
        model: A model that ``segment(save_model=...)`` wrote: says what changed places were and became.
        vector: Polygons of change with area, score, dates and, with a model, classes; the suffix chooses the format.
        min_area_m2: Smaller polygons are left out.
        features: Cubes that ``features`` made of both dates, which lie on one pixel grid: their tokens are compared as
            they are, and no backbone is run. Shift and light are then corrected in the bands only.
        upscale: Tokens per patch side, 1, 2 or 4 (1 if not given); a model and cubes bring their own.
        layers: Layers of the backbone to compare instead of the last, each on its own; as for ``upscale``.
        progress: Reporter of the share done, 0 to 1.
        **run: See ``RunKeywords``.

    Returns:
        Threshold, share of change, transitions and notes; the maps themselves are in the files.

    Raises:
        InputError: An input does not fit; one sentence says which and how to go on.
        OutputError: An output exists or cannot be written.
    """
    from geodino.change_detection.null_model import check_threshold
    from geodino.change_detection.pipeline import ChangeOutputs, ChangeQuestion, change_scenes
    from geodino.change_detection.score_method import Method
    from geodino.heads.labels import check_reading
    from geodino.heads.model_file import SegmentationModel

    options = RunOptions(**run)
    chosen = Method.named(method).settled()
    check_threshold(threshold)
    outputs = ChangeOutputs(Path(output), _path(score), _path(vector), min_area_m2, options.overwrite)
    outputs.check()
    check_reading(like, "like", field, layer)
    options.check_cubes(features, upscale=upscale, layers=layers)
    if features and not chosen.reads_features and model is None:
        raise InputError("method spectral compares no features; leave --features out or take another --method")
    trained = None if model is None else SegmentationModel.load(Path(model))
    before, after = as_scene(before), as_scene(after)
    check_not_input((outputs.mask, outputs.score, outputs.vector), before, after, like, model, *features)
    question = ChangeQuestion(chosen, threshold, objects, _path(like), field, layer, trained, _path(model))
    upscale = trained.upscale(upscale, model or "") if trained else upscale or 1
    settings, cubes = DenseSettings(upscale=upscale, layers=tuple(layers)), [Path(cube) for cube in features]
    needed = not cubes and (chosen.reads_features or trained is not None)
    with locked(outputs.mask, outputs.score, outputs.vector), options.engine() if needed else nullcontext() as engine:
        return change_scenes(
            before, after, outputs, question, engine=engine, settings=settings, cubes=cubes, progress=progress
        )


def change_series(
    scenes: Sequence[str | Path | Scene],
    output: str | Path,
    *,
    threshold: float | None = None,
    method: str = "auto",
    features: Sequence[str | Path] = (),
    upscale: int | None = None,
    layers: Sequence[int] = (),
    progress: Progress | None = None,
    **run: Unpack[RunKeywords],
) -> "SeriesResult":
    """Map when each place of three dates or more changed for good.

    Args:
        scenes: Dates in order of time: scenes, or what ``open_scene`` takes; the first one's pixel grid is kept.
        output: A Cloud-Optimized GeoTIFF, uint16: the year of the first lasting change (the date's number where years
            are unknown or repeat), 0 none, 65535 nodata of any date.
        threshold: Scores above are change; None for each pair's own.
        method: As for ``change``.
        features: As for ``change``, a cube for each date.
        upscale: As for ``change``.
        layers: As for ``change``.
        progress: Reporter of the share done, 0 to 1.
        **run: See ``RunKeywords``.

    Raises:
        InputError: Fewer than three dates, dates out of order or without overlap.
        OutputError: The output exists or cannot be written.
    """
    from geodino.change_detection.null_model import check_threshold
    from geodino.change_detection.score_method import Method
    from geodino.change_detection.series import change_series as run_series

    options = RunOptions(**run)
    chosen = Method.named(method).settled()
    check_threshold(threshold)
    options.check_cubes(features, upscale=upscale, layers=layers)
    check_output(Path(output), overwrite=options.overwrite)
    if features and not chosen.reads_features:
        raise InputError("method spectral compares no features; leave --features out or take another --method")
    opened = [as_scene(scene) for scene in scenes]
    check_not_input((Path(output),), *opened, *features)
    settings, cubes = DenseSettings(upscale=upscale or 1, layers=tuple(layers)), [Path(cube) for cube in features]
    needed = opened and chosen.reads_features and not cubes
    with locked(Path(output)), options.engine() if needed else nullcontext() as engine:
        return run_series(
            opened, Path(output), method=chosen, threshold=threshold, engine=engine, settings=settings, cubes=cubes,
            overwrite=options.overwrite, progress=progress,
        )  # fmt: skip


def similar(
    scene: str | Path | Scene,
    output: str | Path,
    *,
    at: Sequence[tuple[float, float]] = (),
    polygons: str | Path | None = None,
    crs: str | None = None,
    layer: str | None = None,
    index: str | Path | None = None,
    count: int = 100,
    features: str | Path | None = None,
    settings: DenseSettings | None = None,
    progress: Progress | None = None,
    say: Callable[[str], None] | None = None,
    **run: Unpack[RunKeywords],
) -> Path:
    """Map how much every place looks like the chosen ones, or find the places of an index that do.

    Args:
        scene: A scene, what ``open_scene`` takes, or a feature cube, which needs no model.
        output: The map: float32 COG, cosine in [-1, 1], NaN = nodata, on the scene's pixel grid (on the token grid for
            a cube alone). With ``index``: the best places as ``.parquet``, ``.gpkg`` or ``.geojson``.
        at: Places ``(x, y)``; several are averaged.
        polygons: Vector file whose polygons are looked for, averaged with the places.
        crs: Coordinate reference system of ``at``; the scene's own when None.
        layer: Layer of the polygons' file; None for all of them together.
        index: GeoParquet of sparse embeddings to search instead of the scene.
        count: Places of the index to keep.
        features: A cube that ``features`` made of this scene: its tokens are taken, and no backbone is run.
        settings: How windows are laid.
        progress: Reporter of the share done, 0 to 1.
        say: Is told how the polygons are read.
        **run: See ``RunKeywords``.

    Returns:
        Where the result is; a STAC item lies beside it.

    Raises:
        InputError: A place lies outside the scene or on nodata, or a file cannot be used.
        OutputError: The output exists or cannot be written.
    """
    from geodino.retrieval.likeness import Query
    from geodino.retrieval.similar import SimilarPlaces, is_cube

    options = RunOptions(**run)
    query = Query(tuple(at), _path(polygons), crs, layer)
    question = SimilarPlaces(query, Path(output).absolute(), _path(index), count, options.overwrite)
    question.check()
    alone = None if isinstance(scene, Scene) or not is_cube(scene) else scene
    opened, features = (as_scene(scene), features) if alone is None else (None, alone)
    check_not_input((question.output,), opened, features, index, polygons)
    with locked(made := question.output), options.tokens(opened, made, features=features, settings=settings) as source:
        return question.answer(source, opened, progress, say)


def _path(value: str | Path | None) -> Path | None:
    return None if value is None else Path(value)
