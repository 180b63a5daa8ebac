"""Residual shift between two dates, to a fraction of a pixel.

Phase correlation of many windows (Kuglin and Hines, "The phase correlation image alignment method", 1975), each
refined to sub-pixel by the upsampled matrix product of Guizar-Sicairos et al., "Efficient subpixel image registration
algorithms", Optics Letters 33(2), 2008. The windows vote: their median is the shift, their scatter says whether it
can be trusted, because one window may hold a lake, a cloud or a real change.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

UPSAMPLE = 20
# A shift is applied when the windows' median deviation from it is below this: a correction less certain than half a
# pixel may do more harm than good.
LARGEST_SCATTER = 0.5
FEWEST_WINDOWS = 4
# Windows with a lower peak have nothing to say.
_LEAST_PEAK = 0.05


@dataclass(frozen=True)
class Shift:
    """How far the second date lies from the first, in pixels of the common grid.

    Attributes:
        rows: what is at row ``r`` in the first date is at row ``r + rows`` in the second.
        cols: the same for columns.
        scatter: median distance of the windows' shifts from the median shift, pixels.
        windows: how many windows voted.
        trusted: enough windows agree; only then is the shift corrected.
    """

    rows: float
    cols: float
    scatter: float
    windows: int
    trusted: bool

    def describe(self) -> str:
        """One sentence for the person who reads the map."""
        verdict = "corrected" if self.trusted else "not trusted, left as it is"
        if self.windows == 0:
            return "no residual shift could be measured"
        return (
            f"residual shift {self.cols:+.2f} px east, {self.rows:+.2f} px south "
            f"(scatter {self.scatter:.2f} px over {self.windows} windows): {verdict}"
        )


def phase_correlation(before: NDArray, after: NDArray) -> tuple[float, float, float]:
    """Shift of ``after`` against ``before`` and the height of its peak.

    Args:
        before: one band `[H, W]`, no NaN.
        after: the same place at the second date.

    Returns:
        Rows, columns (what is at ``r`` in ``before`` is at ``r + rows`` in ``after``), and the peak of the normalised
        correlation in [0, 1]: below about 0.03 there is none.
    """
    height, width = before.shape
    taper = np.outer(np.hanning(height), np.hanning(width))
    first = np.fft.fft2((before - before.mean()) * taper)
    second = np.fft.fft2((after - after.mean()) * taper)
    cross = second * np.conj(first)
    magnitude = np.abs(cross)
    # Spectral bins without energy carry only rounding; whitening them would drown the peak.
    cross = np.where(magnitude > 1e-6 * magnitude.max(initial=0), cross / np.maximum(magnitude, 1e-30), 0)
    # High frequencies are aliased and change most between sensors: they are damped, not trusted.
    rows, cols = np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None]
    cross = cross * np.exp(-((rows**2 + cols**2) / (2 * 0.2**2)))
    correlation = np.fft.ifft2(cross).real
    peak = np.unravel_index(int(correlation.argmax()), correlation.shape)
    coarse = (_signed(int(peak[0]), height), _signed(int(peak[1]), width))
    height_of_peak = float(correlation[peak] / max(np.abs(cross).sum() / (height * width), 1e-30))
    fine = _refine(cross, coarse)
    return fine[0], fine[1], height_of_peak


def _signed(index: int, size: int) -> int:
    return index - size if index > size // 2 else index


def _refine(cross: NDArray, coarse: tuple[int, int]) -> tuple[float, float]:
    """Evaluate the inverse transform on a grid of 1 / UPSAMPLE pixel around the coarse peak."""
    offsets = np.arange(-UPSAMPLE, UPSAMPLE + 1) / UPSAMPLE
    height, width = cross.shape
    rows = np.exp(2j * np.pi * np.outer(coarse[0] + offsets, np.fft.fftfreq(height)))
    cols = np.exp(2j * np.pi * np.outer(np.fft.fftfreq(width), coarse[1] + offsets))
    surface = (rows @ cross @ cols).real
    row, col = np.unravel_index(int(surface.argmax()), surface.shape)
    return float(coarse[0] + offsets[row]), float(coarse[1] + offsets[col])


def combine_windows(votes: Iterable[tuple[float, float, float]]) -> Shift:
    """Median of the windows' shifts, as ``phase_correlation`` gave them, and whether to trust it."""
    heard = np.array([vote for vote in votes if vote[2] >= _LEAST_PEAK], dtype=np.float64).reshape(-1, 3)
    if len(heard) == 0:
        return Shift(0.0, 0.0, float("inf"), 0, False)
    rows, cols = np.median(heard[:, 0]), np.median(heard[:, 1])
    scatter = float(np.median(np.hypot(heard[:, 0] - rows, heard[:, 1] - cols)))
    trusted = len(heard) >= FEWEST_WINDOWS and scatter <= LARGEST_SCATTER
    return Shift(float(rows), float(cols), scatter, len(heard), bool(trusted))
