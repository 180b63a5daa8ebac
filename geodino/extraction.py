"""From a scene to a feature cube: what `geodino features` does, on this machine."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geodino
from geodino.backbone import Backbone
from geodino.cube import CubeSpec, CubeWriter, cube_tags, cube_type
from geodino.dense import DenseSettings, feature_dim, stream_tokens, token_grid
from geodino.provenance import provenance
from tiles.progress import Progress, Silent
from tiles.scene import Scene


@dataclass(frozen=True)
class Extraction:
    """A feature cube to be made: all that a machine needs to know, before any work.

    Attributes:
        scene: The scene, with the backbone's bands.
        backbone: The model.
        settings: How windows are laid; the batch size is filled in.
        spec: The cube.
        identity: What its values depend on.
    """

    scene: Scene
    backbone: Backbone
    settings: DenseSettings
    spec: CubeSpec
    identity: dict[str, Any]

    @classmethod
    def plan(
        cls, scene: Scene, backbone: Backbone, output: Path, settings: DenseSettings, *, dtype: str = "auto"
    ) -> "Extraction":
        """Check everything that can be checked before work.

        Raises:
            InputError: The scene lacks a band, or the settings do not fit the backbone.
            OutputError: The output's name says no format that holds ``dtype``.
        """
        kind = cube_type(output, dtype)
        settings = settings.resolved(backbone)
        scene = scene.select(backbone.bands)
        grid = token_grid(scene, backbone, settings)
        identity = {
            "scene": scene.fingerprint(),
            "backbone": backbone.hash,
            "precision": f"{backbone.device.type} {str(backbone.dtype).removeprefix('torch.')}",
            "settings": settings.identity(),
            "version": geodino.__version__,
        }
        tags = provenance(backbone, scene=scene) | cube_tags(kind, settings)
        spec = CubeSpec(output, grid.geobox(scene.geobox), feature_dim(backbone, settings), kind, tags)
        return cls(scene, backbone, settings, spec, identity)

    def run(self, *, overwrite: bool = False, progress: Progress | None = None) -> Path:
        """Make what is missing of the cube, and put it under its name.

        Args:
            overwrite: Replace an existing cube.
            progress: Is told the share done, 0 to 1.

        Returns:
            Where the cube is.

        Raises:
            InputError: A file is damaged, or an unfinished run with other inputs or settings lies there.
            OutputError: The output exists or the disk is full.
        """
        progress = progress or Silent()
        writer = CubeWriter(self.spec, self.identity, overwrite=overwrite)
        total = int(self.spec.geobox.shape[0])
        for rows in writer.missing():
            stream = stream_tokens(self.scene, self.backbone, self.settings, rows=rows)
            try:
                for done in writer.write(stream):
                    progress.update(done / total)
            finally:
                stream.close()
        writer.finish()
        return self.spec.path
