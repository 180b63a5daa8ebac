"""Light heads on frozen features; all of them are linear.

A linear score of interpolated tokens is the interpolated linear score of tokens. So a head reads a pixel's tokens on
the coarse token grid and the pixel's own values on the pixel grid, and the two scores are added: no feature map is
ever held at pixel size.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]

# Inverse strength of the L2 penalty on block-scaled features (each block of features has unit expected squared
# length): strong enough for five labels, weak enough for thousands.
PENALTY = 10.0
# Sharpness of the cosine of a prototype as a logit.
TEMPERATURE = 10.0


@dataclass(frozen=True)
class LinearHead:
    """Scores of K classes from D token features and P pixel features.

    Attributes:
        token_weight: `[K, D]`.
        pixel_weight: `[K, P]`, P = 0 for a head that only reads tokens.
        bias: `[K]`.
    """

    token_weight: FloatArray
    pixel_weight: FloatArray
    bias: FloatArray

    @property
    def classes(self) -> int:
        """How many classes the head knows."""
        return len(self.bias)

    def token_logits(self, tokens: FloatArray) -> FloatArray:
        """Token half of the scores: features `[D, ...]` to `[K, ...]`, bias included."""
        flat = self.token_weight @ tokens.reshape(len(tokens), -1) + self.bias[:, None]
        return flat.reshape(self.classes, *tokens.shape[1:])

    def pixel_logits(self, spectra: FloatArray) -> FloatArray:
        """Pixel half of the scores: features `[P, ...]` to `[K, ...]`."""
        return (self.pixel_weight @ spectra.reshape(len(spectra), -1)).reshape(self.classes, *spectra.shape[1:])

    def logits(self, tokens: FloatArray, spectra: FloatArray) -> FloatArray:
        """Both halves for samples `[N, D]` and `[N, P]`: `[N, K]`."""
        return tokens @ self.token_weight.T + spectra @ self.pixel_weight.T + self.bias


@dataclass(frozen=True)
class BlockScale:
    """Centres and scales one block of features so that every block weighs the same in a penalty.

    Attributes:
        mean: `[F]`.
        scale: `[F]`; after division the expected squared length of the block is 1.
    """

    mean: FloatArray
    scale: FloatArray

    @classmethod
    def of(cls, features: FloatArray) -> "BlockScale":
        """Measured on a sample `[N, F]`, labelled or not."""
        mean = features.mean(axis=0, dtype=np.float64)
        deviation = features.std(axis=0, dtype=np.float64)
        # A feature that hardly varies in the sample is noise there; dividing by its deviation would make it loud.
        floor = 0.05 * np.sqrt(np.mean(deviation**2)) if len(deviation) else 0.0
        scale = np.maximum(np.maximum(deviation, floor), 1e-6) * np.sqrt(max(features.shape[1], 1))
        return cls(mean.astype(np.float32), scale.astype(np.float32))

    def apply(self, features: FloatArray) -> FloatArray:
        """Scaled features `[N, F]`."""
        return (features - self.mean) / self.scale


def fit_logistic(
    tokens: FloatArray,
    spectra: FloatArray,
    classes: NDArray[np.int64],
    scales: tuple[BlockScale, BlockScale],
    *,
    penalty: float = PENALTY,
) -> LinearHead:
    """L2-regularised multinomial logistic regression, every class weighing the same.

    Args:
        tokens: token features at the labelled pixels `[N, D]`.
        spectra: pixel features there `[N, P]`; P may be 0.
        classes: class indices from 0, every one present `[N]`.
        scales: scaling of the two blocks, measured over the scene.
        penalty: inverse strength of the L2 penalty, as scikit-learn's C.
    """
    from sklearn.linear_model import LogisticRegression

    scaled = np.concatenate([scales[0].apply(tokens), scales[1].apply(spectra)], axis=1)
    model = LogisticRegression(C=penalty, class_weight="balanced", max_iter=300, tol=1e-3)
    model.fit(scaled.astype(np.float64), classes)
    weight, bias = model.coef_, model.intercept_
    if len(weight) == 1:  # two classes: one score, split evenly between them
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    return _unscale(weight, bias, scales)


def fit_prototypes(
    tokens: FloatArray,
    spectra: FloatArray,
    classes: NDArray[np.int64],
    scales: tuple[BlockScale, BlockScale],
    *,
    temperature: float = TEMPERATURE,
) -> LinearHead:
    """One mean direction a class: the class whose mean a pixel points to.

    Snell, Swersky and Zemel, "Prototypical networks for few-shot learning", NeurIPS 2017, in its linear form
    (squared distance to a mean, less the part that all classes share). Steady with one or two labels a class.
    """
    scaled = np.concatenate([scales[0].apply(tokens), scales[1].apply(spectra)], axis=1)
    means = np.stack([scaled[classes == index].mean(axis=0) for index in range(int(classes.max()) + 1)])
    weight = temperature * means
    return _unscale(weight, -temperature * (means**2).sum(axis=1) / 2, scales)


def cluster_head(centres: FloatArray) -> LinearHead:
    """Head that gives every token to its nearest centre `[K, D]`: the largest score is the smallest distance."""
    empty = np.zeros((len(centres), 0), dtype=np.float32)
    return LinearHead(centres.astype(np.float32), empty, (-(centres**2).sum(axis=1) / 2).astype(np.float32))


def blend(first: LinearHead, second: LinearHead, share: float) -> LinearHead:
    """``(1 - share)`` of one head's scores plus ``share`` of the other's."""
    keep = 1 - share
    return replace(
        first,
        token_weight=keep * first.token_weight + share * second.token_weight,
        pixel_weight=keep * first.pixel_weight + share * second.pixel_weight,
        bias=keep * first.bias + share * second.bias,
    )


def _unscale(weight: NDArray, bias: NDArray, scales: tuple[BlockScale, BlockScale]) -> LinearHead:
    """Fold the blocks' scaling into the weights, so that the head reads raw features."""
    mean = np.concatenate([scales[0].mean, scales[1].mean])
    raw = weight / np.concatenate([scales[0].scale, scales[1].scale])
    bias = bias - raw @ mean
    tokens = len(scales[0].mean)
    return LinearHead(raw[:, :tokens].astype(np.float32), raw[:, tokens:].astype(np.float32), bias.astype(np.float32))


def softmax(logits: FloatArray, axis: int = 0) -> FloatArray:
    """Probabilities along ``axis``."""
    shifted = np.exp(logits - logits.max(axis=axis, keepdims=True))
    return shifted / shifted.sum(axis=axis, keepdims=True)
