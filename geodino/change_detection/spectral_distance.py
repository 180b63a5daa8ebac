"""The spectral half of a change score: IR-MAD over the bands both dates share, with a little spatial context."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rasterio.windows import Window
from scipy.ndimage import gaussian_filter

from geodino.change_detection.alignment import Pair
from geodino.change_detection.irmad import IrMad, fit_irmad
from geodino.change_detection.radiometry import RadiometricFit, fit_radiometry
from tiles.errors import InputError
from tiles.scenes.reader import SceneReader

# Deviation in pixels of the window over which neighbours support a pixel: what changes on the ground is larger than
# one pixel, noise and sub-pixel misregistration are not.
CONTEXT = 1.0
_TRUNCATE = 3.0
# Rows and columns a distance reaches beyond its own pixel: twice the context, and a neighbour.
HALO = 7
# Share of a pixel's difference from its four neighbours that resampling to another grid takes from sharp edges: cubic
# convolution takes none from a smooth image and up to all of the finest detail.
_BLUR = 0.15
_SURVEY_SIDE = 64
SURVEY_PIXELS = 400_000
_FEWEST_PIXELS = 200


@dataclass(frozen=True)
class SpectralModel:
    """What the sample of the pair taught.

    Attributes:
        bands: bands both dates share.
        irmad: the transformation.
        radiometry: lines that bring the second date to the first.
    """

    bands: tuple[str, ...]
    irmad: IrMad
    radiometry: RadiometricFit

    def measure(self, before: NDArray, after: NDArray, valid: NDArray[np.bool_], jitter: float) -> NDArray[np.float32]:
        """Length of the standardised MAD variates in units of what a displaced edge gives, over near neighbours.

        Where both dates have an edge, a displacement by ``jitter`` pixels and the blur of resampling make a difference
        that is no change. Its expected length, added to that of the noise, is what the length is measured in; where
        either date is smooth nothing is taken off. Roots are averaged over the neighbours: a mean of the lengths
        themselves would carry a strong change two or three pixels beyond its border.

        Args:
            before: first date `[C, H, W]` in [0, 1].
            after: second date, same shape.
            valid: pixels that both dates have `[H, W]`.
            jitter: displacement left between the dates at a typical place, pixels.

        Returns:
            `[2, H, W]`: the distance, and the texture that both dates have there: the slope of the smoother one, in
            deviations a pixel. NaN where not valid.
        """
        variates = self.irmad.variates(before, after)
        deviation = np.sqrt(self.irmad.variance).astype(np.float32)[:, None, None]
        length = np.sqrt((((variates[0] - variates[1]) / deviation) ** 2).sum(axis=0))
        slopes, bends = zip(*(_edges(date / deviation, valid) for date in variates), strict=True)
        slope, bend = (np.minimum(*dates).sum(axis=0) / len(deviation) for dates in (slopes, bends))
        weight = np.maximum(_smooth(valid.astype(np.float32)), 1e-12)
        slope, bend = _smooth(slope) / weight, _smooth(bend) / weight
        noise = 1 + jitter**2 * slope + _BLUR**2 * bend
        roots = _smooth(np.where(valid, np.sqrt(length / np.sqrt(noise)), 0)) / weight
        return np.where(valid, [roots**2, np.sqrt(slope)], np.nan).astype(np.float32)


def _smooth(image: NDArray) -> NDArray:
    return gaussian_filter(image, CONTEXT, mode="constant", truncate=_TRUNCATE)


def _edges(image: NDArray, valid: NDArray[np.bool_]) -> tuple[NDArray, NDArray]:
    """Squared slope per pixel and squared bend of each channel `[C, H, W]`; 0 beside pixels that are not valid."""
    slopes, bends = np.zeros_like(image), np.zeros_like(image)
    inside = np.s_[1:-1]
    for axis in (1, 2):
        here, known = np.moveaxis(image, axis, 1), np.moveaxis(valid, axis - 1, 0)
        sure = known[2:] & known[:-2] & known[inside]
        ahead, behind = here[:, 2:], here[:, :-2]
        slope, bend = np.moveaxis(slopes, axis, 1), np.moveaxis(bends, axis, 1)
        slope[:, inside] += sure * ((ahead - behind) / 2) ** 2
        bend[:, inside] += sure * (ahead + behind - 2 * here[:, inside]) ** 2
    return slopes, bends


def fit_spectral(pair: Pair, *, pixels: int = SURVEY_PIXELS) -> SpectralModel:
    """IR-MAD and the radiometric lines of a pair.

    Args:
        pair: two dates on one grid.
        pixels: size of the sample they are fitted on, which lies on a regular grid of windows; a scene of up to as many
            pixels is taken whole.

    Raises:
        InputError: the dates have hardly a valid pixel in common.
    """
    sample = _survey(pair, pixels)
    irmad = fit_irmad(*sample)
    stable = irmad.no_change_probability(*sample)
    return SpectralModel(pair.bands, irmad, fit_radiometry(*sample, stable))


def _survey(pair: Pair, pixels: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Valid pixels of both dates, `[C, N]` each."""
    height, width = pair.before.height, pair.before.width
    before, after = pair.before.select(pair.bands), pair.after.select(pair.bands)
    side = min(_SURVEY_SIDE, height, width)
    wanted = max(1.0, pixels / side**2)
    down = min(-(-height // side), max(1, round((wanted * height / width) ** 0.5)))
    across = min(-(-width // side), max(1, round((wanted * width / height) ** 0.5)))
    kept: list[tuple[NDArray, NDArray]] = []
    with SceneReader(before) as first, SceneReader(after) as second:
        for top in np.unique(np.linspace(0, height - side, down).astype(int)):
            for left in np.unique(np.linspace(0, width - side, across).astype(int)):
                window = Window(int(left), int(top), side, side)
                one, other = first.read(window), second.read(window)
                valid = one.valid & other.valid
                kept.append((one.values[:, valid], other.values[:, valid]))
    sample = np.concatenate([k[0] for k in kept], axis=1), np.concatenate([k[1] for k in kept], axis=1)
    if sample[0].shape[1] < _FEWEST_PIXELS:
        raise InputError(
            f"{pair.before.source} and {pair.after.source} have hardly a valid pixel in common; "
            "give two dates that overlap where they have data"
        )
    return sample
