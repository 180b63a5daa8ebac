import numpy as np

from geodino.change_detection.classical_baselines import change_vector_analysis, pca_kmeans


def test_change_vector_of_standardised_bands_by_hand() -> None:
    before = np.array([[[0.0, 2.0], [4.0, 6.0]]])
    after = np.array([[[6.0, 2.0], [4.0, 0.0]]])
    deviation = before.std()
    np.testing.assert_allclose(change_vector_analysis(before, after), np.abs(before - after)[0] / deviation)


def test_change_vector_ignores_gain_and_offset() -> None:
    rng = np.random.default_rng(0)
    before, after = rng.normal(size=(2, 3, 20, 20))
    np.testing.assert_allclose(
        change_vector_analysis(before, after), change_vector_analysis(before, 3 * after + 5), rtol=1e-9
    )


def test_a_flat_band_gives_no_change() -> None:
    assert (change_vector_analysis(np.ones((1, 4, 4)), np.ones((1, 4, 4))) == 0).all()


def test_pca_kmeans_finds_a_bright_block() -> None:
    rng = np.random.default_rng(0)
    difference = np.abs(rng.normal(size=(60, 60)))
    difference[20:40, 20:40] += 8
    found = pca_kmeans(difference)
    assert found[24:36, 24:36].all()
    assert found[:15].mean() < 0.02
