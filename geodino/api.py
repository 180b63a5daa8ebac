"""The public functions: each does what the command of the same name does."""

from pathlib import Path
from typing import TYPE_CHECKING

from geodino.backbone import Backbone, load_backbone
from geodino.dense import DenseSettings
from tiles.errors import InputError
from tiles.progress import Progress
from tiles.scene import Scene, open_scene

if TYPE_CHECKING:
    from geodino.segmentation.pipeline import SegmentationResult


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
    upscale: int = 1,
    backbone: str | Path | Backbone | None = None,
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
        upscale: tokens per patch side, 1, 2 or 4.
        backbone: a backbone, or what ``load_backbone`` takes; None for the packaged one.
        overwrite: replace existing outputs and start an interrupted run from its beginning.
        progress: reporter of the share done, 0 to 1.

    Returns:
        Classes, cross-validation and notes; the map itself is in ``output``.

    Raises:
        InputError: an input does not fit; one sentence says which and how to go on.
        OutputError: an output exists or cannot be written.
    """
    from geodino.segmentation.clusters import check_clusters
    from geodino.segmentation.labels import read_labels
    from geodino.segmentation.model_file import SegmentationModel
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
    found = None if labels is None else read_labels(labels, scene.geobox, field=field)
    if trained is not None and trained.recipe.upscale != upscale:
        upscale = trained.recipe.upscale
    return segment_scene(
        scene,
        backbone if isinstance(backbone, Backbone) else load_backbone(backbone),
        outputs,
        labels=found,
        clusters=clusters,
        model=trained,
        model_path=_path(model),
        settings=DenseSettings(upscale=upscale),
        progress=progress,
    )


def _path(value: str | Path | None) -> Path | None:
    return None if value is None else Path(value)
