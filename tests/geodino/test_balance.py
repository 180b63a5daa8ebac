import numpy as np
import pytest

from geodino.heads.balance import CANDIDATES, balance, fit_head, left_out_error
from geodino.heads.linear import BlockScale


def problem(count: int, informative: str, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens `[N, 64]`, spectra `[N, 8]` and two classes that only one of the blocks tells apart."""
    rng = np.random.default_rng(seed)
    classes = np.arange(count) % 2
    tokens, spectra = rng.normal(size=(count, 64)), rng.normal(size=(count, 8))
    (tokens if informative == "tokens" else spectra)[:, :4] += 2.0 * classes[:, None]
    return tokens.astype(np.float32), spectra.astype(np.float32), classes


@pytest.mark.parametrize("informative", ["tokens", "pixels"])
def test_the_block_that_tells_the_classes_apart_gets_the_weight(informative: str) -> None:
    tokens, spectra, classes = problem(60, informative)
    scales = (BlockScale.of(tokens), BlockScale.of(spectra))
    found, weight = balance(tokens, spectra, classes, np.arange(60), scales)
    assert weight in CANDIDATES
    assert weight == 1.0 if informative == "tokens" else weight == CANDIDATES[0]
    more = problem(2000, informative, seed=1)
    head = fit_head(tokens, spectra, classes, found)
    assert (head.logits(*more[:2]).argmax(axis=1) == more[2]).mean() > 0.85


def test_too_few_labels_to_choose_keep_the_default() -> None:
    tokens, spectra, classes = problem(2, "tokens")
    scales = (BlockScale.of(tokens), BlockScale.of(spectra))
    assert balance(tokens, spectra, classes, np.arange(2), scales)[1] == CANDIDATES[0]


def test_without_pixels_there_is_nothing_to_weigh() -> None:
    tokens, _, classes = problem(20, "tokens")
    nothing = np.zeros((20, 0), np.float32)
    scales = (BlockScale.of(tokens), BlockScale(np.zeros(0, np.float32), np.ones(0, np.float32)))
    assert balance(tokens, nothing, classes, np.arange(20), scales) == (scales, 1.0)


def test_the_left_out_error_is_that_of_training_without_each_group() -> None:
    rng = np.random.default_rng(0)
    features, truth = rng.normal(size=(20, 6)), np.eye(3)[rng.integers(0, 3, 20)]
    groups, ridge = np.arange(20) // 4, 0.2
    gram = features @ features.T
    centred = truth - truth.mean(axis=0)
    total = 0.0
    for group in range(5):
        out, kept = groups == group, groups != group
        weights = np.linalg.solve(gram[np.ix_(kept, kept)] + ridge * np.eye(kept.sum()), centred[kept])
        total += ((centred[out] - gram[np.ix_(out, kept)] @ weights) ** 2).sum()
    assert left_out_error(gram, truth, groups, ridge) == pytest.approx(total)


def test_labels_of_one_place_each_keep_the_default() -> None:
    tokens, spectra, classes = problem(40, "tokens")
    scales = (BlockScale.of(tokens), BlockScale.of(spectra))
    assert balance(tokens, spectra, classes, classes, scales)[1] == CANDIDATES[0]
