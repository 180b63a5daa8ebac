"""Where a backbone runs: in this process, or on the workers of a cluster."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from geodino.backbones.backbone import Backbone
from geodino.dense.cube import CubeWriter
from geodino.dense.settings import DenseSettings
from geodino.dense.stream import stream_tokens
from tiles.scenes.scene import Scene


class Engine(Protocol):
    """What runs a backbone over scenes; ``geodino.jobs.cluster.Cluster`` is one too."""

    @property
    def backbone(self) -> Backbone:
        """The model; of a cluster its copy here, which computes nothing."""
        ...

    def describe(self, settings: DenseSettings) -> tuple[str, DenseSettings]:
        """What the model computes in where it runs, and the settings with the batch size that has room there.

        Raises:
            InputError: The settings do not fit the backbone.
        """
        ...

    def fill(self, scene: Scene, settings: DenseSettings, writer: CubeWriter) -> Iterator[float]:
        """Make the rows that a cube lacks; yields the share of its rows that are there.

        Args:
            scene: The scene, with the backbone's bands.
            settings: As ``describe`` gave them.
            writer: The cube.

        Raises:
            InputError: A file is damaged, or there is no memory for a batch.
            OutputError: The disk is full.
        """
        ...


@dataclass(frozen=True)
class LocalEngine:
    """A backbone in this process.

    Attributes:
        backbone: The model.
    """

    backbone: Backbone

    def describe(self, settings: DenseSettings) -> tuple[str, DenseSettings]:
        """See ``Engine``."""
        return arithmetic_of(self.backbone), settings.resolved(self.backbone)

    def fill(self, scene: Scene, settings: DenseSettings, writer: CubeWriter) -> Iterator[float]:
        """See ``Engine``."""
        total = int(writer.spec.geobox.shape[0])
        for rows in writer.missing():
            stream = stream_tokens(scene, self.backbone, settings, rows=rows)
            try:
                for done in writer.write(stream):
                    yield done / total
            finally:
                stream.close()


def arithmetic_of(backbone: Backbone) -> str:
    """Device and number type that a model computes in: what its last bits depend on besides the weights."""
    return f"{backbone.device.type} {str(backbone.dtype).removeprefix('torch.')}"
