"""Radiometry: the drawn probabilities, no mixing of bands but towards their mean, values in range."""

import pytest
import torch

from pretrain.data.radiometry import Radiometry, blur_sigmas
from pretrain.recipes.views import RadiometrySettings


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


OFF = {"gain": 0.0, "offset": 0.0, "band_gain": 0.0, "saturation": 0.0, "haze": 0.0, "gamma": 0.0}


@pytest.mark.parametrize("probability", [0.0, 0.1, 0.5, 1.0])
def test_blur_happens_with_its_probability_not_the_complement(probability):
    sigmas = blur_sigmas(4000, probability, (0.1, 2.0), _generator())
    assert (sigmas > 0).float().mean().item() == pytest.approx(probability, abs=0.03)
    drawn = sigmas[sigmas > 0]
    assert not len(drawn) or (drawn.min() >= 0.1 and drawn.max() <= 2.0)


def test_probability_zero_changes_nothing():
    values = torch.rand(16, 5, 4, 4, generator=_generator())
    change = Radiometry(16, 5, RadiometrySettings(probability=0.0), _generator())
    torch.testing.assert_close(change(values), values, atol=1e-7, rtol=0)


def test_images_change_with_the_given_probability_and_each_differently():
    values = torch.full((1000, 3, 2, 2), 0.4)
    changed = Radiometry(1000, 3, RadiometrySettings(probability=0.6), _generator())(values)
    moved = (changed - values).abs().amax((1, 2, 3)) > 1e-6
    assert moved.float().mean().item() == pytest.approx(0.6, abs=0.05)
    assert len(changed[moved][:, 0, 0, 0].unique()) > 0.9 * int(moved.sum())


def test_everything_at_full_strength_stays_in_range():
    values = torch.rand(64, 4, 8, 8, generator=_generator())
    wild = RadiometrySettings(
        probability=1, gain=0.9, offset=0.5, band_gain=0.9, saturation=1, haze=0.9, gamma=0.9, solarize_probability=0.5
    )
    changed = Radiometry(64, 4, wild, _generator())(values)
    assert torch.isfinite(changed).all() and changed.min() >= 0 and changed.max() <= 1


def test_gain_multiplies_every_band_by_one_number():
    values = torch.rand(8, 3, 4, 4, generator=_generator()) * 0.5 + 0.1
    changed = Radiometry(8, 3, RadiometrySettings(**{**OFF, "probability": 1, "gain": 0.3}), _generator())(values)
    ratio = (changed / values).flatten(1)
    torch.testing.assert_close(ratio, ratio[:, :1].expand_as(ratio))
    assert (ratio[:, 0] - 1).abs().max() <= 0.3


def test_offset_adds_one_number():
    values = torch.rand(8, 3, 4, 4, generator=_generator()) * 0.5 + 0.2
    changed = Radiometry(8, 3, RadiometrySettings(**{**OFF, "probability": 1, "offset": 0.1}), _generator())(values)
    difference = (changed - values).flatten(1)
    torch.testing.assert_close(difference, difference[:, :1].expand_as(difference), atol=1e-6, rtol=0)
    assert difference.abs().max() <= 0.1 + 1e-6


def test_band_gain_keeps_bands_apart():
    values = torch.zeros(8, 4, 2, 2)
    values[:, 2] = 0.5
    changed = Radiometry(8, 4, RadiometrySettings(**{**OFF, "probability": 1, "band_gain": 0.2}), _generator())(values)
    assert (changed[:, [0, 1, 3]] == 0).all()
    assert ((changed[:, 2] / 0.5 - 1).abs() <= 0.2 + 1e-6).all()


def test_saturation_keeps_the_mean_of_the_bands():
    values = torch.rand(8, 3, 4, 4, generator=_generator()) * 0.2 + 0.4
    settings = RadiometrySettings(**{**OFF, "probability": 1, "saturation": 0.5})
    changed = Radiometry(8, 3, settings, _generator())(values)
    torch.testing.assert_close(changed.mean(1), values.mean(1))
    spread = (changed - changed.mean(1, keepdim=True)) / (values - values.mean(1, keepdim=True))
    assert spread.min() > 0.45 and spread.max() < 1.55


def test_haze_brightens_and_flattens():
    values = torch.rand(64, 3, 4, 4, generator=_generator()) * 0.5
    settings = RadiometrySettings(**{**OFF, "probability": 1, "haze": 0.4})
    changed = Radiometry(64, 3, settings, _generator())(values)
    assert (changed >= values - 1e-6).all()
    assert (changed.flatten(1).std(1) <= values.flatten(1).std(1) + 1e-6).all()


def test_gamma_keeps_black_and_white_and_order():
    values = torch.linspace(0, 1, 16).view(1, 1, 4, 4).expand(8, 3, 4, 4).contiguous()
    changed = Radiometry(8, 3, RadiometrySettings(**{**OFF, "probability": 1, "gamma": 0.4}), _generator())(values)
    flat = changed.flatten(2)
    assert (flat[..., 0] == 0).all() and (flat[..., -1] == 1).all() and (flat.diff(dim=2) > 0).all()
    exponent = torch.log(flat[:, 0, 5]) / torch.log(values.flatten(2)[:, 0, 5])
    assert exponent.min() >= 0.6 - 1e-5 and exponent.max() <= 1 / 0.6 + 1e-5 and exponent.std() > 0.05


def test_gray_and_solarize():
    values = torch.rand(32, 3, 4, 4, generator=_generator())
    gray = RadiometrySettings(**{**OFF, "probability": 0, "gray_probability": 1})
    changed = Radiometry(32, 3, gray, _generator())(values)
    torch.testing.assert_close(changed, values.mean(1, keepdim=True).expand_as(values))
    solar = RadiometrySettings(**{**OFF, "probability": 0, "solarize_probability": 1})
    changed = Radiometry(32, 3, solar, _generator())(values)
    torch.testing.assert_close(changed, torch.where(values >= 0.5, 1 - values, values), atol=1e-6, rtol=0)
