import numpy as np
import pytest
import torch

from geodino.backbones.normalize import IMAGENET, SATELLITE, Normalization, standardize


@pytest.mark.parametrize("shape", [(3, 4, 5), (2, 3, 4, 5)])
def test_values_by_hand_for_arrays_and_tensors_alike(shape):
    values = np.random.default_rng(0).random(shape, dtype=np.float32)
    mean, std = np.array(SATELLITE.mean)[:, None, None], np.array(SATELLITE.std)[:, None, None]
    out = standardize(values, None, SATELLITE)
    np.testing.assert_allclose(out, (values - mean) / std, rtol=1e-5)
    assert out.dtype == np.float32
    assert torch.equal(standardize(torch.from_numpy(values), None, SATELLITE), torch.from_numpy(out))


def test_the_satellite_statistics_are_those_of_sat493m():
    assert Normalization((0.430, 0.411, 0.296), (0.213, 0.156, 0.143)) == SATELLITE
    assert SATELLITE != IMAGENET


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor])
def test_a_pixel_without_data_becomes_the_mean_whatever_lies_under_it(kind):
    values = np.full((3, 2, 2), np.nan, np.float32)
    values[:, 0, 0] = 0.5
    valid = np.array([[True, False], [False, False]])
    out = np.asarray(standardize(kind(values), kind(valid), IMAGENET))
    assert np.isfinite(out).all() and (out[:, ~valid] == 0).all() and (out[:, 0, 0] != 0).all()


def test_other_numbers_of_bands_are_refused():
    with pytest.raises(ValueError, match="4 bands do not match the 3"):
        standardize(np.zeros((4, 2, 2)), None, SATELLITE)


@pytest.mark.parametrize(("mean", "std"), [((), ()), ((0.1,), (0.1, 0.2)), ((0.1,), (0.0,))])
def test_statistics_that_cannot_be_are_refused(mean, std):
    with pytest.raises(ValueError):
        Normalization(mean, std)
