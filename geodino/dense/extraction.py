"""From a scene to a feature cube: what `geodino features` does, on this machine or on a cluster."""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geodino
from geodino.backbones.backbone import Backbone
from geodino.dense.cube import CubeSpec, CubeWriter, cube_tags, cube_type
from geodino.dense.cube_reader import cube_array
from geodino.dense.engine import Engine
from geodino.dense.quicklook import check_quicklook, quicklook
from geodino.dense.settings import DenseSettings
from geodino.dense.stream import feature_dim, token_grid
from geodino.products.stac import add_quicklook, read_settings, write_item
from geodino.products.tags import provenance
from tiles.errors import OutputError
from tiles.progress import Progress, Silent
from tiles.scenes.scene import Scene
from tiles.writing.outputs import check_output


@dataclass(frozen=True)
class Extraction:
    """A feature cube to be made: all that a machine needs to know, before any work.

    Attributes:
        scene: The scene, with the backbone's bands.
        engine: What runs the backbone.
        settings: How windows are laid; the batch size is filled in.
        spec: The cube.
        identity: What its values depend on.
    """

    scene: Scene
    engine: Engine
    settings: DenseSettings
    spec: CubeSpec
    identity: dict[str, Any]

    @classmethod
    def plan(
        cls,
        scene: Scene,
        engine: Engine,
        output: Path,
        settings: DenseSettings,
        *,
        dtype: str = "auto",
        temporary: bool = False,
    ) -> "Extraction":
        """Check everything that can be checked before work.

        Args:
            scene: The scene.
            engine: What runs the backbone.
            output: Where the cube will be.
            settings: How windows are laid.
            dtype: Number type of the cube, see ``geodino.dense.cube.cube_type``.
            temporary: The cube serves a map and goes when that is made: float16 in pieces, under any name.

        Raises:
            InputError: The scene lacks a band, or the settings do not fit the backbone.
            OutputError: The output's name says no format that holds ``dtype``.
        """
        kind = "float16" if temporary else cube_type(output, dtype)
        backbone = engine.backbone
        arithmetic, settings = engine.describe(settings)
        scene = scene.select(backbone.bands)
        grid = token_grid(scene, backbone, settings)
        identity = {
            "scene": scene.fingerprint(),
            "backbone": backbone.hash,
            "arithmetic": arithmetic,
            "settings": settings.identity(),
            "version": geodino.__version__,
        }
        tags = provenance(backbone, scene=scene) | cube_tags(kind, settings)
        channels = feature_dim(backbone, settings)
        spec = CubeSpec(output, grid.geobox(scene.geobox), channels, kind, tags, temporary=temporary)
        return cls(scene, engine, settings, spec, identity)

    @property
    def backbone(self) -> Backbone:
        """The model."""
        return self.engine.backbone

    def fill(self, *, overwrite: bool = False, progress: Progress | None = None) -> CubeWriter:
        """Make the rows that the cube lacks.

        Args:
            overwrite: See ``geodino.jobs.run_options.RunOptions``.
            progress: Is told the share done, 0 to 1.

        Returns:
            The cube, all of whose rows are on disk.

        Raises:
            InputError: A file is damaged, or an unfinished run with other inputs or settings lies there.
            OutputError: The output exists or the disk is full.
        """
        progress = progress or Silent()
        writer = CubeWriter(self.spec, self.identity, overwrite=overwrite)
        for done in self.engine.fill(self.scene, self.settings, writer):
            progress.update(done)
        return writer

    def run(self, *, overwrite: bool = False, progress: Progress | None = None) -> Path:
        """Make what is missing of the cube, and put it under its name.

        See ``fill`` for arguments and errors.

        Returns:
            Where the cube is.
        """
        self._complete(self.fill(overwrite=overwrite, progress=progress))
        return self.spec.path

    def _complete(self, writer: CubeWriter) -> None:
        """Put the finished cube under its name, with its STAC item beside it."""
        # The item just before: a kill in between leaves a cube still to be renamed, never one without its item.
        writer.finish(
            lambda: write_item(
                self.spec.path,
                {"scene": self.scene},
                self.backbone,
                task="feature-extraction",
                geobox=self.spec.geobox,
                data_type=self.spec.dtype,
                nodata=-128 if self.spec.dtype == "int8" else None,
                settings=self.settings.identity() | {"identity": self._digest},
            )
        )

    def check_made(self) -> None:
        """Refuse to go on with a cube that lies there already, unless it is this very one.

        Raises:
            OutputError: It was made from another scene, by another model or with other settings, or nothing says so.
        """
        # Beside an unfinished run the item may be that of the cube to come.
        if self.spec.work.exists() or read_settings(self.spec.path).get("identity") != self._digest:
            raise OutputError(
                f"{self.spec.path} exists already, made from other inputs or settings; replace it with --overwrite"
            )

    @property
    def _digest(self) -> str:
        text = json.dumps(self.identity | {"dtype": self.spec.dtype}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32]


def check_outputs(output: Path, *, dtype: str, quicklook: Path | None, overwrite: bool) -> None:
    """Refuse outputs that exist or cannot be, before the scene is opened and the model loaded.

    A cube of which only the quicklook is missing is left to ``Extraction.check_made``.

    Raises:
        OutputError: One exists, its name says no known format, or both have one name.
    """
    cube_type(output, dtype)
    check_output(output, overwrite=overwrite or lacks_quicklook(output, quicklook))
    if quicklook is not None:
        if quicklook.absolute() == output.absolute():
            raise OutputError(f"the cube and its quicklook would both become {output}; name them apart")
        check_quicklook(quicklook, overwrite=overwrite)


def lacks_quicklook(output: Path, quicklook: Path | None) -> bool:
    """Whether a cube lies there and the picture that shall go with it does not, as a kill in between leaves them."""
    return quicklook is not None and os.path.exists(output) and not os.path.exists(quicklook)


def draw(cube: Path, picture: Path, *, overwrite: bool) -> None:
    """Draw the quicklook of a finished cube, and name it in the cube's STAC item."""
    quicklook(cube_array(cube), picture, overwrite=overwrite)
    add_quicklook(cube, picture)
