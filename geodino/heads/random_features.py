"""Curved borders between classes of pixels: random waves of a pixel's values, which a linear head adds up.

A forest of trees bends around a class that is no half of band space, a linear head does not. Cosine and sine of some
tens of random directions stand for a Gaussian kernel of that reach (Rahimi and Recht, "Random features for large-scale
kernel machines", NeurIPS 2007, in the paired form, which errs less: Sutherland and Schneider, UAI 2015): the head stays
linear, so stays a matrix product, and is trained on five labels as well as on thousands.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from geodino.heads.linear import BlockScale, LinearHead

FloatArray = NDArray[np.float32]

# A cosine and a sine for each direction. Twice as many gain nothing on the labelled sets (docs/results.md) and take
# nearly half of a map's processor time.
WAVES = 128
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
    """Random cosines and sines of pixel features.

    Attributes:
        directions: `[R / 2, P]`, of raw features.
    """

    directions: FloatArray

    @classmethod
    def draw(cls, scale: BlockScale) -> "Waves":
        """The same waves for the same features: directions are drawn in units of their variation ``scale`` `[P]`."""
        rng = np.random.default_rng(_SEED)
        count = WAVES // 2
        reach = np.repeat(REACHES, count // len(REACHES))
        directions = rng.normal(size=(count, len(scale.mean))) / reach[:, None] / scale.scale
        return cls(directions.astype(np.float32))

    @classmethod
    def none(cls) -> "Waves":
        """No waves: a head that is linear in its pixels."""
        return cls(np.zeros((0, 0), np.float32))

    @property
    def count(self) -> int:
        """Waves ``R``."""
        return 2 * len(self.directions)

    def lift(self, spectra: FloatArray) -> FloatArray:
        """Pixel features `[P, ...]` followed by their waves `[P + R, ...]`, cosines before sines."""
        if not self.count:
            return spectra
        flat = spectra.reshape(len(spectra), -1)
        angles = self.directions @ flat
        return np.concatenate([flat, np.cos(angles), np.sin(angles)]).reshape(-1, *spectra.shape[1:])

    def scale(self, raw: BlockScale) -> BlockScale:
        """Scaling of lifted features: the raw ones as ``raw`` says, the waves together to half their length."""
        length = np.full(self.count, np.sqrt(self.count / 2) / _LENGTH, np.float32)
        mean = np.concatenate([raw.mean, np.zeros(self.count, np.float32)])
        return BlockScale(mean, np.concatenate([raw.scale, length]))

    def logits(self, head: LinearHead, spectra: FloatArray) -> FloatArray:
        """Pixel half of a head's scores `[K, ...]` from raw features `[P, ...]`, never holding all waves at once."""
        if not self.count:
            return head.pixel_logits(spectra)
        flat = spectra.reshape(len(spectra), -1)
        straight, curved = map(np.ascontiguousarray, np.split(head.pixel_weight, [len(flat)], axis=1))
        out = straight @ flat
        half = len(self.directions)
        for start in range(0, flat.shape[1], _PIXELS):
            angles = self.directions @ flat[:, start : start + _PIXELS]
            waves = np.empty((self.count, angles.shape[1]), np.float32)
            np.cos(angles, out=waves[:half])
            np.sin(angles, out=waves[half:])
            out[:, start : start + _PIXELS] += curved @ waves
        return out.reshape(head.classes, *spectra.shape[1:])
