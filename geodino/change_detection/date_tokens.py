"""Tokens of the dates that are compared: a backbone's of the corrected dates, or those of cubes that lie there."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from geodino.change_detection.alignment import Pair
from geodino.dense.engine import Engine
from geodino.dense.settings import DenseSettings
from geodino.dense.tokens import Origin, TokenSource, tokens_from_cube, tokens_from_scene
from tiles.errors import InputError
from tiles.grids import same_grid
from tiles.scenes.scene import Scene


@dataclass(frozen=True)
class DateTokens:
    """Where the tokens of all dates come from.

    Attributes:
        origin: what makes them.
        identity: what their values depend on beside the dates, as JSON can hold it.
        engine: what runs the backbone; None with cubes.
        windows: how windows are laid, as the engine resolved it.
        cubes: a cube for each date instead, each with its tokens.
    """

    origin: Origin
    identity: list[Any]
    engine: Engine | None = None
    windows: DenseSettings | None = None
    cubes: tuple[tuple[Path, TokenSource], ...] = ()

    @classmethod
    def of_backbone(cls, engine: Engine, settings: DenseSettings) -> "DateTokens":
        """Tokens wherever a date has a pixel.

        Raises:
            InputError: the settings do not fit the backbone.
        """
        arithmetic, windows = engine.describe(replace(settings, min_valid=0.0))
        identity = [engine.backbone.hash, arithmetic, windows.identity()]
        return cls(Origin.of(engine.backbone, windows), identity, engine, windows)

    @classmethod
    def of_cubes(cls, paths: Sequence[Path], scenes: Sequence[Scene]) -> "DateTokens":
        """Tokens of cubes of dates that share one pixel grid.

        Raises:
            InputError: there is not one cube for each date, a cube is not of its date's grid, the dates' grids differ,
                or the cubes' tokens are of different kinds.
        """
        if len(paths) != len(scenes):
            raise InputError(f"{len(scenes)} dates need as many cubes, one --features each, not {len(paths)}")
        cubes = tuple((path, tokens_from_cube(path, scene)) for path, scene in zip(paths, scenes, strict=True))
        origin = cubes[0][1].origin
        for (path, source), scene in zip(cubes, scenes, strict=True):
            if not same_grid(scene.geobox, scenes[0].geobox):
                raise InputError(
                    f"{scene.source} and {scenes[0].source} lie on different pixel grids, so the tokens of {path} and "
                    f"{paths[0]} are of different places; leave --features out to have the backbone read every date on "
                    "the first one's grid"
                )
            if _kind(source.origin) != _kind(origin):
                raise InputError(
                    f"{path} and {paths[0]} were not made by the same backbone with the same settings; make one of "
                    "them again with `geodino features`"
                )
        return cls(origin, [[str(path.absolute()), path.stat().st_mtime_ns] for path in paths], cubes=cubes)

    @property
    def settings(self) -> dict[str, Any]:
        """How they were made, for a map's STAC item."""
        if not self.cubes:
            return self.origin.settings
        made = {"backbone": self.origin.name, "weights_sha256": self.origin.hash, "cubes": self.cube_names}
        return self.origin.settings | made

    @property
    def cube_names(self) -> list[str]:
        """The cubes' names, in order of the dates; empty with a backbone."""
        return [path.name for path, _ in self.cubes]

    def source(self, number: int, corrected: Scene, folder: Path, *, overwrite: bool) -> TokenSource:
        """Tokens of one date.

        Args:
            number: which date, from 0.
            corrected: the date on the grid and in the light of the first.
            folder: where tokens are kept that are made now; an interrupted run goes on with what lies there.
            overwrite: throw away what an unfinished run with other inputs or settings has left there.
        """
        if self.engine is None or self.windows is None:
            return self.cubes[number][1]
        return tokens_from_scene(corrected, self.engine, self.windows, folder, overwrite=overwrite)

    def displacement(self, pair: Pair) -> float:
        """How far apart in pixels the tokens of one place may lie: in cubes, the shift is not taken out.

        Raises:
            InputError: the shift is longer than a token, so that cubes cannot be compared in place.
        """
        if not self.cubes:
            return pair.remaining_shift
        shift, side = float(np.abs(pair.shift).max()), self.cubes[0][1].pixels
        if shift > side:
            raise InputError(
                f"{pair.before.source} and {pair.after.source} are displaced by {shift:.1f} px, more than a token of "
                f"{side} px, which the cubes do not have corrected; leave --features out"
            )
        return shift + pair.remaining_shift

    def notes(self, pair: Pair) -> list[str]:
        """What the tokens do not have corrected, to be printed."""
        if not self.cubes:
            return []
        return [
            f"the cube of {pair.after.name} was made before shift and light could be corrected: its tokens may lie up "
            f"to {self.displacement(pair):.1f} px apart without being change, a change of light counts"
        ]


def plan_tokens(
    scenes: Sequence[Scene], engine: Engine | None, settings: DenseSettings, cubes: Sequence[Path]
) -> DateTokens | None:
    """Tokens of cubes where there are any, else of the backbone, else none."""
    if cubes:
        return DateTokens.of_cubes(cubes, scenes)
    return None if engine is None else DateTokens.of_backbone(engine, settings)


def _kind(origin: Origin) -> list[Any]:
    """What two cubes must share to be compared; how many windows a pass had is none of it."""
    settings = {key: value for key, value in origin.settings.items() if key != "batch_size"}
    return [origin.hash, origin.bands, origin.normalization, settings]
