"""One map of a batch, for this machine or for a worker of a cluster."""

from dataclasses import dataclass
from pathlib import Path

from geodino.backbones.backbone import Backbone
from geodino.change_detection.pipeline import ChangeOutputs, ChangeQuestion, change_scenes
from geodino.change_detection.score_method import Method
from geodino.dense.engine import LocalEngine
from geodino.dense.settings import DenseSettings
from geodino.dense.tokens import tokens_from_scene
from geodino.heads.model_file import SegmentationModel
from geodino.jobs.batch_job import BatchJob
from geodino.segmentation.pipeline import SegmentationOutputs, SegmentationQuestion, map_settings, segment_scene
from tiles.scenes.scene import Scene
from tiles.writing.cog import part_of


@dataclass(frozen=True)
class MapTask:
    """A map of one scene or of one pair.

    Attributes:
        job: What to do.
        scenes: The scene, or its two dates.
        output: Where the map goes.
        overwrite: Replace an existing one.
    """

    job: BatchJob
    scenes: tuple[Scene, ...]
    output: Path
    overwrite: bool

    def run(self, backbone: Backbone) -> None:
        """Make the map.

        Raises:
            InputError: An input does not fit.
            OutputError: The output exists or cannot be written.
        """
        engine = LocalEngine(backbone)
        if self.job.task == "segment":
            self._segment(engine)
        else:
            self._change(engine)

    def _segment(self, engine: LocalEngine) -> None:
        assert self.job.model is not None  # the job has seen to it
        outputs = SegmentationOutputs(self.output, overwrite=self.overwrite)
        outputs.check()
        scene, model = self.scenes[0], SegmentationModel.load(self.job.model)
        settings, folder = map_settings(model.recipe.upscale), part_of(self.output, ".tokens")
        source = tokens_from_scene(scene, engine, settings, folder, overwrite=self.overwrite)
        segment_scene(scene, source, outputs, SegmentationQuestion(model=model, model_path=self.job.model))

    def _change(self, engine: LocalEngine) -> None:
        before, after = self.scenes
        outputs = ChangeOutputs(self.output, overwrite=self.overwrite)
        outputs.check()
        model = None if self.job.model is None else SegmentationModel.load(self.job.model)
        method = Method.named(self.job.method).settled()
        question = ChangeQuestion(method, self.job.threshold, model=model, model_path=self.job.model)
        settings = DenseSettings(upscale=self.job.upscale, layers=self.job.layers)
        used = engine if method.reads_features or model is not None else None
        change_scenes(before, after, outputs, question, engine=used, settings=settings)

    def __str__(self) -> str:
        return self.scenes[-1].source
