"""Iteratively reweighted multivariate alteration detection: the strong classical change score at 10 to 30 m.

Canonical correlation finds the linear combinations of the bands of two dates that agree best; their differences (the
MAD variates) are uncorrelated, and the sum of their squares in units of their own variance is invariant to any
linear change of gain and offset of either date. Reweighting every pixel by its probability of no change makes the
correlation that of the stable background. Nielsen, "The regularized iteratively reweighted MAD method for change
detection in multi- and hyperspectral data", IEEE TIP 16(2), 2007.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh
from scipy.special import chdtrc, polygamma

from geodino.change_detection.null_model import LogHistogram, fit_background, log_distance

FloatArray = NDArray[np.float64]

# Share of the variance added to the covariance's diagonal: keeps the eigenproblem solvable when bands repeat each
# other or the two dates are the same file, and is far below what eight-bit rounding adds to real bands.
RIDGE = 1e-6
# The log of a chi distance of pure noise has a known spread. When the background's is wider by this factor, reweighting
# has locked on to a handful of look-alike pixels (a lake, saturated roofs) and no longer describes the background: the
# last sound iteration is kept.
WIDEST = 1.5


@dataclass(frozen=True)
class IrMad:
    """A fitted transformation: apply it to any pixels of the same pair.

    Attributes:
        mean: mean of the stable background of the bands of both dates, `[2 C]`.
        before: weights of the MAD variates on the first date, `[C, C]` (band, variate).
        after: the same on the second date.
        variance: variance of each variate under no change, `[C]`.
        correlation: canonical correlations, ascending, `[C]`.
    """

    mean: FloatArray
    before: FloatArray
    after: FloatArray
    variance: FloatArray
    correlation: FloatArray

    def chi_squared(self, before: NDArray, after: NDArray) -> FloatArray:
        """Sum of squared standardised MAD variates, chi-squared with C degrees of freedom where nothing changed.

        Args:
            before: values of the first date `[C, ...]`, in the units the transformation was fitted in.
            after: values of the second date, same shape.

        Returns:
            `[...]`, 0 to infinity, larger = more change.
        """
        first, second = self.variates(before, after)
        return np.einsum("c...,c->...", (first - second) ** 2, 1 / self.variance)

    def variates(self, before: NDArray, after: NDArray) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
        """Canonical variates of both dates, `[C, ...]` each; their differences are the MAD variates."""
        bands, kind = len(self.variance), before.dtype
        mean = self.mean.astype(kind)
        first = self.before.astype(kind).T @ (before.reshape(bands, -1) - mean[:bands, None])
        second = self.after.astype(kind).T @ (after.reshape(bands, -1) - mean[bands:, None])
        return first.reshape(before.shape), second.reshape(after.shape)

    def no_change_probability(self, before: NDArray, after: NDArray) -> FloatArray:
        """Probability of a chi-squared value at least as large where nothing changed, `[...]` in [0, 1]."""
        return np.asarray(chdtrc(len(self.variance), self.chi_squared(before, after)))


def fit_irmad(before: NDArray, after: NDArray, *, iterations: int = 30, tolerance: float = 1e-3) -> IrMad:
    """Fit the transformation on pixels of two dates.

    Args:
        before: valid pixels of the first date `[C, N]`.
        after: the same pixels of the second date `[C, N]`.
        iterations: upper bound of reweightings; one makes plain MAD.
        tolerance: stop when no canonical correlation moves by more.
    """
    bands = before.shape[0]
    values = np.concatenate([before, after]).astype(np.float64)
    widest = WIDEST * 0.5 * np.sqrt(polygamma(1, bands / 2))
    weights = np.ones(values.shape[1])
    fitted = _fit(values, weights)
    for _ in range(1, iterations):
        weights = fitted.no_change_probability(values[:bands], values[bands:])
        update = _fit(values, weights)
        histogram = LogHistogram()
        histogram.add(log_distance(np.sqrt(update.chi_squared(values[:bands], values[bands:]))))
        if fit_background(histogram).spread > widest:
            break
        settled = np.abs(update.correlation - fitted.correlation).max() < tolerance
        fitted = update
        if settled:
            break
    return fitted


def _fit(values: FloatArray, weights: FloatArray) -> IrMad:
    """Weighted canonical correlation of the two halves of ``values`` `[2 C, N]`."""
    bands = values.shape[0] // 2
    total = weights.sum()
    mean = (values * weights).sum(axis=1) / total
    centred = values - mean[:, None]
    covariance = (centred * weights) @ centred.T / total
    scale = np.trace(covariance) / (2 * bands)
    covariance += np.eye(2 * bands) * max(RIDGE * scale, np.finfo(np.float64).tiny ** 0.5)
    first, cross, second = covariance[:bands, :bands], covariance[:bands, bands:], covariance[bands:, bands:]
    squared, before = eigh(cross @ np.linalg.solve(second, cross.T), first)
    correlation = np.sqrt(np.clip(squared, 0, 1))
    after = np.linalg.solve(second, cross.T @ before)
    # Unit variance of each canonical variate of the second date; where there is no correlation the direction is free.
    spread = np.sqrt(np.maximum(np.einsum("ik,ij,jk->k", after, second, after), 1e-30))
    after = after / spread
    variance = np.maximum(2 * (1 - correlation), 1e-9)
    return IrMad(mean, before, after, variance, correlation)
