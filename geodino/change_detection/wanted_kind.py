"""Change of one kind: "like these, not like those".

A class-agnostic score finds every change. A few examples of the change that is wanted and of what is not turn it into
a score of that kind: a regularised logistic regression on the class-agnostic score, on the colours of both dates and
on both dates' tokens.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from geodino.change_detection.null_model import Threshold
from geodino.change_detection.score import PairScore, Readers, ScoreRows, bring_to_pixels, each_block
from geodino.change_detection.token_score import TokenScore
from geodino.heads.labels import Labels
from geodino.heads.linear import BlockScale, LinearHead, blend, fit_logistic, fit_prototypes
from geodino.heads.samples import tokens_at
from tiles.errors import InputError

FloatArray = NDArray[np.float32]

WANTED = ("1", "change", "changed", "yes", "true", "positive", "wanted", "like")
_DARK = 0.01
# The class-agnostic score enters unscaled by the number of features: two or three deviations of it are worth a label.
_SCORE_UNIT = 2.0
_SURVEY_BLOCKS = 24
_PROTOTYPE_SHARE = 0.3


@dataclass(frozen=True)
class KindOfChange:
    """A trained score of one kind of change.

    Attributes:
        score: the class-agnostic score.
        head: two classes, 0 not wanted and 1 wanted.
    """

    score: PairScore
    head: LinearHead

    def rows(self) -> Iterator[ScoreRows]:
        """The score from top to bottom: log odds of the wanted kind, above 0 where it is likelier than not."""
        return each_block(self._rows, self.score.blocks(), [self.score.pair])

    def _rows(self, readers: Readers, start: int, stop: int) -> ScoreRows:
        features, valid = pair_features(self.score, readers, start, stop)
        logits = self.head.pixel_logits(features)
        if self.score.tokens is not None:
            logits += self._token_logits(self.score.tokens, start, stop)
        else:
            logits += self.head.bias[:, None, None]
        return ScoreRows(start, np.where(valid, logits[1] - logits[0], np.nan).astype(np.float32))

    def threshold(self) -> Threshold:
        """Even odds."""
        return Threshold(0.0, "wanted kind of change likelier than not, learned from examples", float("nan"))

    def _token_logits(self, tokens: TokenScore, start: int, stop: int) -> FloatArray:
        patch, rows = tokens.patch, tokens.before.valid.shape[0]
        top, bottom = max(start // patch - 1, 0), min(-(-stop // patch) + 1, rows)
        first, one = tokens.before.read(top, bottom)
        second, other = tokens.after.read(top, bottom)
        logits = self.head.token_logits(_token_pair(first, second, tokens.centres))
        scene = self.score.pair.before
        return bring_to_pixels(logits * (one & other), top, patch, start, stop, scene.height, scene.width)


def learn_kind(score: PairScore, labels: Labels) -> KindOfChange:
    """Train on examples.

    Args:
        score: the calibrated class-agnostic score of the pair.
        labels: labelled pixels on the pair's grid, of two classes; the wanted one is called one of ``WANTED``.

    Raises:
        InputError: it is not clear which class is wanted, or no example lies on valid pixels.
    """
    names = [name.lower() for name in labels.legend.names]
    wanted = [index for index, name in enumerate(names) if name in WANTED]
    if len(wanted) != 1 or len(names) != 2:
        raise InputError(
            f"examples need two classes, the wanted one called one of {', '.join(WANTED)}; these are called "
            f"{', '.join(labels.legend.names)}"
        )
    features, known = _features_at(score, labels)
    tokens = np.zeros((len(labels), 0), np.float32)
    scales = [BlockScale(np.zeros(0, np.float32), np.ones(0, np.float32)), _survey_scale(score)]
    if score.tokens is not None:
        before, after, centres = score.tokens.before, score.tokens.after, score.tokens.centres
        first, one = tokens_at(before, labels.rows, labels.cols)
        second, other = tokens_at(after, labels.rows, labels.cols)
        known &= one & other
        tokens = _token_pair(first.T, second.T, centres).T
        rows, columns = np.nonzero(score.tokens.valid)
        step = max(1, len(rows) // 20_000)
        pairs = before.at(rows[::step], columns[::step]).T, after.at(rows[::step], columns[::step]).T
        scales[0] = BlockScale.of(_token_pair(*pairs, centres).T)
    classes = (labels.classes == wanted[0]).astype(np.int64)[known]
    if len(np.unique(classes)) < 2:
        raise InputError("examples of both classes are needed on pixels that both dates have")
    sample = (tokens[known], features[known], classes, (scales[0], scales[1]))
    return KindOfChange(score, blend(fit_logistic(*sample), fit_prototypes(*sample), _PROTOTYPE_SHARE))


def pair_features(score: PairScore, readers: Readers, start: int, stop: int) -> tuple[FloatArray, NDArray[np.bool_]]:
    """Score, log colours of both dates and their difference, `[1 + 3 C, n, width]`, and validity `[n, width]`."""
    before, after, valid = readers.read(score.pair, start, stop)
    first, second = np.log(before + _DARK), np.log(after + _DARK)
    above = score.read(readers, start, stop)
    valid &= np.isfinite(above)
    stack = np.concatenate([np.clip(np.nan_to_num(above), -5, 12)[None], second - first, first, second])
    return (stack * valid).astype(np.float32), valid


def _token_pair(first: FloatArray, second: FloatArray, centres: FloatArray) -> FloatArray:
    """Both dates' tokens about their means and the size of their difference, `[3 D, ...]`."""
    shape = (-1, *([1] * (first.ndim - 1)))
    one, other = first - centres[0].reshape(shape), second - centres[1].reshape(shape)
    return np.concatenate([one, other, np.abs(one - other)])


def _features_at(score: PairScore, labels: Labels) -> tuple[FloatArray, NDArray[np.bool_]]:
    features: FloatArray | None = None
    known = np.zeros(len(labels), dtype=bool)
    blocks = [block for block in score.blocks() if ((labels.rows >= block[0]) & (labels.rows < block[1])).any()]
    read = each_block(partial(pair_features, score), blocks, [score.pair])
    for (start, stop), (block, valid) in zip(blocks, read, strict=True):
        here = np.flatnonzero((labels.rows >= start) & (labels.rows < stop))
        if features is None:
            features = np.zeros((len(labels), len(block)), dtype=np.float32)
        place = (labels.rows[here] - start, labels.cols[here])
        features[here], known[here] = block[:, *place].T, valid[place]
    if features is None:
        raise InputError("no example lies where both dates have pixels")
    return features, known


def _survey_scale(score: PairScore) -> BlockScale:
    blocks = score.blocks()
    picked = np.unique(np.linspace(0, len(blocks) - 1, min(_SURVEY_BLOCKS, len(blocks))).astype(int))
    found = []
    sampled = [blocks[number] for number in picked]
    for block, valid in each_block(partial(pair_features, score), sampled, [score.pair]):
        found.append(block[:, valid][:, :: max(1, int(valid.sum()) // 2500)].T)
    scale = BlockScale.of(np.concatenate(found))
    scales = scale.scale.copy()
    scales[0] = _SCORE_UNIT
    return replace(scale, scale=scales)
