"""Resampling: rows sum to one, ramps are kept, blur is the Gaussian."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from pretrain.data.resample import bicubic_taps, blur_lines, gaussian_taps


def _matrix(taps, source):
    """The taps of the first image as a dense float32 [size, source]."""
    return torch.zeros(taps.index.shape[1], source).scatter_add_(1, taps.index[0], taps.weight[0])


@settings(max_examples=50, deadline=None)
@given(source=st.integers(1, 40), size=st.integers(1, 40), begin=st.floats(0, 0.9), part=st.floats(0.05, 1))
def test_resampling_weights_sum_to_one_and_keep_a_ramp_inside(source, size, begin, part):
    length = max(part * (1 - begin) * source, 0.5)
    start = min(begin * source, source - length)
    taps = bicubic_taps(torch.tensor([start]).double(), torch.tensor([length]).double(), source, size)
    assert taps.index.min() >= 0 and taps.index.max() < source
    matrix = _matrix(taps, source)
    torch.testing.assert_close(matrix.sum(1), torch.ones(size))
    centre = start + (torch.arange(size).double() + 0.5) * length / size - 0.5
    reach = 2 * max(length / size, 1)
    inside = (centre - reach >= -1) & (centre + reach <= source)
    ramp = matrix.double() @ torch.arange(source).double()
    # A cubic keeps linear functions where it does not touch the border; widened, it does so up to its sampling.
    tolerance = 1e-4 if length <= size else 0.05 * length / size
    assert ((ramp - centre).abs()[inside] < tolerance).all()


def test_taps_sum_lines_as_the_matrix_says_and_reverse():
    lines = torch.rand(2, 9, 5)
    taps = bicubic_taps(torch.tensor([1.0, 2.5]).double(), torch.tensor([7.0, 4.0]).double(), 9, 6)
    dense = torch.zeros(2, 6, 9).scatter_add_(2, taps.index, taps.weight)
    torch.testing.assert_close(taps.apply(lines), dense @ lines)
    exchanged = taps.reversed_where(torch.tensor([True, False])).apply(lines, torch.tensor([1, 0]))
    torch.testing.assert_close(exchanged, torch.stack([(dense[0] @ lines[1]).flip(0), dense[1] @ lines[0]]))


def test_no_blur_is_the_identity_and_blur_is_the_gaussian():
    lines = torch.rand(2, 31, 3)
    blurred = lines.clone()
    blurred = blur_lines(blurred, torch.tensor([0.0, 1.0]))
    assert torch.equal(blurred[0], lines[0])
    kernel = torch.exp(-0.5 * torch.arange(-3, 4).float() ** 2)
    expected = functional.conv1d(lines[1].T.unsqueeze(1), (kernel / kernel.sum()).view(1, 1, -1), padding=3)
    torch.testing.assert_close(blurred[1, 3:-3], expected.squeeze(1).T[3:-3])
    torch.testing.assert_close(gaussian_taps(torch.tensor([2.0]), 5).weight.sum(2), torch.ones(1, 5))


def test_a_constant_stays_constant_under_any_blur():
    lines = torch.full((3, 8, 2), 0.7)
    lines = blur_lines(lines, torch.tensor([0.1, 2.0, 30.0]))
    torch.testing.assert_close(lines, torch.full((3, 8, 2), 0.7))
