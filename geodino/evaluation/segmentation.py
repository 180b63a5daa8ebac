"""Segmentation probe: one linear layer on frozen patch tokens, bilinear to pixels, scored by mean IoU.

The layer is fitted as a logistic regression of each patch's share of classes on its token: the same convex problem as
the image probe, with nothing to tune but C. Predictions are made at pixels: logits are upsampled, then compared with
every labelled pixel.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from geodino.evaluation.dataset import IGNORE, ImageSet
from geodino.evaluation.extract import Extractor, batches
from geodino.evaluation.intervals import iou_of_sums
from geodino.evaluation.linear import CS, Probe, fit
from geodino.evaluation.split import Split
from geodino.heads.metrics import confusion_matrix
from tiles.errors import InputError
from tiles.progress import Progress, Silent

MAX_TOKENS = 150_000  # tokens that fit the probe: beyond it, a seeded sample of every image's
BATCH = 8


@dataclass(frozen=True)
class SegmentationScore:
    """What a segmentation probe got right.

    Attributes:
        confusions: Pixels of true class ``t`` predicted as ``p``, a test image ``[N, K, K]``.
        c: Inverse strength of regularisation that validation chose.
    """

    confusions: np.ndarray
    c: float


def class_shares(mask: np.ndarray, grid: tuple[int, int], classes: int) -> np.ndarray:
    """Share of every class among the labelled pixels of every cell.

    Args:
        mask: Classes ``[H, W]``, ``IGNORE`` where there is none.
        grid: Rows and columns of cells that the mask is divided into, evenly; a pixel belongs to the cell its centre
            lies in.
        classes: Number of classes ``K``.

    Returns:
        Shares ``[h, w, K]``; all zero where a cell has no labelled pixel.
    """
    rows, columns = (
        ((np.arange(extent) + 0.5) * cells / extent).astype(int) for extent, cells in zip(mask.shape, grid, strict=True)
    )
    cell = rows[:, None] * grid[1] + columns[None, :]
    labelled = mask != IGNORE
    counts = np.bincount(cell[labelled] * classes + mask[labelled], minlength=grid[0] * grid[1] * classes)
    counts = counts.reshape(*grid, classes).astype(np.float64)
    return counts / np.maximum(counts.sum(-1, keepdims=True), 1)


def predict_pixels(logits: Tensor, shape: tuple[int, int]) -> np.ndarray:
    """Most probable class of every pixel ``[H, W]`` from logits ``[K, h, w]``, bilinear between cell centres."""
    return interpolate(logits[None], shape, mode="bilinear", align_corners=False)[0].argmax(0).numpy()


def confusion(mask: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Labelled pixels of true class ``t`` predicted as ``p`` ``[K, K]``."""
    labelled = mask != IGNORE
    return confusion_matrix(mask[labelled], predicted[labelled], classes)


def probe(
    extractor: Extractor,
    images: ImageSet,
    parts: Split,
    size: int,
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> SegmentationScore:
    """Fit on training images, choose C on validation images, fit on both, score on test images.

    Args:
        extractor: What describes the patches.
        images: A data set with masks.
        parts: Its split.
        size: Side in pixels that images are brought to.
        seed: Seed of the sample of tokens, where there are more than can be fitted.
        progress: Told how many images are done, of train + 2 × val + test.

    Raises:
        InputError: When the training masks hold fewer than two classes.
    """
    run = _Run(extractor, images, size, seed, progress or Silent())
    tokens, shares = run.collect(parts.train, max(1, MAX_TOKENS // max(len(parts.train), 1)))
    if (shares.sum(0) > 0).sum() < 2:
        raise InputError(f"the training masks of {images.name} hold fewer than two classes, so nothing can be learned")
    probes = fit(tokens, shares, len(images.classes), CS)
    scores = [iou_of_sums(confusions.sum(0)[None])[0] for confusions in run.score(parts.val, probes)]
    best = CS[int(np.argmax(scores))]
    more_tokens, more_shares = run.collect(parts.val, max(1, MAX_TOKENS // max(len(parts.fit), 1)))
    both = np.concatenate([tokens, more_tokens]), np.concatenate([shares, more_shares])
    final = fit(*both, len(images.classes), (best,))
    return SegmentationScore(run.score(parts.test, final)[0], best)


class _Run:
    """One extractor over one data set, counting the images it has gone through."""

    def __init__(self, extractor: Extractor, images: ImageSet, size: int, seed: int, progress: Progress) -> None:
        self.extractor, self.images, self.size, self.progress = extractor, images, size, progress
        self.rng, self.done = np.random.default_rng(seed), 0

    def masks(self, i: int) -> np.ndarray:
        if self.images.read_mask is None:
            raise InputError(f"{self.images.name} has one class an image and no masks; use --protocol knn or linear")
        return self.images.read_mask(i)

    def collect(self, indices: np.ndarray, at_most: int) -> tuple[np.ndarray, np.ndarray]:
        """Tokens ``[T, D]`` and class shares ``[T, K]`` of images, a seeded sample of each image's labelled cells."""
        tokens, shares = [], []
        for i, patches in self._patches(indices):
            share = class_shares(self.masks(i), (patches.shape[1], patches.shape[2]), len(self.images.classes))
            share = share.reshape(-1, share.shape[-1])
            keep = np.flatnonzero(share.any(1))
            if len(keep) > at_most:
                keep = np.sort(self.rng.choice(keep, at_most, replace=False))
            tokens.append(patches.flatten(1).T.numpy()[keep])
            shares.append(share[keep])
        return np.concatenate(tokens), np.concatenate(shares)

    def score(self, indices: np.ndarray, probes: list[Probe]) -> list[np.ndarray]:
        """Confusions ``[N, K, K]`` of every probe over images; each image is described once."""
        found: list[list[np.ndarray]] = [[] for _ in probes]
        for i, patches in self._patches(indices):
            mask, count = self.masks(i), len(self.images.classes)
            for one, into in zip(probes, found, strict=True):
                logits = one.logits(patches.permute(1, 2, 0)).permute(2, 0, 1)
                predicted = predict_pixels(logits, (mask.shape[0], mask.shape[1]))
                into.append(confusion(mask, predicted, count))
        return [np.stack(one) for one in found]

    def _describe(self, x: Tensor) -> Tensor:
        """Patches ``[B, D, h, w]``; of two dates ``[B, 2, C, H, W]`` how far they moved, feature by feature."""
        if x.ndim == 4:
            return self.extractor.describe(x).patches
        patches = self.extractor.describe(x.flatten(0, 1)).patches
        before, after = patches.reshape(len(x), 2, *patches.shape[1:]).unbind(1)
        return (after - before).abs()

    def _patches(self, indices: np.ndarray) -> Iterator[tuple[int, Tensor]]:
        """Every image of ``indices`` with its patches ``[D, h, w]``, in order."""
        start = 0
        for x in batches(self.images, indices, self.size, self.extractor.normalization, BATCH):
            patches = self._describe(x).cpu()
            with torch.inference_mode():
                for offset, one in enumerate(patches):
                    yield int(indices[start + offset]), one
            start += len(x)
            self.done += len(x)
            self.progress.update(self.done)
