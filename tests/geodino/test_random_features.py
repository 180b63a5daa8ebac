import numpy as np
import pytest

from geodino.heads.balance import fit_head
from geodino.heads.linear import BlockScale
from geodino.heads.random_features import REACHES, WAVES, Waves


def ring(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two features; class 1 is a disc inside class 0, which no straight border parts."""
    rng = np.random.default_rng(seed)
    features = rng.uniform(-2, 2, size=(count, 2)).astype(np.float32)
    return features, (np.hypot(*features.T) < 1.3).astype(np.int64)


def test_a_class_inside_another_is_learned_with_waves_and_not_without() -> None:
    (features, classes), (more, truth) = ring(200), ring(2000, seed=1)
    raw, none = BlockScale.of(features), np.zeros((200, 0), np.float32)
    empty = BlockScale(np.zeros(0, np.float32), np.ones(0, np.float32))
    right = {}
    for name, waves in (("straight", Waves.none()), ("curved", Waves.draw(raw))):
        head = fit_head(none, waves.lift(features.T).T, classes, (empty, waves.scale(raw)))
        logits = waves.logits(head, more.T) + head.bias[:, None]
        right[name] = (logits.argmax(axis=0) == truth).mean()
    assert right["curved"] > 0.93
    assert right["straight"] < 0.75


def test_waves_stand_for_gaussian_kernels_of_both_reaches() -> None:
    rng = np.random.default_rng(2)
    features = rng.normal(3, 5, size=(300, 6)).astype(np.float32)
    raw = BlockScale.of(features)
    waves = Waves.draw(raw)
    lifted = 2 * waves.scale(raw).apply(waves.lift(features.T).T)[:, 6:]
    unit = raw.apply(features)
    apart = ((unit[:, None] - unit[None]) ** 2).sum(axis=2)
    kernel = np.mean([np.exp(-apart / (2 * reach**2)) for reach in REACHES], axis=0)
    # The error of a mean of random waves falls with the root of their number.
    assert np.abs(lifted @ lifted.T - kernel).mean() < 1.2 / WAVES**0.5


def test_scores_in_pieces_are_the_scores_of_the_whole() -> None:
    features, classes = ring(120)
    raw, none = BlockScale.of(features), np.zeros((120, 0), np.float32)
    waves = Waves.draw(raw)
    empty = BlockScale(np.zeros(0, np.float32), np.ones(0, np.float32))
    head = fit_head(none, waves.lift(features.T).T, classes, (empty, waves.scale(raw)))
    block = np.random.default_rng(3).normal(size=(2, 130, 90)).astype(np.float32)
    whole = head.pixel_logits(waves.lift(block))
    np.testing.assert_allclose(waves.logits(head, block), whole, rtol=1e-4, atol=1e-4)


def test_the_same_features_get_the_same_waves() -> None:
    raw = BlockScale.of(ring(50)[0])
    np.testing.assert_array_equal(Waves.draw(raw).directions, Waves.draw(raw).directions)
    assert Waves.draw(raw).directions.shape == (WAVES // 2, 2)


@pytest.mark.parametrize("shape", [(4,), (4, 7), (4, 3, 5)])
def test_without_waves_features_stay_as_they_are(shape: tuple[int, ...]) -> None:
    features = np.ones(shape, np.float32)
    assert Waves.none().lift(features) is features
