"""Weighted k-nearest-neighbour classification of frozen features, exact and in bounded memory.

The protocol is DINO's (arXiv 2104.14294, and unchanged in DINOv3): cosine similarity, the k nearest training images
vote with weight softmax(similarity / T), T = 0.07.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

Features = np.ndarray | Tensor

QUERY_ROWS = 1024
TRAIN_ROWS = 32_768  # with QUERY_ROWS: 128 MiB of similarities at a time, whatever the size of the sets
GROUP = 64  # columns whose maximum stands for them in the search for the k best


@dataclass(frozen=True)
class Neighbours:
    """The nearest training rows of every query, best first.

    Attributes:
        similarity: Cosine similarities ``[Q, k]``, float32.
        index: Rows of the training set ``[Q, k]``, int64.
    """

    similarity: Tensor
    index: Tensor


def neighbours(train: Features, queries: Features, k: int) -> Neighbours:
    """Find the ``k`` training rows most similar to every query, exactly.

    Args:
        train: Features ``[N, D]``; they need not be normalised.
        queries: Features ``[Q, D]``.
        k: Neighbours to keep, at most ``N``.

    Raises:
        ValueError: When there are fewer than ``k`` training rows.
    """
    train, queries = torch.as_tensor(train), torch.as_tensor(queries)
    if not 0 < k <= len(train):
        raise ValueError(f"k = {k} neighbours cannot be found among {len(train)}")
    best = torch.full((len(queries), k), -torch.inf)
    index = torch.zeros((len(queries), k), dtype=torch.int64)
    unit = normalize(queries.to("cpu", torch.float32), dim=1)
    # training rows outside: each is normalised once, and only the queries' k best are carried along
    for start in range(0, len(train), TRAIN_ROWS):
        block = normalize(train[start : start + TRAIN_ROWS].to("cpu", torch.float32), dim=1).T
        for first in range(0, len(unit), QUERY_ROWS):
            rows = slice(first, first + QUERY_ROWS)
            values, columns = _top(unit[rows] @ block, k)
            values, order = torch.cat([best[rows], values], 1).topk(k, dim=1)
            index[rows] = torch.cat([index[rows], columns + start], 1).gather(1, order)
            best[rows] = values
    return Neighbours(best, index)


def _top(similarity: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Top ``k`` of every row: only the k groups of columns with the largest maxima can hold them.

    A maximum a group is one pass at memory speed; torch.topk over every column takes longer than the product.
    """
    rows, columns = similarity.shape
    if columns <= 2 * k * GROUP:
        values, index = similarity.topk(min(k, columns), dim=1)
        return values, index
    whole = columns - columns % GROUP
    groups = similarity[:, :whole].reshape(rows, -1, GROUP)
    chosen = groups.amax(2).topk(k, dim=1).indices  # [rows, k]
    inside = chosen[:, :, None] * GROUP + torch.arange(GROUP)  # [rows, k, GROUP]
    rest = torch.arange(whole, columns).expand(rows, -1)
    candidates = torch.cat([inside.flatten(1), rest], 1)
    values, order = similarity.gather(1, candidates).topk(k, dim=1)
    return values, candidates.gather(1, order)


def vote(found: Neighbours, train_labels: Features, k: int, temperature: float = 0.07) -> Tensor:
    """Classify every query by its ``k`` nearest of the neighbours found.

    Args:
        found: At least ``k`` neighbours a query, best first.
        train_labels: Class of every training row ``[N]``, integers from 0.
        k: How many vote.
        temperature: Divides similarities before the softmax that makes them weights.

    Returns:
        Predicted class of every query ``[Q]``, int64; a tie goes to the smaller class.
    """
    labels = torch.as_tensor(train_labels).to("cpu", torch.int64)
    weights = (found.similarity[:, :k] / temperature).softmax(1)
    scores = weights.new_zeros(len(weights), int(labels.max()) + 1)
    return scores.scatter_add_(1, labels[found.index[:, :k]], weights).argmax(1)


def knn_predict(
    train_features: Features,
    train_labels: Features,
    test_features: Features,
    *,
    ks: Sequence[int] = (5, 20),
) -> dict[int, Tensor]:
    """Predict the class of every test row for several ``k`` from one search.

    Returns:
        For each ``k`` the predicted classes ``[Q]``, int64.
    """
    found = neighbours(train_features, test_features, max(ks))
    return {k: vote(found, train_labels, k) for k in ks}


def knn_accuracy(
    train_features: Features, train_labels: Features, test_features: Features, test_labels: Features, k: int = 5
) -> float:
    """Share of test rows that their ``k`` nearest training rows classify rightly, in [0, 1].

    Args:
        train_features: ``[N, D]``, any float type.
        train_labels: ``[N]``, integers from 0.
        test_features: ``[Q, D]``.
        test_labels: ``[Q]``.
        k: How many neighbours vote.
    """
    predicted = knn_predict(train_features, train_labels, test_features, ks=(k,))[k]
    return float((predicted == torch.as_tensor(test_labels).cpu()).double().mean())
