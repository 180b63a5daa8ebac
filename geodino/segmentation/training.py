"""From labelled pixels to a trained head, and how good it is likely to be."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from geodino.dense.tokens import SceneTokens
from geodino.heads.balance import balance, fit_head
from geodino.heads.labels import Labels
from geodino.heads.linear import BlockScale, LinearHead
from geodino.heads.model_file import Recipe, SegmentationModel
from geodino.heads.random_features import Waves
from geodino.heads.samples import spectra_at, survey_pixels, survey_tokens, tokens_at
from geodino.heads.validation import Validation, cross_validate, spatial_blocks
from tiles.errors import InputError
from tiles.scenes.scene import Scene

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class Examples:
    """Labelled pixels with what a head reads there.

    Attributes:
        labels: the labels that lie on data, `N` of them.
        tokens: interpolated features `[N, D]`.
        spectra: lifted pixel features `[N, P]`; P is 0 where the recipe has no pixel bands.
        bands: band values `[N, C]`, for the forest beside a validation; the tokens where there are no pixel bands.
        groups: spatial group of each label `[N]`; groups are kept whole when labels are split.
        scales: scaling of the two blocks, the tokens' weight in it.
        waves: how pixel features are lifted.
        recipe: what the head's input goes through.
        notes: decisions taken, to be printed.
    """

    labels: Labels
    tokens: FloatArray
    spectra: FloatArray
    bands: FloatArray
    groups: NDArray[np.int64]
    scales: tuple[BlockScale, BlockScale]
    waves: Waves
    recipe: Recipe
    notes: tuple[str, ...]

    @classmethod
    def gather(cls, labels: Labels, scene_tokens: SceneTokens, scene: Scene, recipe: Recipe) -> "Examples":
        """Read tokens and pixels at the labels, and weigh them against each other.

        Raises:
            InputError: every label of a class lies on nodata.
        """
        notes: list[str] = []
        tokens, known = tokens_at(scene_tokens, labels.rows, labels.cols)
        scale, waves = BlockScale.of(survey_tokens(scene_tokens)), Waves.none()
        spectra, bands = np.zeros((len(labels), 0), np.float32), tokens
        pixel_scale = BlockScale(np.zeros(0, np.float32), np.ones(0, np.float32))
        if recipe.pixel_bands:
            pixels = scene.select(recipe.pixel_bands)
            spectra, measured = spectra_at(pixels, labels.rows, labels.cols)
            known &= measured
            bands = spectra[:, : len(recipe.pixel_bands)]
            raw = BlockScale.of(survey_pixels(pixels))
            waves = Waves.draw(raw)
            spectra = waves.lift(spectra.T).T
            pixel_scale = waves.scale(raw)
        if not known.all():
            notes.append(f"{int((~known).sum()):,} labelled pixels are nodata in the scene and left out")
            labels, tokens, spectra, bands = labels.take(known), tokens[known], spectra[known], bands[known]
        gone = [name for index, name in enumerate(labels.legend.names) if not (labels.classes == index).any()]
        if gone:
            raise InputError(
                f"every label of {', '.join(gone)} lies on nodata; give labels where {scene.source} has data"
            )
        groups = spatial_blocks(labels.rows, labels.cols, labels.objects)
        # One number chosen from three: choosing it anew in every fold would cost far more than it would tell.
        scales, weight = balance(tokens, spectra, labels.classes, groups, (scale, pixel_scale))
        if recipe.pixel_bands:
            notes.append(f"tokens weigh {weight:g} against pixels, chosen on the labels")
        return cls(labels, tokens, spectra, bands, groups, scales, waves, recipe, tuple(notes))

    def fit(self, validation: Validation | None = None) -> SegmentationModel:
        """The head of all the labels, with the report of a validation where there was one."""
        head = self._fit(np.arange(len(self.labels)))
        report = None if validation is None else validation.to_json()
        return SegmentationModel(head, self.labels.legend, self.recipe, report, self.waves)

    def validate(self, *, seed: int = 0) -> Validation | None:
        """Cross-validate the head on places apart, beside a forest on the pixels' bands.

        Returns:
            None where the labels of each class lie in a single place: nothing independent is left to test on.
        """

        def predictor(members: NDArray[np.int64]) -> Callable[[NDArray[np.int64]], NDArray[np.int64]]:
            head = self._fit(members)
            return lambda test: head.logits(self.tokens[test], self.spectra[test]).argmax(axis=1)

        labels = self.labels
        return cross_validate(labels.legend, labels.classes, self.groups, predictor, self.bands, seed=seed)

    def _fit(self, members: NDArray[np.int64]) -> LinearHead:
        return fit_head(self.tokens[members], self.spectra[members], self.labels.classes[members], self.scales)


UNTESTED = "the labels of each class lie in a single place: nothing independent is left to validate the map on"
