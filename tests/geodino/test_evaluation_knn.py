import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geodino.evaluation import knn
from geodino.evaluation.knn import knn_accuracy, knn_predict, neighbours, vote


def brute_force_predict(train, labels, queries, k, temperature):
    """The definition, one query at a time, in float64."""
    unit = train / np.linalg.norm(train, axis=1, keepdims=True)
    out = []
    for query in queries:
        similarity = unit @ (query / np.linalg.norm(query))
        nearest = np.argsort(-similarity, kind="stable")[:k]
        weights = np.exp(similarity[nearest] / temperature)
        out.append(np.argmax(np.bincount(labels[nearest], weights / weights.sum(), minlength=labels.max() + 1)))
    return np.array(out)


@pytest.mark.parametrize("k", [1, 5, 20])
def test_predictions_are_the_definition(k):
    rng = np.random.default_rng(0)
    train, queries = rng.normal(size=(300, 7)), rng.normal(size=(90, 7))
    labels = rng.integers(0, 4, 300)
    predicted = knn_predict(train, labels, queries, ks=(k,))[k]
    assert predicted.tolist() == brute_force_predict(train, labels, queries, k, 0.07).tolist()


@settings(deadline=None, max_examples=25)
@given(
    n=st.integers(20, 400),
    queries=st.integers(1, 40),
    k=st.integers(1, 20),
    train_rows=st.integers(1, 150),
    query_rows=st.integers(1, 50),
    group=st.integers(1, 8),
)
def test_blocks_and_groups_do_not_change_the_neighbours(n, queries, k, train_rows, query_rows, group):
    generator = torch.Generator().manual_seed(n)
    train, query = (torch.randn(rows, 5, generator=generator) for rows in (n, queries))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(knn, "TRAIN_ROWS", train_rows)
        patch.setattr(knn, "QUERY_ROWS", query_rows)
        patch.setattr(knn, "GROUP", group)
        found = neighbours(train, query, k)
    cosine = torch.nn.functional.normalize(query, dim=1) @ torch.nn.functional.normalize(train, dim=1).T
    expected = cosine.topk(k, dim=1)
    torch.testing.assert_close(found.similarity, expected.values, atol=1e-6, rtol=0)
    torch.testing.assert_close(cosine.gather(1, found.index), expected.values, atol=1e-6, rtol=0)


def test_a_near_neighbour_outweighs_two_far_ones():
    found = knn.Neighbours(torch.tensor([[0.9, 0.2, 0.2]]), torch.tensor([[0, 1, 2]]))
    labels = torch.tensor([1, 0, 0])
    assert vote(found, labels, k=3, temperature=0.07).item() == 1
    assert vote(found, labels, k=3, temperature=100.0).item() == 0  # with equal weights the majority wins


def test_a_set_finds_itself():
    features = torch.randn(50, 6, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(50) % 5
    assert knn_accuracy(features, labels, features * 3.0, labels, k=1) == 1.0


def test_more_neighbours_than_rows_is_refused():
    with pytest.raises(ValueError, match="k = 5 neighbours cannot be found among 3"):
        neighbours(np.ones((3, 2)), np.ones((1, 2)), 5)
