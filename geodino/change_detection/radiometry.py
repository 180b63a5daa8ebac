"""Relative radiometric normalisation: the second date in the radiometry of the first.

A straight line per band, fitted on pixels that did not change: those to which IR-MAD gives a high probability of no
change. Canty and Nielsen, "Automatic radiometric normalization of multitemporal satellite imagery with the
iteratively re-weighted MAD transformation", Remote Sensing of Environment 112(3), 2008.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tiles.scenes.band import Band
from tiles.scenes.scene import Scene

# Lines outside this range of gains are a failed fit (no stable pixel, a cloud over the sample), not a change of light.
GAINS = (0.25, 4.0)
FEWEST_PIXELS = 100


@dataclass(frozen=True)
class RadiometricFit:
    """``before ≈ gain · after + offset`` on stable pixels, per band, in [0, 1] units.

    Attributes:
        gain: per band `[C]`.
        offset: per band `[C]`.
        pixels: effective number of stable pixels the line was fitted on.
    """

    gain: tuple[float, ...]
    offset: tuple[float, ...]
    pixels: float

    def describe(self, bands: tuple[str, ...]) -> str:
        """One sentence for the person who reads the map."""
        lines = ", ".join(
            f"{band} ×{gain:.2f}{offset:+.3f}" for band, gain, offset in zip(bands, self.gain, self.offset, strict=True)
        )
        return f"brought to the light of the first date on about {self.pixels:,.0f} stable pixels: {lines}"


def fit_radiometry(before: NDArray, after: NDArray, stable: NDArray) -> RadiometricFit:
    """Fit the lines by weighted orthogonal regression (both dates carry noise).

    Args:
        before: pixels of the first date `[C, N]`.
        after: pixels of the second date `[C, N]`.
        stable: weight of each pixel in [0, 1], its probability of no change.

    Returns:
        The identity where there are too few stable pixels or the line is not believable.
    """
    gains, offsets = [], []
    total = float(stable.sum())
    for first, second in zip(before.astype(np.float64), after.astype(np.float64), strict=True):
        gain, offset = 1.0, 0.0
        if total >= FEWEST_PIXELS:
            mean_first, mean_second = np.average(first, weights=stable), np.average(second, weights=stable)
            var_first = np.average((first - mean_first) ** 2, weights=stable)
            var_second = np.average((second - mean_second) ** 2, weights=stable)
            cov = np.average((first - mean_first) * (second - mean_second), weights=stable)
            if cov > 0 and var_second > 0:
                slope = (var_first - var_second + np.hypot(var_first - var_second, 2 * cov)) / (2 * cov)
                if GAINS[0] <= slope <= GAINS[1]:
                    gain, offset = float(slope), float(mean_first - slope * mean_second)
        gains.append(gain)
        offsets.append(offset)
    return RadiometricFit(tuple(gains), tuple(offsets), total)


def normalised(scene: Scene, bands: tuple[str, ...], fit: RadiometricFit) -> Scene:
    """The scene with each fitted band's map to [0, 1] followed by its line."""
    lines = dict(zip(bands, zip(fit.gain, fit.offset, strict=True), strict=True))

    def follow(band: Band) -> Band:
        gain, offset = lines.get(band.name, (1.0, 0.0))
        return replace(band, scale=gain * band.scale, offset=gain * band.offset + offset)

    return replace(scene, bands=tuple(follow(band) for band in scene.bands))
