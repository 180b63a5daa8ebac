"""What a page makes of dense features in memory within a second: colours, likeness, classes.

All of it is arithmetic on the token grid. What it makes is a small raster that the tile server enlarges smoothly, a
preview of what the commands make on the pixel grid.
"""

from dataclasses import dataclass, replace

import numpy as np

from app.work.cube import Cube
from geodino.heads.labels import Labels
from geodino.heads.legend import Legend
from geodino.heads.linear import BlockScale, LinearHead, fit_logistic, softmax
from geodino.heads.metrics import Agreement, confusion_matrix
from geodino.heads.validation import spatial_blocks, spatial_folds
from tiles.errors import InputError

NOTHING = 255  # nodata of previews in one byte


def pca(cube: Cube) -> np.ndarray:
    """First three principal components as colours, uint8 ``[3, H, W]`` in 1 … 255; 0 is nodata."""
    from geodino.dense.quicklook import PcaColours  # PyTorch, which no page needs to be drawn

    fitted = PcaColours.fit(cube.sample())
    low = fitted.low + fitted.components @ fitted.mean
    share = (cube.product(fitted.components) - low[:, None]) / (fitted.high - fitted.low)[:, None]
    return cube.spread((1 + np.clip(share, 0, 1) * 254).astype(np.uint8), 0)


def likeness(cube: Cube, more: list[tuple[int, int]], less: list[tuple[int, int]] | None = None) -> np.ndarray:
    """Cosine of every token to some tokens, float32 ``[H, W]``, NaN where nodata.

    Args:
        cube: The features.
        more: Rows and columns of tokens to look like: the likeness to the nearest of them counts.
        less: Tokens to look unlike: the likeness to the nearest of them is taken away.

    Raises:
        InputError: Where a place has no data.
    """

    def nearest(places: list[tuple[int, int]]) -> np.ndarray:
        positions = [cube.index[place] for place in places]
        if min(positions) < 0:
            raise InputError("There is no data at that place; click inside the scene.")
        return cube.product(cube.tokens[positions].astype(np.float32)).max(axis=0)

    score = nearest(more) - (nearest(less) if less else 0)
    return cube.spread(score[None].astype(np.float32), np.nan)[0]


@dataclass(frozen=True)
class LabelledTokens:
    """Examples on tokens that have data.

    Attributes:
        labels: The examples; classes that have none left are dropped.
        tokens: float32 ``[N, D]``.
        scale: How features vary over the whole scene.
    """

    labels: Labels
    tokens: np.ndarray
    scale: BlockScale

    @classmethod
    def on(cls, cube: Cube, labels: Labels) -> "LabelledTokens":
        """Those of some examples that lie on data.

        Raises:
            InputError: Where fewer than two classes are left.
        """
        positions = cube.index[labels.rows, labels.cols]
        labels, positions = labels.take(positions >= 0), positions[positions >= 0]
        present = np.unique(labels.classes)
        if len(present) < 2:
            raise InputError("Two classes need examples inside the scene; draw some where the scene has data.")
        legend = Legend(tuple(labels.legend.names[i] for i in present), tuple(labels.legend.colors[i] for i in present))
        labels = replace(labels, classes=np.searchsorted(present, labels.classes), legend=legend)
        return cls(labels, cube.tokens[positions].astype(np.float32), BlockScale.of(cube.sample()))

    def fit(self, chosen: np.ndarray | slice = slice(None)) -> LinearHead:
        """A classifier learned from all or some of them."""
        tokens = self.tokens[chosen]
        nothing = np.zeros((len(tokens), 0), dtype=np.float32)  # a live map reads no pixels
        scales = self.scale, BlockScale.of(nothing[:1])
        return fit_logistic(tokens, nothing, self.labels.classes[chosen], scales)

    def cross_validate(self) -> Agreement | None:
        """Agreement on examples that lie apart from those learned from; None where there are too few."""
        labels, count = self.labels, len(self.labels.legend)
        folds = spatial_folds(labels.classes, spatial_blocks(labels.rows, labels.cols, labels.objects))
        if not folds:
            return None
        confusion = np.zeros((count, count), dtype=np.int64)
        for train, test in folds:
            predicted = self.fit(train).token_logits(self.tokens[test].T).argmax(axis=0)
            confusion += confusion_matrix(labels.classes[test], predicted, count)
        return Agreement(confusion)


@dataclass(frozen=True)
class LiveMap:
    """A map from examples, on the token grid.

    Attributes:
        probabilities: uint8 ``[K, H, W]``: percent times 2; 255 where nodata.
        confidence: Probability of the winning class in percent, uint8 ``[H, W]``, 255 where nodata.
    """

    probabilities: np.ndarray
    confidence: np.ndarray


def classify(cube: Cube, examples: LabelledTokens) -> LiveMap:
    """Learn from examples and map the whole scene."""
    head = examples.fit()
    shares = softmax(cube.product(head.token_weight) + head.bias[:, None])
    return LiveMap(
        cube.spread(np.rint(shares * 200).astype(np.uint8), NOTHING),
        cube.spread(np.rint(shares.max(axis=0) * 100).astype(np.uint8)[None], NOTHING)[0],
    )
