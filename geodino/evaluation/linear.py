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
from torch.nn.functional import log_softmax

CS = tuple(10.0**exponent for exponent in np.arange(-5, 2.01, 0.5))
"""Strengths that are tried, from strong to weak regularisation."""


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


def fit(
    features: np.ndarray | Tensor,
    targets: np.ndarray | Tensor,
    classes: int,
    cs: Sequence[float] = CS,
    *,
    max_iterations: int = 500,
) -> list[Probe]:
    """Fit one probe for each C: minimise mean cross-entropy + ‖W‖² / (2 C N), the intercept free.

    Args:
        features: ``[N, D]``; standardised here, a constant feature left out.
        targets: Classes ``[N]``, or shares of the classes ``[N, K]`` that sum to 1.
        classes: Number of classes ``K``.
        cs: Strengths, best ascending: each fit starts from the one before.
        max_iterations: Limit of L-BFGS steps a fit.

    Returns:
        Probes in the order of ``cs``.
    """
    x = torch.as_tensor(features).float()
    mean, std = x.mean(0), x.std(0, correction=0)
    scale = torch.where(std > 1e-6 * std.max(), 1 / std, torch.zeros(()))
    x = (x - mean) * scale
    t = torch.as_tensor(targets)
    y = t.float() if t.ndim == 2 else torch.nn.functional.one_hot(t.long(), classes).float()
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
            options={"maxiter": max_iterations, "gtol": 1e-5, "ftol": 1e-9, "maxcor": 20},
        )
        flat = found.x
        w = torch.from_numpy(flat).float().reshape(classes, width + 1)
        weight = w[:, :-1] * scale
        probes.append(Probe(weight, w[:, -1] - weight @ mean, float(c)))
    return probes


def _objective(flat: np.ndarray, x: Tensor, y: Tensor, penalty: float) -> tuple[float, np.ndarray]:
    """Loss and gradient at ``flat`` = weights and intercepts ``[K, D + 1]``."""
    w = torch.from_numpy(flat).float().reshape(y.shape[1], -1)
    weight, bias = w[:, :-1], w[:, -1]
    logp = log_softmax(x @ weight.T + bias, dim=1)  # [N, K]
    loss = -(y * logp).sum(dtype=torch.float64) / len(x) + penalty / 2 * weight.square().sum(dtype=torch.float64)
    residual = (logp.exp() - y) / len(x)
    gradient = torch.cat([residual.T @ x + penalty * weight, residual.sum(0)[:, None]], dim=1)
    return float(loss), gradient.double().numpy().ravel()


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
