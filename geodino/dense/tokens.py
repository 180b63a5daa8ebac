"""Where the tokens of a map come from: a backbone over a scene, or a cube on disk.

A ``TokenSource`` says what its tokens will be before any work and then gives them, on disk. Both makers end at a cube:
``tokens_from_scene`` makes a temporary one, which goes on where an interrupted run stopped and gives the same bytes,
``tokens_from_cube`` reads what ``geodino features`` wrote.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from geodino.backbones.backbone import Backbone
from geodino.backbones.normalize import Normalization
from geodino.dense.cube_reader import CubeArray, cube_array, piece_array
from geodino.dense.engine import Engine
from geodino.dense.extraction import Extraction
from geodino.dense.settings import DenseSettings
from geodino.products.stac import write_item, write_item_of_cube
from geodino.products.tags import provenance
from tiles.errors import InputError
from tiles.progress import Progress, Share, Silent
from tiles.scenes.scene import Scene


@dataclass(frozen=True)
class Origin:
    """What made tokens, from a backbone at hand or from a cube's tags.

    Attributes:
        name: Name of the backbone.
        hash: SHA-256 of its weights.
        bands: Common names of the bands it reads, in order.
        normalization: Its statistics.
        settings: How windows were laid, as ``DenseSettings.identity`` says it.
        backbone: The backbone, where it is at hand.
        cube: The cube, where the tokens were there before.
    """

    name: str
    hash: str
    bands: tuple[str, ...]
    normalization: Normalization
    settings: dict[str, Any]
    backbone: Backbone | None = None
    cube: Path | None = None

    @classmethod
    def of(cls, backbone: Backbone, settings: DenseSettings) -> "Origin":
        """Of tokens to be made."""
        return cls(
            backbone.name, backbone.hash, backbone.bands, backbone.normalization, settings.identity(), backbone=backbone
        )

    @classmethod
    def of_cube(cls, path: Path, array: CubeArray) -> "Origin":
        """Of the tokens in a cube.

        Raises:
            InputError: Its tags do not say what made it.
        """
        try:
            said = json.loads(array.tags["GEODINO_NORMALIZATION"])
            return cls(
                array.tags["GEODINO_BACKBONE"],
                array.tags["GEODINO_BACKBONE_HASH"],
                tuple(json.loads(array.tags["GEODINO_BANDS"])),
                Normalization(tuple(said["mean"]), tuple(said["std"])),
                json.loads(array.tags["GEODINO_SETTINGS"]),
                cube=path,
            )
        except (KeyError, ValueError):
            raise InputError(
                f"{path} does not say which backbone made it; make it again with `geodino features`"
            ) from None

    @property
    def layers(self) -> tuple[int, ...]:
        """Layers whose tokens are concatenated; empty for the last alone."""
        return tuple(self.settings["layers"])

    @property
    def upscale(self) -> int:
        """Tokens per patch side."""
        return int(self.settings["upscale"])

    def tags(self, **scenes: Scene) -> dict[str, Any]:
        """What a map of the tokens says about its making; ``scenes`` by the role they play."""
        return provenance(self, **scenes) | ({} if self.cube is None else {"GEODINO_CUBE_SOURCE": self.cube.name})

    def write_item(
        self, product: Path, scenes: dict[str, Scene], *, task: str, settings: dict[str, Any] | None = None
    ) -> None:
        """Write the STAC item of a map of the tokens; see ``geodino.products.stac.write_item``."""
        asked = settings or {}
        if self.cube is None:
            write_item(product, scenes, self.backbone, task=task, settings=self.settings | asked)
        else:
            write_item_of_cube(product, self.cube, task=task, settings=asked)


@dataclass(frozen=True, eq=False)
class SceneTokens:
    """The tokens of a scene, on disk.

    Attributes:
        array: Their values.
        pixels: Scene pixels along a token's side; 1 where no scene is known.
        origin: What made them.
        temporary: Folder that goes with ``remove``; None for a cube, which stays.
    """

    array: CubeArray
    pixels: int
    origin: Origin
    temporary: Path | None = None

    @property
    def geobox(self) -> GeoBox:
        """The token grid, ``(rows, columns)``."""
        return self.array.geobox

    @property
    def channels(self) -> int:
        """Features ``D`` of a token."""
        return self.array.channels

    @cached_property
    def valid(self) -> NDArray[np.bool_]:
        """Which tokens have features, ``[rows, columns]``."""
        return self.array.valid()

    def read(self, start: int, stop: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Features ``[D, h, columns]`` (0 where not valid) and validity ``[h, columns]`` of token rows."""
        features, valid = self.array.rows(start, stop), self.valid[start:stop]
        if not valid.all():
            features[:, ~valid] = 0
        return features, valid

    def at(self, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[np.float32]:
        """Features of single tokens, ``[N, D]``; 0 where not valid."""
        found = np.zeros((len(rows), self.channels), np.float32)
        wanted = np.flatnonzero(self.valid[rows, columns])
        pieces = rows[wanted] // self.array.piece_rows
        order = np.argsort(pieces, kind="stable")
        for place in np.split(order, np.flatnonzero(np.diff(pieces[order])) + 1):
            members = wanted[place]
            if len(members):
                first, last = int(rows[members].min()), int(rows[members].max())
                found[members] = self.array.rows(first, last + 1)[:, rows[members] - first, columns[members]].T
        return found

    def remove(self) -> None:
        """Delete what was made for the moment, when all is made of it; a cube of the user's stays."""
        if self.temporary is not None:
            shutil.rmtree(self.temporary, ignore_errors=True)


@dataclass(frozen=True, eq=False)
class TokenSource:
    """Where the tokens of a map come from; nothing is made before they are asked for.

    Attributes:
        origin: What makes them.
        pixels: Scene pixels along a token's side.
        geobox: The token grid, ``(rows, columns)``.
        make: Gives their values and the folder that goes when they have served, reporting the share made, 0 to 1.
    """

    origin: Origin
    pixels: int
    geobox: GeoBox
    make: Callable[[Progress], tuple[CubeArray, Path | None]]

    def tokens(self, progress: Progress | None = None) -> SceneTokens:
        """Give them.

        Raises:
            InputError: A file is damaged, or an unfinished run with other inputs or settings lies there.
            OutputError: The disk is full.
        """
        array, temporary = self.make(progress or Silent())
        return SceneTokens(array, self.pixels, self.origin, temporary)


def tokens_from_scene(
    scene: Scene, engine: Engine, settings: DenseSettings, folder: Path, *, overwrite: bool = False
) -> TokenSource:
    """Tokens that a backbone makes of a scene, kept in a folder while a map is made of them.

    Args:
        scene: The scene.
        engine: What runs the backbone.
        settings: How windows are laid.
        folder: Where they are kept; an interrupted run goes on with what lies there.
        overwrite: Throw away an unfinished run with other inputs or settings that lies there.

    Raises:
        InputError: The scene lacks a band of the backbone, or the settings do not fit it.
    """
    plan = Extraction.plan(scene, engine, folder, settings, temporary=True)

    def make(progress: Progress) -> tuple[CubeArray, Path]:
        share = Share(progress, 0, 1, f"features of {scene.name}")
        writer = plan.fill(overwrite=overwrite, progress=share)
        return piece_array(writer), writer.spec.work

    pixels = plan.backbone.patch_size // plan.settings.upscale
    return TokenSource(Origin.of(plan.backbone, plan.settings), pixels, plan.spec.geobox, make)


def tokens_from_cube(path: Path, scene: Scene | None = None) -> TokenSource:
    """Tokens of a cube that ``geodino features`` wrote.

    Args:
        path: The cube.
        scene: The scene it was made of, on whose pixels a map goes; None leaves a map on the token grid.

    Raises:
        InputError: It is no feature cube, it does not say what made it, or its grid is not the scene's.
    """
    array = cube_array(path)
    pixels = 1 if scene is None else _side(path, array.geobox, scene.geobox)
    return TokenSource(Origin.of_cube(path, array), pixels, array.geobox, lambda progress: (array, None))


def _side(path: Path, tokens: GeoBox, scene: GeoBox) -> int:
    """Pixels of a token's side, checked against the scene's grid."""
    ratio = (~scene.affine) @ tokens.affine
    side = max(round(ratio.a), 1)
    shape = tuple(-(-int(length) // side) for length in scene.shape)
    skew = max(abs(ratio.a - side), abs(ratio.e - side), abs(ratio.b), abs(ratio.d), abs(ratio.c), abs(ratio.f))
    codes = {box.crs.to_epsg() for box in (scene, tokens) if box.crs is not None} - {None}
    if shape != tuple(tokens.shape) or skew > 0.01 or len(codes) > 1:
        raise InputError(f"{path} was not made of this scene: its grid is another one")
    return side
