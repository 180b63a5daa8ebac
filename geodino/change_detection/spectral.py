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

# Deviation in pixels of the window over which neighbours support a pixel: what changes on the ground is larger than
# one pixel, noise and sub-pixel misregistration are not.
CONTEXT = 1.0
HALO = 4
_SURVEY_SIDE = 64
_SURVEY_PIXELS = 400_000
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

    def distance(self, before: NDArray, after: NDArray, valid: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Length of the standardised MAD variates, averaged over the near neighbours that are valid.

        Args:
            before: first date `[C, H, W]` in [0, 1].
            after: second date, same shape.
            valid: pixels that both dates have `[H, W]`.

        Returns:
            `[H, W]`, NaN where not valid.
        """
        length = np.sqrt(self.irmad.chi_squared(before, after))
        weight = gaussian_filter(valid.astype(np.float64), CONTEXT, mode="constant")
        total = gaussian_filter(np.where(valid, length, 0), CONTEXT, mode="constant")
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(valid, total / weight, np.nan).astype(np.float32)


def survey(pair: Pair, *, pixels: int = _SURVEY_PIXELS) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Valid pixels of both dates on a regular grid of windows, `[C, N]` each.

    A scene of up to ``pixels`` pixels is taken whole.

    Raises:
        InputError: the dates have hardly a valid pixel in common.
    """
    height, width = pair.before.height, pair.before.width
    before, after = pair.before.select(pair.bands), pair.after.select(pair.bands)
    side = min(_SURVEY_SIDE, height, width)
    wanted = max(1.0, pixels / side**2)
    down = min(-(-height // side), max(1, round((wanted * height / width) ** 0.5)))
    across = min(-(-width // side), max(1, round((wanted * width / height) ** 0.5)))
    kept: list[tuple[NDArray, NDArray]] = []
    with before.open() as first, after.open() as second:
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


def fit_spectral(pair: Pair, sample: tuple[NDArray[np.float32], NDArray[np.float32]]) -> SpectralModel:
    """IR-MAD and the radiometric lines of a pair from its sample."""
    irmad = fit_irmad(*sample)
    stable = irmad.no_change_probability(*sample)
    return SpectralModel(pair.bands, irmad, fit_radiometry(*sample, stable))
