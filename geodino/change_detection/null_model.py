"""What "no change" looks like in one scene pair, and the threshold that follows from it.

Distances between two dates are never negative and have one crowded low end, the stable background, with a long tail
of change. Their logarithm is close to normal there. The background's centre is the mode of the log distance and its
spread is measured on the low side only, where change does not reach ("empirical null": Efron, "Large-scale
simultaneous hypothesis testing: the choice of a null hypothesis", JASA 99, 2004). A score is then the distance in
standard deviations above the background: comparable between methods, dates and scenes, and a threshold on it has an
expected false-alarm rate.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d
from scipy.special import ndtr, ndtri

from tiles.errors import InputError

BINS = 2048
# Log distances outside this range carry no information: e^-14 is below float rounding of any of our distances.
LOWEST, HIGHEST = -14.0, 14.0
# A background that is narrower than 5 % of its own level is rounding, not noise (the same image twice): it would make
# a difference of one grey level look like tens of deviations.
NARROWEST = 0.05
DEFAULT_FALSE_ALARM_RATE = 1e-3


class LogHistogram:
    """Counts of log distances, gathered block by block: memory does not grow with the raster."""

    def __init__(self) -> None:
        self.edges = np.linspace(LOWEST, HIGHEST, BINS + 1)
        self.counts = np.zeros(BINS, dtype=np.int64)

    def add(self, logs: NDArray) -> None:
        """Count log distances of any shape; NaN is left out."""
        finite = np.clip(logs[np.isfinite(logs)], LOWEST, HIGHEST)
        self.counts += np.histogram(finite, self.edges)[0]

    @property
    def total(self) -> int:
        """How many were counted."""
        return int(self.counts.sum())


def log_distance(distance: NDArray) -> NDArray:
    """Natural logarithm kept within the histogram's range; 0 becomes the lowest value, NaN stays."""
    return np.log(np.clip(distance, np.exp(LOWEST) * 1.001, np.exp(HIGHEST) * 0.999))


@dataclass(frozen=True)
class Background:
    """The stable background of one kind of distance: log distance ~ normal(``centre``, ``spread``)."""

    centre: float
    spread: float

    def standardise(self, logs: NDArray) -> NDArray[np.float32]:
        """Deviations of log distances above the background's centre; NaN stays NaN."""
        return ((logs - self.centre) / self.spread).astype(np.float32)


def fit_background(histogram: LogHistogram) -> Background:
    """Mode and low-side spread of log distances; where every pixel is the same, the narrowest spread believed."""
    counts, centres = histogram.counts.astype(np.float64), (histogram.edges[1:] + histogram.edges[:-1]) / 2
    if histogram.total == 0:
        return Background(0.0, 1.0)
    if counts[1:].sum() > 0.5 * counts.sum():
        counts[0] = 0  # exact zeros are repeated pixels, not the background, unless they are the larger part
    step = centres[1] - centres[0]
    # A kernel of about a fifth of the bulk's own width: the normal-reference rule for the sample sizes of an image.
    smooth = gaussian_filter1d(counts, max(1.0, 0.2 * _bulk_deviation(centres, counts) / step), mode="constant")
    mode = int(smooth.argmax())
    cumulative = np.cumsum(counts[: mode + 1][::-1])
    half = int(np.searchsorted(cumulative, cumulative[-1] / 2))
    spread = (half + 0.5) * step / ndtri(0.75)
    return Background(float(centres[mode]), float(max(spread, NARROWEST)))


def _bulk_deviation(centres: NDArray, counts: NDArray) -> float:
    """Robust spread of the bulk: the interquartile range over that of a unit normal."""
    low, high = np.interp([0.25, 0.75], np.cumsum(counts) / max(counts.sum(), 1), centres)
    return float(max(high - low, centres[1] - centres[0]) / (2 * ndtri(0.75)))


@dataclass(frozen=True)
class Threshold:
    """A threshold on standardised scores and where it came from.

    Attributes:
        value: scores above are change, in standard deviations of the background.
        rule: one sentence for the person who reads the map.
        false_alarm_rate: expected share of stable pixels above the threshold; NaN where there is no stable background
            to tell.
    """

    value: float
    rule: str
    false_alarm_rate: float


# Log spread of the distances of a pair whose dates differ nearly everywhere. Noise alone gives at most 0.4 (a chi
# distance with four degrees of freedom), and averaging over neighbours narrows that.
UNSTABLE = 0.45
# Such a pair is cut between its small and its large distances when the background's own limit leaves less than this.
FEW_BEYOND = 0.01


def automatic_threshold(
    histogram: LogHistogram,
    background: Background,
    *,
    spread: float = 0.0,
    false_alarm_rate: float = DEFAULT_FALSE_ALARM_RATE,
) -> Threshold:
    """Threshold on standardised scores, calibrated on the stable background.

    Three cases. As a rule the threshold is the score that a share ``false_alarm_rate`` of the background exceeds. Where
    change forms a class of its own farther out, it is the border between the two classes (Otsu, "A threshold selection
    method from gray-level histograms", IEEE TSMC 9(1), 1979), which is stricter. Where hardly anything is stable, so
    that the background is as wide as the score itself, it is the same border on the distances, and no rate is promised.

    Args:
        histogram: log distances of the pair.
        background: its stable background.
        spread: log spread of the distances before they were standardised; 0 when unknown.
        false_alarm_rate: wanted share of stable pixels above the threshold.
    """
    scores = ((histogram.edges[1:] + histogram.edges[:-1]) / 2 - background.centre) / background.spread
    counts = histogram.counts.astype(np.float64)
    limit = float(-ndtri(false_alarm_rate))
    beyond = counts[scores > limit].sum() / max(counts.sum(), 1)
    if spread > UNSTABLE and beyond < FEW_BEYOND:
        distances = np.exp(np.clip(spread * scores, LOWEST, HIGHEST))
        value = float(np.log(_otsu(distances, counts)) / spread)
        rule = "hardly anything is stable between these dates: border between small and large distances (Otsu)"
        return Threshold(value, rule, float("nan"))
    border = _otsu(np.maximum(scores, -4), counts)
    if border > limit:
        rule = "log-normal stable background and, farther out, the border between it and a class of change (Otsu)"
        return Threshold(float(border), rule, float(ndtr(-border)))
    rule = f"log-normal stable background: one in {1 / false_alarm_rate:,.0f} stable pixels expected above"
    return Threshold(limit, rule, false_alarm_rate)


def check_threshold(value: float | None) -> None:
    """Refuse a threshold that is no finite number, before any work; None is the automatic one.

    Raises:
        InputError: it is none.
    """
    if value is not None and not (isinstance(value, (int, float, np.number)) and math.isfinite(value)):
        raise InputError(f"a threshold is a finite number, or left out to be calibrated, not {value!r}")


def given_threshold(value: float) -> Threshold:
    """A threshold chosen by the user, with the false-alarm rate it implies."""
    return Threshold(value, "as given", float(ndtr(-value)))


def _otsu(values: NDArray, counts: NDArray) -> float:
    """Value that parts a histogram in the two classes with the largest variance between them."""
    below, total = np.cumsum(counts), counts.sum()
    moment = np.cumsum(counts * values)
    split = (below > 0) & (below < total)
    if not split.any():
        return float(values[-1])
    part, mean = below[split], moment[split]
    between = (moment[-1] * part / total - mean) ** 2 / (part * (total - part))
    # A gap between the classes scores the same over its whole length: the threshold goes in its middle.
    best = np.flatnonzero(split)[np.isclose(between, between.max(), rtol=1e-9)]
    return float((values[best[0]] + values[min(best[-1] + 1, len(values) - 1)]) / 2)
