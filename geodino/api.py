"""The public functions: each does what the command of the same name does."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from geodino.backbones.backbone import Backbone, load_backbone
from geodino.dense.stream import DenseSettings
from tiles.errors import InputError
from tiles.progress import Progress
from tiles.scenes.opening import open_scene
from tiles.scenes.scene import Scene
from tiles.writing.outputs import check_not_input

if TYPE_CHECKING:
    import xarray as xr

    from geodino.change_detection.pipeline import ChangeResult
    from geodino.change_detection.series import SeriesResult
    from geodino.jobs.cluster import Cluster
    from geodino.segmentation.pipeline import SegmentationResult


def features(
    scene: str | Path | Scene,
    output: str | Path,
    *,
    backbone: str | Path | Backbone | None = None,
    settings: DenseSettings | None = None,
    dtype: str = "auto",
    quicklook: str | Path | None = None,
    device: str = "auto",
    precision: str = "auto",
    dask: str | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> "xr.DataArray":
    """Make a cube of dense features on the backbone's token grid, with a STAC item beside it.

    Args:
        scene: A scene, or what ``open_scene`` takes. It may be larger than memory.
        output: ``.zarr`` (Zarr v3, sharded) or ``.tif`` (Cloud-Optimized GeoTIFF).
        backbone: A backbone, or what ``load_backbone`` takes; None for the packaged one.
        settings: Window, halo, finer grid, layers and batch.
        dtype: ``auto`` (float16 in Zarr, one-byte code in GeoTIFF), ``float16``, ``float32`` or ``int8``.
        quicklook: Also a picture of the three main components, ``.png`` or ``.tif``, named in the cube's item. Where it
            alone is missing, it is drawn from the cube that lies there, if that is of the same scene, model and
            settings.
        device: Where a backbone that is not loaded yet shall run.
        precision: What it shall compute in.
        dask: Address of a Dask scheduler to spread rows over; the backbone must be one that workers can load by name.
        overwrite: Replace existing outputs and start an unfinished run of other settings from its beginning.
        progress: Reporter of the share done, 0 to 1.

    Returns:
        The cube, lazily: ``[D, ceil(H / p), ceil(W / p)]`` float32 of unit length along ``D``, NaN where nodata, with
        coordinates and CRS; ``p`` is the patch size divided by ``settings.upscale``.

    Raises:
        InputError: The scene lacks a band of the backbone, a file is damaged, or an unfinished run with other inputs or
            settings lies where the output goes.
        OutputError: An output exists or cannot be written.
    """
    from geodino.dense.cube import open_cube
    from geodino.dense.extraction import Extraction, check_outputs, draw, lacks_quicklook

    target, picture = Path(output).absolute(), _path(quicklook)
    check_outputs(target, dtype=dtype, quicklook=picture, overwrite=overwrite)
    scene = scene if isinstance(scene, Scene) else open_scene(scene)
    check_not_input((target, picture), scene)
    settings = settings or DenseSettings()
    keep = not overwrite and lacks_quicklook(target, picture)
    if dask is not None:
        from geodino.jobs.cluster import Cluster, ModelSpec

        if isinstance(backbone, Backbone):
            raise InputError("a cluster loads the backbone itself: give its name or folder")
        with Cluster(dask, ModelSpec.of(backbone, device, precision)) as cluster:
            if keep:
                cluster.plan(scene, target, settings, dtype).check_made()
            else:
                cluster.extract(scene, target, settings, dtype, overwrite=overwrite, progress=progress)
    else:
        model = (
            backbone if isinstance(backbone, Backbone) else load_backbone(backbone, device=device, precision=precision)
        )
        plan = Extraction.plan(scene, model, target, settings, dtype=dtype)
        if keep:
            plan.check_made()
        else:
            plan.run(overwrite=overwrite, progress=progress)
    if picture is not None:
        draw(target, picture, overwrite=overwrite)
    return open_cube(target)


def segment(
    scene: str | Path | Scene,
    output: str | Path,
    *,
    labels: str | Path | None = None,
    field: str | None = None,
    clusters: int | None = None,
    model: str | Path | None = None,
    save_model: str | Path | None = None,
    vector: str | Path | None = None,
    min_area_m2: float = 0.0,
    confidence: str | Path | None = None,
    cube: str | Path | None = None,
    upscale: int = 1,
    backbone: str | Path | Backbone | None = None,
    device: str = "auto",
    precision: str = "auto",
    dask: str | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> "SegmentationResult":
    """Make a land-cover map; exactly one of ``labels``, ``clusters`` and ``model`` says of which classes.

    Args:
        scene: a scene, or what ``open_scene`` takes. It may be larger than memory.
        output: the map: a Cloud-Optimized GeoTIFF on the scene's pixel grid, uint8, 0 = nodata, classes from 1 with
            names and colours in the file.
        labels: points, polygons or a raster of classes, any format, any coordinate reference system.
        field: attribute of the labels that holds the class; chosen when there is one choice.
        clusters: number of k-means classes, 2 to 254.
        model: a model that ``save_model`` wrote, made with the same backbone and normalisation.
        save_model: where to keep the trained head (safetensors with a JSON header).
        vector: polygons of the classes with their area in m²; the suffix chooses the format.
        min_area_m2: polygons below this area join their largest neighbour.
        confidence: probability of the class in percent, uint8, 255 = nodata, same grid.
        cube: a cube that ``features`` made of this scene: a quick map from labels and tokens alone, without running a
            backbone, refining borders or validating; what these need is refused beside it.
        upscale: tokens per patch side, 1, 2 or 4; a model brings its own.
        backbone: a backbone, or what ``load_backbone`` takes; None for the packaged one.
        device: where a backbone that is not loaded yet shall run.
        precision: what it shall compute in.
        dask: address of a Dask scheduler whose workers run the backbone; it must be one that they can load by name.
        overwrite: replace existing outputs and start an interrupted run from its beginning.
        progress: reporter of the share done, 0 to 1.

    Returns:
        Classes, cross-validation and notes; the map itself is in ``output``.

    Raises:
        InputError: an input does not fit; one sentence says which and how to go on.
        OutputError: an output exists or cannot be written.
    """
    from geodino.heads.labels import read_labels
    from geodino.heads.model_file import SegmentationModel
    from geodino.segmentation.clusters import check_clusters
    from geodino.segmentation.pipeline import SegmentationOutputs, segment_scene

    if sum(choice is not None for choice in (labels, clusters, model)) != 1:
        raise InputError("say which classes to map: give one of --labels, --clusters and --model")
    outputs = SegmentationOutputs(
        Path(output), _path(confidence), _path(vector), _path(save_model), min_area_m2, overwrite=overwrite
    )
    outputs.check()
    if clusters is not None:
        check_clusters(clusters)
    trained = None if model is None else SegmentationModel.load(Path(model))
    scene = scene if isinstance(scene, Scene) else open_scene(scene)
    check_not_input((outputs.classes, outputs.confidence, outputs.vector, outputs.model), scene, labels, model, cube)
    if cube is not None:
        from geodino.segmentation.cube_map import map_cube

        unread = {
            "--clusters": clusters is not None,
            "--model": model is not None,
            "--save-model": save_model is not None,
            "--vector": vector is not None,
            "--min-area": min_area_m2 > 0,
            "--confidence": confidence is not None,
            "--upscale": upscale != 1,
            "--backbone": backbone is not None,
            "--device": device != "auto",
            "--precision": precision != "auto",
            "--dask": dask is not None,
        }
        given = [name for name, is_given in unread.items() if is_given]
        if given:
            raise InputError(f"a map from a cube is made of labels and the cube alone; leave {', '.join(given)} out")
        if labels is None:
            raise InputError("a map from a cube is made of labels; give them with --labels")
        labelled = read_labels(labels, scene.geobox, field=field)
        return map_cube(Path(cube), scene.geobox, labelled, outputs.classes, overwrite=overwrite)
    found = None if labels is None else read_labels(labels, scene.geobox, field=field)
    if trained is not None:
        if upscale not in (1, trained.recipe.upscale):
            raise InputError(f"{model} was trained with --upscale {trained.recipe.upscale}; leave --upscale out")
        upscale = trained.recipe.upscale
    with _workers(backbone, device, precision, dask) as (loaded, cluster):
        return segment_scene(
            scene,
            loaded,
            outputs,
            labels=found,
            clusters=clusters,
            model=trained,
            model_path=_path(model),
            settings=DenseSettings(upscale=upscale),
            cluster=cluster,
            progress=progress,
        )


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
    model: str | Path | None = None,
    vector: str | Path | None = None,
    min_area_m2: float = 0.0,
    upscale: int = 1,
    layers: Sequence[int] = (),
    backbone: str | Path | Backbone | None = None,
    device: str = "auto",
    precision: str = "auto",
    dask: str | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> "ChangeResult":
    """Map what changed between two dates of one place.

    Args:
        before: First date: a scene, or what ``open_scene`` takes. The map has its pixel grid, cut to where both lie.
        after: Second date; any coordinate reference system, resolution and extent that overlaps.
        output: The mask: a Cloud-Optimized GeoTIFF, uint8, 0 no change, 1 change, 255 nodata (of either date).
        score: Where to keep the score: float32, standard deviations of the log distance above the stable background,
            larger = more change, NaN nodata. One that exists and was made from the same inputs and settings is taken as
            it is, so that another threshold costs a moment.
        threshold: Scores above are change; None for the automatic one, calibrated on the stable background.
        method: ``features`` (tokens of the backbone), ``spectral`` (IR-MAD over the shared bands), ``fused`` (both), or
            ``auto`` (fused).
        objects: Pool the score over small image objects; for objects many pixels wide.
        like: Examples of the wanted kind of change and of others (points, polygons or a raster, two classes, the wanted
            one called 1, change or yes); the score becomes the log odds of that kind.
        field: Attribute of the examples that holds the class.
        model: A model that ``segment(save_model=...)`` wrote: says what changed places were and became.
        vector: Polygons of change with area, score, dates and, with a model, classes; the suffix chooses the format.
        min_area_m2: Smaller polygons are left out.
        upscale: Tokens per patch side, 1, 2 or 4.
        layers: Layers of the backbone to compare instead of the last, each on its own; a model brings its own.
        backbone: A backbone, or what ``load_backbone`` takes; None for the packaged one.
        device: Where a backbone that is not loaded yet shall run.
        precision: What it shall compute in.
        dask: Address of a Dask scheduler whose workers run the backbone; it must be one that they can load by name.
        overwrite: Replace existing outputs and start an interrupted run from its beginning.
        progress: Reporter of the share done, 0 to 1.

    Returns:
        Threshold, share of change, transitions and notes; the maps themselves are in the files.

    Raises:
        InputError: An input does not fit; one sentence says which and how to go on.
        OutputError: An output exists or cannot be written.
    """
    from geodino.change_detection.method import Method
    from geodino.change_detection.null_model import check_threshold
    from geodino.change_detection.pipeline import ChangeOutputs, ChangeQuestion, change_scenes
    from geodino.heads.model_file import SegmentationModel

    chosen = Method.named(method).settled()
    check_threshold(threshold)
    outputs = ChangeOutputs(Path(output), _path(score), _path(vector), min_area_m2, overwrite)
    outputs.check()
    trained = None if model is None else SegmentationModel.load(Path(model))
    before = before if isinstance(before, Scene) else open_scene(before)
    after = after if isinstance(after, Scene) else open_scene(after)
    check_not_input((outputs.mask, outputs.score, outputs.vector), before, after, like, model)
    question = ChangeQuestion(chosen, threshold, objects, _path(like), field, trained, _path(model))
    settings = DenseSettings(upscale=upscale, layers=tuple(layers))
    if not chosen.reads_features and trained is None:
        return change_scenes(before, after, outputs, question, backbone=None, settings=settings, progress=progress)
    with _workers(backbone, device, precision, dask) as (loaded, cluster):
        return change_scenes(
            before, after, outputs, question, backbone=loaded, settings=settings, cluster=cluster, progress=progress
        )


def change_series(
    scenes: Sequence[str | Path | Scene],
    output: str | Path,
    *,
    threshold: float | None = None,
    method: str = "auto",
    upscale: int = 1,
    layers: Sequence[int] = (),
    backbone: str | Path | Backbone | None = None,
    device: str = "auto",
    precision: str = "auto",
    dask: str | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> "SeriesResult":
    """Map when each place of three dates or more changed for good.

    Args:
        scenes: Dates in order of time: scenes, or what ``open_scene`` takes; the first one's pixel grid is kept.
        output: A Cloud-Optimized GeoTIFF, uint16: the year of the first lasting change (the date's number where years
            are unknown or repeat), 0 none, 65535 nodata of any date.
        threshold: Scores above are change; None for each pair's own.
        method: As for ``change``.
        upscale: Tokens per patch side, 1, 2 or 4.
        layers: As for ``change``.
        backbone: A backbone, or what ``load_backbone`` takes; None for the packaged one.
        device: Where a backbone that is not loaded yet shall run.
        precision: What it shall compute in.
        dask: Address of a Dask scheduler whose workers run the backbone; it must be one that they can load by name.
        overwrite: Replace an existing output.
        progress: Reporter of the share done, 0 to 1.

    Raises:
        InputError: Fewer than three dates, dates out of order or without overlap.
        OutputError: The output exists or cannot be written.
    """
    from geodino.change_detection.method import Method
    from geodino.change_detection.null_model import check_threshold
    from geodino.change_detection.series import change_series as run

    chosen = Method.named(method).settled()
    check_threshold(threshold)
    opened = [scene if isinstance(scene, Scene) else open_scene(scene) for scene in scenes]
    check_not_input((Path(output),), *opened)
    if not opened:
        chosen = Method.spectral
    if not chosen.reads_features:
        return run(
            opened, Path(output), backbone=None, method=chosen, threshold=threshold, overwrite=overwrite,
            progress=progress,
        )  # fmt: skip
    with _workers(backbone, device, precision, dask) as (loaded, cluster):
        return run(
            opened,
            Path(output),
            backbone=loaded,
            method=chosen,
            threshold=threshold,
            settings=DenseSettings(upscale=upscale, layers=tuple(layers)),
            cluster=cluster,
            overwrite=overwrite,
            progress=progress,
        )


@contextmanager
def _workers(
    backbone: str | Path | Backbone | None, device: str, precision: str, dask: str | None
) -> "Iterator[tuple[Backbone, Cluster | None]]":
    """A loaded backbone and, where an address is given, the cluster that computes with its own copies."""
    if dask is None:
        if not isinstance(backbone, Backbone):
            backbone = load_backbone(backbone, device=device, precision=precision)
        yield backbone, None
        return
    from geodino.jobs.cluster import Cluster, ModelSpec

    if isinstance(backbone, Backbone):
        raise InputError("a cluster loads the backbone itself: give its name or folder")
    with Cluster(dask, ModelSpec.of(backbone, device, precision)) as cluster:
        yield cluster.local, cluster


def similar(
    scene: str | Path | Scene,
    output: str | Path,
    *,
    at: Sequence[tuple[float, float]] = (),
    polygons: str | Path | None = None,
    crs: str | None = None,
    index: str | Path | None = None,
    count: int = 100,
    backbone: str | Path | Backbone | None = None,
    settings: DenseSettings | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Map how much every place looks like the chosen ones, or find the places of an index that do.

    A STAC item lies beside the result.

    Args:
        scene: A scene, what ``open_scene`` takes, or a feature cube, which needs no model.
        output: The map: float32 COG, cosine in [-1, 1], NaN = nodata, on the scene's pixel grid (on the token grid for
            a cube). With ``index``: the best places as ``.parquet``, ``.gpkg`` or ``.geojson``.
        at: Places ``(x, y)``; several are averaged.
        polygons: Vector file whose polygons are looked for, averaged with the places.
        crs: Coordinate reference system of ``at``; the scene's own when None.
        index: GeoParquet of sparse embeddings to search instead of the scene.
        count: Places of the index to keep.
        backbone: A backbone, or what ``load_backbone`` takes; None for the packaged one.
        settings: How windows are laid.
        overwrite: Replace an existing output.
        progress: Reporter of the share done, 0 to 1.

    Returns:
        Where the result is.

    Raises:
        InputError: A place lies outside the scene or on nodata, or a file cannot be used.
        OutputError: The output exists or cannot be written.
    """
    from geodino.retrieval.similar import SimilarPlaces

    return SimilarPlaces(
        scene=scene if isinstance(scene, Scene) else str(scene),
        output=Path(output).absolute(),
        points=tuple(at),
        polygons=_path(polygons),
        crs=crs,
        index=_path(index),
        count=count,
        overwrite=overwrite,
    ).run(backbone, settings or DenseSettings(), progress)


def _path(value: str | Path | None) -> Path | None:
    return None if value is None else Path(value)
