"""Masks: exact counts, blocks rather than dust, nothing where there is no data."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.data.masking import block_masks, mask_ratios, valid_tokens
from pretrain.recipes.views import MaskSettings


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@settings(max_examples=40, deadline=None)
@given(
    crops=st.integers(1, 24),
    height=st.integers(1, 16),
    width=st.integers(1, 16),
    holes=st.floats(0, 1),
    seed=st.integers(0, 2**31),
)
def test_every_crop_hides_exactly_its_share_of_the_usable_tokens(crops, height, width, holes, seed):
    usable = torch.rand(crops, height, width, generator=_generator(seed)) >= holes
    mask = block_masks(usable, MaskSettings(), _generator(seed))
    ratios = mask_ratios(crops, MaskSettings(), _generator(seed))
    assert mask.dtype == torch.bool and mask.shape == usable.shape
    assert not (mask & ~usable).any()
    expected = [int(r * n + 1e-9) for r, n in zip(ratios.tolist(), usable.sum((1, 2)).tolist(), strict=True)]
    assert mask.sum((1, 2)).tolist() == expected


def test_half_of_the_crops_are_masked_at_the_right_ends_of_an_even_spread():
    ratios = mask_ratios(8, MaskSettings(), _generator())
    assert sorted(ratios.tolist()) == pytest.approx([0, 0, 0, 0, 0.2, 0.3, 0.4, 0.5])


def test_the_same_generator_gives_the_same_masks_and_another_gives_others():
    usable = torch.ones(16, 14, 14, dtype=torch.bool)
    first, again, other = (block_masks(usable, MaskSettings(), _generator(s)) for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_masks_are_blocks_not_dust():
    usable = torch.ones(64, 16, 16, dtype=torch.bool)
    mask = block_masks(usable, MaskSettings(probability=1.0, ratio=(0.4, 0.4)), _generator())
    pairs = (mask[:, :, 1:] & mask[:, :, :-1]).sum() / mask.sum()
    # Independent tokens at 40 % have a masked right neighbour 0.4 * 15 / 16 of the time.
    assert pairs > 0.65


def test_masks_fall_everywhere():
    usable = torch.ones(512, 7, 7, dtype=torch.bool)
    frequency = block_masks(usable, MaskSettings(), _generator()).float().mean(0)
    assert frequency.min() > 0.05 and frequency.max() < 0.35


def test_a_token_counts_as_data_from_half_of_its_pixels_on():
    valid = torch.zeros(1, 4, 4, dtype=torch.bool)
    valid[0, 0, :2] = True  # two of the four pixels of token (0, 0)
    valid[0, 2, 0] = True  # one of four of token (1, 0)
    assert valid_tokens(valid, 2).tolist() == [[[True, False], [False, False]]]
    assert valid_tokens(torch.ones(2, 4, 6, dtype=torch.bool), 2).shape == (2, 2, 3)
