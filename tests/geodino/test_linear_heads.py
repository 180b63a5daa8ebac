import numpy as np
import pytest
from scipy.special import softmax as reference_softmax
from sklearn.linear_model import LogisticRegression

from geodino.heads.linear import BlockScale, blend, cluster_head, fit_logistic, fit_prototypes, softmax
from tiles.writing.stitch import upsample_rows


def samples(classes: int = 3, count: int = 90, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens `[N, 6]`, spectra `[N, 4]` and classes: each class has its own mean in both blocks."""
    rng = np.random.default_rng(seed)
    truth = np.arange(count) % classes
    tokens = rng.normal(size=(classes, 6))[truth] + 0.3 * rng.normal(size=(count, 6))
    spectra = rng.normal(size=(classes, 4))[truth] + 0.3 * rng.normal(size=(count, 4))
    return tokens.astype(np.float32), spectra.astype(np.float32), truth


def scales(tokens: np.ndarray, spectra: np.ndarray) -> tuple[BlockScale, BlockScale]:
    return BlockScale.of(tokens), BlockScale.of(spectra)


@pytest.mark.parametrize("fit", [fit_logistic, fit_prototypes])
@pytest.mark.parametrize("classes", [2, 3])
def test_separable_classes_are_separated(fit: object, classes: int) -> None:
    tokens, spectra, truth = samples(classes)
    head = fit(tokens, spectra, truth, scales(tokens, spectra))
    assert (head.logits(tokens, spectra).argmax(axis=1) == truth).mean() > 0.97


def test_scores_of_interpolated_tokens_are_interpolated_scores() -> None:
    tokens, spectra, truth = samples()
    head = fit_logistic(tokens, spectra, truth, scales(tokens, spectra))
    grid = np.random.default_rng(1).normal(size=(6, 4, 5)).astype(np.float32)
    pixels = np.concatenate([piece for _, piece in upsample_rows([grid], 8, 32, 40)], axis=1)
    scores = np.concatenate([piece for _, piece in upsample_rows([head.token_logits(grid)], 8, 32, 40)], axis=1)
    np.testing.assert_allclose(head.token_logits(pixels), scores, atol=1e-4)


def test_the_logistic_head_is_scikit_learns_on_scaled_features() -> None:
    tokens, spectra, truth = samples()
    head = fit_logistic(tokens, spectra, truth, scales(tokens, spectra), penalty=2.0)
    one, other = scales(tokens, spectra)
    scaled = np.concatenate([one.apply(tokens), other.apply(spectra)], axis=1).astype(np.float64)
    peer = LogisticRegression(C=2.0, class_weight="balanced", max_iter=300, tol=1e-3).fit(scaled, truth)
    np.testing.assert_allclose(
        reference_softmax(head.logits(tokens, spectra), axis=1), peer.predict_proba(scaled), atol=1e-4
    )


def test_a_prototype_head_takes_the_nearest_mean() -> None:
    tokens, spectra, truth = samples()
    one, other = scales(tokens, spectra)
    head = fit_prototypes(tokens, spectra, truth, (one, other))
    scaled = np.concatenate([one.apply(tokens), other.apply(spectra)], axis=1)
    means = np.stack([scaled[truth == index].mean(axis=0) for index in range(3)])
    nearest = ((scaled[:, None] - means) ** 2).sum(axis=2).argmin(axis=1)
    np.testing.assert_array_equal(head.logits(tokens, spectra).argmax(axis=1), nearest)


def test_a_cluster_head_takes_the_nearest_centre() -> None:
    rng = np.random.default_rng(0)
    centres, tokens = rng.normal(size=(5, 8)).astype(np.float32), rng.normal(size=(8, 6, 7)).astype(np.float32)
    nearest = ((tokens[None] - centres[:, :, None, None]) ** 2).sum(axis=1).argmin(axis=0)
    np.testing.assert_array_equal(cluster_head(centres).token_logits(tokens).argmax(axis=0), nearest)


def test_a_rare_class_weighs_as_much_as_a_common_one() -> None:
    tokens, spectra, truth = samples(2, 400)
    keep = (truth == 0) | (np.arange(400) < 20)
    head = fit_logistic(tokens[keep], spectra[keep], truth[keep], scales(tokens, spectra))
    found = head.logits(tokens, spectra).argmax(axis=1)
    assert (found[truth == 1] == 1).mean() > 0.95


def test_a_constant_feature_does_no_harm() -> None:
    tokens, spectra, truth = samples()
    tokens[:, 2] = 5
    head = fit_logistic(tokens, spectra, truth, scales(tokens, spectra))
    assert np.isfinite(head.token_weight).all()


def test_blocks_of_features_weigh_the_same_whatever_their_unit_or_number() -> None:
    rng = np.random.default_rng(0)
    narrow, wide = rng.normal(size=(500, 4)), 100 * rng.normal(size=(500, 64)) + 7
    for block in (narrow, wide):
        block = block.astype(np.float32)
        assert (BlockScale.of(block).apply(block) ** 2).sum(axis=1).mean() == pytest.approx(1, rel=0.01)


def test_blend_is_linear_in_the_scores() -> None:
    tokens, spectra, truth = samples()
    one = fit_logistic(tokens, spectra, truth, scales(tokens, spectra))
    other = fit_prototypes(tokens, spectra, truth, scales(tokens, spectra))
    mixed = 0.75 * one.logits(tokens, spectra) + 0.25 * other.logits(tokens, spectra)
    np.testing.assert_allclose(blend(one, other, 0.25).logits(tokens, spectra), mixed, atol=1e-4)


def test_softmax_is_a_probability_even_of_large_scores() -> None:
    found = softmax(np.array([[1000.0, 0.0], [1001.0, 0.0]], dtype=np.float32))
    np.testing.assert_allclose(found.sum(axis=0), 1)
    np.testing.assert_allclose(found[:, 0], reference_softmax([1000.0, 1001.0]), atol=1e-6)
