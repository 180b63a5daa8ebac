"""Curved borders between classes of pixels: random waves of a pixel's values, which a linear head adds up.

A forest of trees bends around a class that is no half of band space, a linear head does not. A few hundred cosines of
random direction and phase stand for a Gaussian kernel of that reach (Rahimi and Recht, "Random features for
large-scale kernel machines", NeurIPS 2007): the head stays linear, so stays a matrix product, and is trained on five
labels as well as on thousands.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from geodino.segmentation.heads import BlockScale, LinearHead

FloatArray = NDArray[np.float32]

WAVES = 256
# Reach of the kernels in deviations of a typical feature: a short one for classes inside one another and a long one
# that hardly bends, so that the penalty and not a search decides how curved a border is.
REACHES = (0.5, 1.5)
# Expected length of the waves beside 1 of the features they bend: less than half of a border's evidence.
_LENGTH = 0.5
_SEED = 20_070_101
# Pixels worked on at once: their waves stay within a core's own cache.
_PIXELS = 256


@dataclass(frozen=True)
class Waves:
    """Random cosines of pixel features.

    Attributes:
        directions: `[R, P]`, of raw features.
        phases: `[R]`.
    """

    directions: FloatArray
    phases: FloatArray

    @classmethod
    def draw(cls, scale: BlockScale) -> "Waves":
        """The same waves for the same features: directions are drawn in units of their variation ``scale`` `[P]`."""
        rng = np.random.default_rng(_SEED)
        reach = np.repeat(REACHES, WAVES // len(REACHES))
        directions = rng.normal(size=(WAVES, len(scale.mean))) / reach[:, None] / scale.scale
        phases = rng.uniform(0, 2 * np.pi, WAVES) - directions @ scale.mean
        return cls(directions.astype(np.float32), np.mod(phases, 2 * np.pi).astype(np.float32))

    @classmethod
    def none(cls) -> "Waves":
        """No waves: a head that is linear in its pixels."""
        return cls(np.zeros((0, 0), np.float32), np.zeros(0, np.float32))

    def lift(self, spectra: FloatArray) -> FloatArray:
        """Pixel features `[P, ...]` followed by their waves `[P + R, ...]`."""
        if not len(self.phases):
            return spectra
        flat = spectra.reshape(len(spectra), -1)
        angles = self.directions @ flat
        angles += self.phases[:, None]
        np.cos(angles, out=angles)
        return np.concatenate([flat, angles]).reshape(-1, *spectra.shape[1:])

    def scale(self, raw: BlockScale) -> BlockScale:
        """Scaling of lifted features: the raw ones as ``raw`` says, the waves together to half their length."""
        count = len(self.phases)
        length = np.full(count, np.sqrt(count / 2) / _LENGTH, np.float32)
        return BlockScale(np.concatenate([raw.mean, np.zeros(count, np.float32)]), np.concatenate([raw.scale, length]))

    def logits(self, head: LinearHead, spectra: FloatArray) -> FloatArray:
        """Pixel half of a head's scores `[K, ...]` from raw features `[P, ...]`, never holding all waves at once."""
        if not len(self.phases):
            return head.pixel_logits(spectra)
        flat = spectra.reshape(len(spectra), -1)
        straight, curved = map(np.ascontiguousarray, np.split(head.pixel_weight, [len(flat)], axis=1))
        out = straight @ flat
        # Phases join the product as what a feature of 1 adds.
        turned = np.concatenate([self.directions, self.phases[:, None]], axis=1)
        flat = np.concatenate([flat, np.ones_like(flat[:1])])
        for start in range(0, flat.shape[1], _PIXELS):
            angles = turned @ flat[:, start : start + _PIXELS]
            np.cos(angles, out=angles)
            out[:, start : start + _PIXELS] += curved @ angles
        return out.reshape(head.classes, *spectra.shape[1:])
