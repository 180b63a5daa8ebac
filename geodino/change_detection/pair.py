"""Dates of one place made comparable, and any two of them compared: the map of a pair and those of a series.

Every date is brought onto the grid of the first and into its light once, its tokens are made once, and every two dates
are then compared by the same steps: distances of bands and of tokens, each calibrated on what is stable between these
two dates, and their sum, calibrated again.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from glob import escape
from pathlib import Path
from typing import Any, Self

from geodino.change_detection.alignment import AlignedDate, Pair, align, common_grid
from geodino.change_detection.date_tokens import DateTokens
from geodino.change_detection.radiometry import normalised
from geodino.change_detection.score import PairScore
from geodino.change_detection.score_method import Method
from geodino.change_detection.spectral_distance import SURVEY_PIXELS, SpectralModel, fit_spectral
from geodino.change_detection.token_score import score_tokens
from geodino.dense.tokens import SceneTokens
from geodino.products.tags import provenance
from tiles.progress import Progress, Share, Silent
from tiles.scenes.scene import Scene
from tiles.writing.outputs import part_of


@dataclass(frozen=True)
class CorrectedDate:
    """One date on the grid and in the light of the first.

    Attributes:
        aligned: the date on the grid of the first, its own light kept.
        spectral: comparison of its bands with the first date's; None for the first date itself.
    """

    aligned: AlignedDate
    spectral: SpectralModel | None = None

    @property
    def scene(self) -> Scene:
        """What a backbone sees."""
        if self.spectral is None:
            return self.aligned.scene
        return normalised(self.aligned.scene, self.spectral.bands, self.spectral.radiometry)


@dataclass
class Comparison:
    """The dates of one run, corrected once, any two of which can be compared.

    As a context it removes what it kept beside the map: distances always, tokens only where nothing went wrong, since a
    run that is started again goes on from them.

    Attributes:
        scenes: the dates, the first of which is the one that others are corrected to.
        target: the map that is being made; what is kept for the moment lies beside it.
        method: what is compared.
        tokens_of: where tokens come from; None is enough where only bands are compared.
        objects: pool scores over small image objects.
        sample: pixels that light and stable background are measured on.
        overwrite: throw away what an unfinished run with other inputs or settings has left.
        progress: is told the share of the tokens that are there.
    """

    scenes: Sequence[Scene]
    target: Path
    method: Method
    tokens_of: DateTokens | None = None
    objects: bool = False
    sample: int = SURVEY_PIXELS
    overwrite: bool = False
    progress: Progress | None = None

    @cached_property
    def dates(self) -> tuple[CorrectedDate, ...]:
        """The dates, corrected and cut to where all lie.

        Raises:
            InputError: the dates do not overlap, share no band or hardly a valid pixel.
        """
        first = AlignedDate(self.scenes[0].on(common_grid(*self.scenes)))
        dates = [CorrectedDate(first)]
        for scene in self.scenes[1:]:
            aligned = align(first.scene, scene)
            dates.append(CorrectedDate(aligned, fit_spectral(Pair.of(first, aligned), pixels=self.sample)))
        return tuple(dates)

    @cached_property
    def tokens(self) -> tuple[SceneTokens, ...]:
        """The tokens of each date."""
        assert self.tokens_of is not None
        count, whole = len(self.scenes), self.progress or Silent()
        made = []
        for number, date in enumerate(self.dates):
            share = Share(whole, number / count, (number + 1) / count)
            folder = part_of(self.target, f".date{number}")
            made.append(self.tokens_of.source(number, date.scene, folder, overwrite=self.overwrite).tokens(share))
        return tuple(made)

    @property
    def compared_tokens(self) -> DateTokens | None:
        """Where the tokens come from that are compared; None where only bands are."""
        return self.tokens_of if self.method.reads_features else None

    def notes(self, number: int) -> list[str]:
        """What was corrected of a date other than the first, and what could not be."""
        date, tokens = self.dates[number], self.compared_tokens
        assert date.spectral is not None
        light = date.spectral.radiometry.describe(date.spectral.bands)
        left = [] if tokens is None else tokens.notes(Pair.of(self.dates[0].aligned, date.aligned))
        return [*date.aligned.notes, light, *left]

    def tags(self, **scenes: Scene) -> dict[str, Any]:
        """What a map says of its dates, by the role they play, and of the tokens that were compared."""
        if self.compared_tokens is None:
            return provenance(None, **scenes)
        origin, cubes = self.compared_tokens.origin, self.compared_tokens.cube_names
        tags = provenance(origin, **scenes) | {"GEODINO_LAYERS": list(origin.layers) or "last"}
        return tags | {"GEODINO_CUBE_SOURCE": cubes} if cubes else tags

    def compare(self, first: int = 0, second: int = 1) -> PairScore:
        """The calibrated score of two dates, the earlier first."""
        before, after = self.dates[first], self.dates[second]
        pair = Pair.of(before.aligned, after.aligned)
        bands = None
        if self.method.reads_bands:
            bands = after.spectral if before.spectral is None else fit_spectral(pair, pixels=self.sample)
        tokens = None
        if self.compared_tokens is not None:
            tokens = score_tokens(
                self.tokens[first], self.tokens[second], part_of(self.target, f".distances{first}_{second}"),
                displacement=self.compared_tokens.displacement(pair),
            )  # fmt: skip
        return PairScore(pair, bands, tokens, objects=self.objects).calibrated()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, error: type[BaseException] | None, *rest: object) -> None:
        for path in self._beside(".distances*"):
            path.unlink(missing_ok=True)
        if error is None:  # with what a failed run of more dates has left
            for path in self._beside(".date*"):
                shutil.rmtree(path, ignore_errors=True)

    def _beside(self, kind: str) -> list[Path]:
        return list(self.target.parent.glob(part_of(Path(escape(self.target.name)), kind).name))
