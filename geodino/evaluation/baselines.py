"""Floors: what costs no pretraining at all, and what a backbone has to beat to have learned anything.

Each is an ``Extractor`` over the same standardised images as the backbone beside it: statistics of the image's
values, random convolutions (Rolf et al. 2021, "A generalizable and accessible approach to machine learning with global
satellite imagery"), and the backbone's own architecture with random weights.
"""

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, conv2d, unfold

from geodino.backbones.backbone import Backbone, untrained_backbone
from geodino.backbones.normalize import Normalization
from geodino.evaluation.extract import BackboneExtractor, Described, Extractor, digest

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
FILTERS = 256
BIAS = -1.0  # of the random convolutions, on standardised values: most filters are silent on most pixels


class ImageStatistics:
    """Mean, standard deviation and five quantiles of every band: over the image, or over a patch's pixels."""

    resizable = False

    def __init__(self, bands: tuple[str, ...], normalization: Normalization, patch_size: int) -> None:
        self.name, self.key = "image statistics", f"statistics-{patch_size}-{digest(str((bands, normalization)))}"
        self.bands, self.normalization, self.patch_size = bands, normalization, patch_size

    def describe(self, x: Tensor) -> Described:
        """Describe images ``[B, C, H, W]`` by ``7 C`` numbers."""
        summary = _statistics(x.flatten(2))
        return Described(summary, summary, torch.cat([self._patches(one[None]) for one in x]))

    def _patches(self, x: Tensor) -> Tensor:
        bands, height, width = x.shape[1:]
        cells = unfold(x, self.patch_size, stride=self.patch_size)[0]  # [C p², N]
        patches = _statistics(cells.reshape(bands, -1, cells.shape[1]).permute(2, 0, 1))  # [N, 7 C]
        return patches.T.reshape(1, -1, height // self.patch_size, width // self.patch_size)


def _statistics(values: Tensor) -> Tensor:
    """Statistics ``[B, 7 C]`` of the values ``[B, C, P]`` of each band."""
    quantiles = values.quantile(torch.tensor(QUANTILES), dim=2)  # [5, B, C]
    return torch.cat([values.mean(2), values.std(2, correction=0), *quantiles], dim=1)


class RandomConvolutions:
    """Mean response of random 3 × 3 filters and of their negatives, over the image or over a patch's pixels."""

    resizable = False

    def __init__(self, bands: tuple[str, ...], normalization: Normalization, patch_size: int, seed: int = 0) -> None:
        self.name = "random convolutions"
        self.key = f"convolutions-{FILTERS}-{patch_size}-{seed}-{digest(str((bands, normalization)))}"
        self.bands, self.normalization, self.patch_size = bands, normalization, patch_size
        generator = torch.Generator().manual_seed(seed)
        self.filters = torch.randn(FILTERS, len(bands), 3, 3, generator=generator)

    def describe(self, x: Tensor) -> Described:
        """Describe images ``[B, C, H, W]`` by twice as many numbers as there are filters."""
        patches = torch.cat([self._patches(one[None]) for one in x])  # one by one: responses are wide
        summary = patches.mean((2, 3))
        return Described(summary, summary, patches)

    def _patches(self, x: Tensor) -> Tensor:
        response = conv2d(x, self.filters, padding=1)  # [1, F, H, W]
        positive = avg_pool2d((response + BIAS).relu_(), self.patch_size)
        return torch.cat([positive, avg_pool2d(response.neg_().add_(BIAS).relu_(), self.patch_size)], dim=1)


def floors(backbone: Backbone, seed: int = 0) -> list[Extractor]:
    """The three floors of a backbone, on its bands, its normalisation and its grid."""
    shared = backbone.bands, backbone.normalization, backbone.patch_size
    card = backbone.card
    untrained = untrained_backbone(
        backbone.architecture,
        backbone.bands,
        normalization=backbone.normalization,
        seed=seed,
        device=str(backbone.device),
        precision="bf16" if backbone.dtype == torch.bfloat16 else "fp32",
        **(card.model_args if card else {}),
    )
    name = f"{backbone.architecture}, untrained"
    return [ImageStatistics(*shared), RandomConvolutions(*shared, seed), BackboneExtractor(untrained, name)]
