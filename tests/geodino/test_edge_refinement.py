import numpy as np
import pytest

from geodino.heads.edge_refinement import apply_lines, guided_lines, token_means
from tiles.writing.stitch import upsample_rows

PATCH = 8


def refine(logits: np.ndarray, image: np.ndarray, valid: np.ndarray | None = None) -> np.ndarray:
    """The whole chain on an image `[C, H, W]` of whole tokens."""
    valid = np.ones(image.shape[1:], bool) if valid is None else valid
    slopes, offsets = guided_lines(logits, *token_means(image, valid, PATCH))
    classes, channels = slopes.shape[:2]
    lines = np.concatenate([slopes.reshape(classes * channels, *slopes.shape[2:]), offsets])
    pixels = np.concatenate([piece for _, piece in upsample_rows([lines], PATCH, *image.shape[1:])], axis=1)
    return apply_lines(
        pixels[: classes * channels].reshape(classes, channels, *image.shape[1:]), pixels[-classes:], image
    )


def bilinear(logits: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    return np.concatenate([piece for _, piece in upsample_rows([logits], PATCH, *shape)], axis=1)


def test_token_moments_by_brute_force() -> None:
    rng = np.random.default_rng(0)
    image, valid = rng.uniform(size=(3, 16, 24)).astype(np.float32), rng.uniform(size=(16, 24)) < 0.7
    means, moments = token_means(image, valid, PATCH)
    inside = valid[8:16, 8:16]
    cell = image[:, 8:16, 8:16][:, inside]
    np.testing.assert_allclose(means[:, 1, 1], cell.mean(axis=1), rtol=1e-5)
    np.testing.assert_allclose(moments[:, :, 1, 1], cell @ cell.T / inside.sum(), rtol=1e-5)


def test_a_token_without_valid_pixels_is_zero_not_nan() -> None:
    means, moments = token_means(np.ones((2, 8, 8), np.float32), np.zeros((8, 8), bool), PATCH)
    assert (means == 0).all()
    assert (moments == 0).all()


def test_equal_scores_stay_equal() -> None:
    image = np.random.default_rng(1).uniform(size=(3, 40, 48)).astype(np.float32)
    logits = np.stack([np.full((5, 6), 2.0), np.full((5, 6), -1.0)]).astype(np.float32)
    np.testing.assert_allclose(refine(logits, image), bilinear(logits, (40, 48)), atol=1e-4)


def test_a_flat_image_gives_smooth_scores_and_no_edges() -> None:
    logits = np.zeros((2, 5, 6), np.float32)
    logits[1, :, 3:] = 4
    found = refine(logits, np.full((3, 40, 48), 0.5, np.float32))
    assert np.abs(np.diff(found[1], axis=1)).max() < 1


def test_the_border_moves_to_where_the_colour_changes() -> None:
    # The true border cuts tokens at a slant; tokens know only their mean, the image knows the pixel.
    rows, cols = np.mgrid[:64, :96]
    truth = (cols + 0.5 * rows > 61).astype(np.float32)
    image = (0.2 + 0.5 * truth + 0.02 * np.random.default_rng(2).normal(size=(3, 64, 96))).astype(np.float32)
    share = truth.reshape(8, 8, 12, 8).mean(axis=(1, 3))
    logits = np.stack([1 - share, share]) * 6 - 3
    wrong = {
        "bilinear": (bilinear(logits.astype(np.float32), (64, 96)).argmax(axis=0) != truth).mean(),
        "guided": (refine(logits.astype(np.float32), image).argmax(axis=0) != truth).mean(),
    }
    assert wrong["guided"] < 0.3 * wrong["bilinear"]


@pytest.mark.parametrize("shift", [-0.2, 0.2])
def test_brightness_of_the_whole_image_does_not_matter(shift: float) -> None:
    rng = np.random.default_rng(3)
    image, logits = rng.uniform(0.3, 0.6, size=(3, 40, 48)), rng.normal(size=(2, 5, 6))
    one = refine(logits.astype(np.float32), image.astype(np.float32))
    other = refine(logits.astype(np.float32), (image + shift).astype(np.float32))
    np.testing.assert_allclose(one, other, atol=2e-2)
