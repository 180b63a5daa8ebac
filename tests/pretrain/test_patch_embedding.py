"""Patch-embedding expansion: filters follow their bands, new bands start from the mean, the total response stays."""

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.network.patch_embedding import expand_patch_embedding

RGB = ("red", "green", "blue")
NAMES = ("coastal", "blue", "green", "red", "rededge071", "nir", "nir08", "swir16", "swir22")


def _weight() -> torch.Tensor:
    # red 1, green 2, blue 6; the mean filter is 3
    return torch.tensor([1.0, 2.0, 6.0]).view(1, 3, 1, 1).expand(2, 3, 4, 4)


def _values(weight: torch.Tensor) -> list[float]:
    assert (weight == weight[:1, :, :1, :1]).all()
    return weight[0, :, 0, 0].tolist()


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (("red", "green", "blue"), [1, 2, 6]),
        (("blue", "green", "red"), [6, 2, 1]),
        (("blue", "green", "red", "nir"), [4.5, 1.5, 0.75, 2.25]),  # (6, 2, 1, mean 3) x 3/4
        (("nir", "red", "swir16", "green", "blue", "swir22"), [1.5, 0.5, 1.5, 1, 3, 1.5]),  # x 3/6
        (("green", "blue"), [2.5, 6.5]),  # red's 1 shared out
        (("red",), [9]),
        (("red", "nir"), [6.75, 2.25]),  # (9, 3) x 3/4
        (("nir", "swir16"), [4.5, 4.5]),  # nothing in common: the sum shared equally
    ],
)
def test_exact_filters(wanted, expected):
    assert _values(expand_patch_embedding(_weight(), RGB, wanted)) == pytest.approx(expected)


@settings(max_examples=60, deadline=None)
@given(
    known=st.lists(st.sampled_from(NAMES), min_size=1, max_size=6, unique=True),
    wanted=st.lists(st.sampled_from(NAMES), min_size=1, max_size=9, unique=True),
    seed=st.integers(0, 2**31),
)
def test_an_image_with_equal_bands_gets_the_same_response(known, wanted, seed):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(5, len(known), 4, 4, generator=generator)
    expanded = expand_patch_embedding(weight, known, wanted)
    gray = torch.randn(2, 1, 8, 8, generator=generator)
    before = torch.nn.functional.conv2d(gray.expand(-1, len(known), -1, -1), weight, stride=4)
    after = torch.nn.functional.conv2d(gray.expand(-1, len(wanted), -1, -1), expanded, stride=4)
    torch.testing.assert_close(after, before, atol=1e-5, rtol=1e-5)


def test_the_order_of_the_wanted_bands_only_permutes():
    weight = torch.randn(3, 3, 2, 2)
    first = expand_patch_embedding(weight, RGB, ("red", "nir", "blue", "swir16"))
    second = expand_patch_embedding(weight, RGB, ("swir16", "blue", "red", "nir"))
    torch.testing.assert_close(first[:, [3, 2, 0, 1]], second)


def test_the_type_stays_and_the_memory_is_new():
    weight = _weight().to(torch.bfloat16).contiguous()
    same = expand_patch_embedding(weight, RGB, RGB)
    assert same.dtype == torch.bfloat16 and torch.equal(same, weight) and same.data_ptr() != weight.data_ptr()


@pytest.mark.parametrize(
    ("architecture", "key"),
    [
        ("vit_tiny_patch16_dinov3_qkvb", "patch_embed.proj.weight"),
        ("vit_tiny_patch16_224", "patch_embed.proj.weight"),
        ("convnext_atto", "stem.0.weight"),
    ],
)
def test_stems_of_the_family_see_the_same_gray_image_through_more_bands(architecture, key):
    wanted = ("nir", "blue", "green", "red", "swir16")
    torch.manual_seed(0)
    narrow = timm.create_model(architecture, pretrained=False, num_classes=0, in_chans=3).eval()
    wide = timm.create_model(architecture, pretrained=False, num_classes=0, in_chans=5).eval()
    state = narrow.state_dict()
    state[key] = expand_patch_embedding(state[key], RGB, wanted)
    wide.load_state_dict(state)
    size = narrow.default_cfg["input_size"][-1]
    gray = torch.randn(1, 1, size, size)
    with torch.no_grad():
        expected, found = narrow(gray.expand(-1, 3, -1, -1)), wide(gray.expand(-1, 5, -1, -1))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("known", "wanted"), [(("red",), RGB), (RGB, ("red", "red")), (RGB, ())])
def test_names_that_do_not_fit_are_refused(known, wanted):
    with pytest.raises(ValueError, match="band"):
        expand_patch_embedding(_weight(), known, wanted)
