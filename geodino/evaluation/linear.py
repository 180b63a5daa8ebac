"""Linear probe: multinomial logistic regression by L-BFGS, its strength C chosen on validation.

The protocol is DINOv2's and DINOv3's logistic-regression evaluation: one convex fit for each C, the best on validation
images wins and is fitted again on training and validation images. Every fit starts from the one before, which the
convexity allows and which makes the sweep several times faster than cold starts.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

CS = tuple(10.0**exponent for exponent in np.arange(-5, 2.01, 0.5))
"""Strengths that are tried, from strong to weak regularisation."""
MAX_ITERATIONS = 500  # of L-BFGS in a fit


@dataclass(frozen=True)
class Probe:
    """A fitted linear classifier of standardised features.

    Attributes:
        weight: ``[K, D]`` float32, for features as they come: standardisation is folded in.
        bias: ``[K]`` float32.
        c: Inverse strength of regularisation that it was fitted with.
    """

    weight: Tensor
    bias: Tensor
    c: float

    def logits(self, features: Tensor) -> Tensor:
        """Logits ``[..., K]`` of features ``[..., D]``."""
        return features @ self.weight.T + self.bias

    def predict(self, features: np.ndarray | Tensor) -> np.ndarray:
        """Most probable class ``[N]`` of features ``[N, D]``."""
        return self.logits(torch.as_tensor(features)).argmax(-1).numpy()


def fit(features: np.ndarray, targets: np.ndarray, classes: int, cs: Sequence[float] = CS) -> list[Probe]:
    """Fit one probe for each C: minimise mean cross-entropy + ‖W‖² / (2 C N), the intercept free.

    Args:
        features: ``[N, D]``; standardised here, a constant feature left out.
        targets: Classes ``[N]`` as integers, or shares of the classes ``[N, K]`` that sum to 1.
        classes: Number of classes ``K``.
        cs: Strengths, best ascending: each fit starts from the one before.

    Returns:
        Probes in the order of ``cs``.
    """
    x = np.asarray(features, np.float32)
    mean, std = x.mean(0), x.std(0)
    scale = np.where(std > 1e-6 * std.max(), 1 / np.maximum(std, 1e-30), 0).astype(np.float32)
    x = (x - mean) * scale
    t = np.asarray(targets)
    y = (t if t.ndim == 2 else np.eye(classes)[t]).astype(np.float32)
    count, width = x.shape
    flat = np.zeros(classes * (width + 1))
    probes = []
    for c in cs:
        found = minimize(
            _objective,
            flat,
            args=(x, y, 1 / (c * count)),
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": MAX_ITERATIONS, "gtol": 1e-5, "ftol": 1e-9, "maxcor": 20},
        )
        flat = found.x
        w = flat.astype(np.float32).reshape(classes, width + 1)
        weight = w[:, :-1] * scale
        probes.append(Probe(torch.from_numpy(weight), torch.from_numpy(w[:, -1] - weight @ mean), float(c)))
    return probes


def _objective(flat: np.ndarray, x: np.ndarray, y: np.ndarray, penalty: float) -> tuple[float, np.ndarray]:
    """Loss and gradient at ``flat`` = weights and intercepts ``[K, D + 1]``.

    In NumPy and not in torch: two products and a softmax a call, thousands of calls, and on a busy machine torch's
    threads wait for each other at every one of its small steps.
    """
    w = flat.astype(np.float32).reshape(y.shape[1], -1)
    weight, bias = w[:, :-1], w[:, -1]
    logits = x @ weight.T + bias  # [N, K]
    logits -= logits.max(1, keepdims=True)
    exponents = np.exp(logits)
    totals = exponents.sum(1, keepdims=True)
    # sums in float64: L-BFGS stops on differences that float32 sums would drown
    fit_loss = (np.log(totals[:, 0], dtype=np.float64) - (y * logits).sum(1)).mean(dtype=np.float64)
    loss = fit_loss + penalty / 2 * np.square(weight).sum(dtype=np.float64)
    residual = (exponents / totals - y) / np.float32(len(x))
    gradient = np.concatenate([residual.T @ x + np.float32(penalty) * weight, residual.sum(0)[:, None]], axis=1)
    return float(loss), gradient.astype(np.float64).ravel()


def sweep(
    features: np.ndarray,
    labels: np.ndarray,
    train: np.ndarray,
    val: np.ndarray,
    classes: int,
    cs: Sequence[float] = CS,
) -> Probe:
    """Choose C on validation rows, then fit on training and validation rows together.

    Args:
        features: ``[N, D]``.
        labels: ``[N]``.
        train: Rows to fit.
        val: Rows to choose C by; of equals, the strongest regularisation wins.
        classes: Number of classes.
        cs: Strengths to try, ascending.
    """
    probes = fit(features[train], labels[train], classes, cs)
    scores = [(probe.predict(features[val]) == labels[val]).mean() for probe in probes]
    best = cs[int(np.argmax(scores))]
    rows = np.concatenate([train, val])
    return fit(features[rows], labels[rows], classes, (best,))[0]
