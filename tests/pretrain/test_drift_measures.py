"""Drift measures against values worked out by hand."""

import math

import pytest
import torch

from pretrain.monitor.drift_measures import (
    cls_patch_cosine,
    locality,
    nearest_distance,
    pca_colours,
    prototype_balance,
    similarity_by_distance,
    teacher_entropy,
)


def test_the_cosine_of_cls_and_patches_ignores_nodata_and_length():
    cls = torch.tensor([[2.0, 0.0]])
    patches = torch.tensor([[[3.0, 0.0], [0.0, 5.0], [-1.0, 0.0]]])
    assert cls_patch_cosine(cls, patches, torch.tensor([[True, True, False]])) == pytest.approx(0.5)
    assert cls_patch_cosine(cls, patches, torch.ones(1, 3, dtype=torch.bool)) == pytest.approx(0.0)


def test_similarity_by_distance_equals_the_slow_sum():
    generator = torch.Generator().manual_seed(0)
    patches = torch.randn(3, 4, 5, 6, generator=generator)
    valid = torch.rand(3, 4, 5, generator=generator) > 0.3
    found = similarity_by_distance(patches, valid)
    unit = torch.nn.functional.normalize(patches, dim=-1)
    sums: dict[int, list[float]] = {}
    places = [(i, j) for i in range(4) for j in range(5)]
    for b in range(3):
        for i, j in places:
            for k, m in places:
                if valid[b, i, j] and valid[b, k, m]:
                    sums.setdefault(round(math.hypot(i - k, j - m)), []).append(float(unit[b, i, j] @ unit[b, k, m]))
    assert len(found) == max(sums) + 1
    for distance, values in sums.items():
        assert found[distance].item() == pytest.approx(sum(values) / len(values), abs=1e-5)


def test_locality_is_high_for_smooth_maps_and_zero_for_noise_and_for_one_vector():
    angle = torch.linspace(0, math.pi, 14).view(1, 14, 1, 1).expand(1, 14, 14, 1)
    smooth = torch.cat([angle.cos(), angle.sin()], -1)
    everywhere = torch.ones(1, 14, 14, dtype=torch.bool)
    noise = torch.randn(8, 14, 14, 64, generator=torch.Generator().manual_seed(0))
    noisy = locality(similarity_by_distance(noise, everywhere.expand(8, -1, -1)), 14)
    flat = locality(similarity_by_distance(torch.ones(1, 14, 14, 2), everywhere), 14)
    assert locality(similarity_by_distance(smooth, everywhere), 14) > 0.5
    assert abs(noisy) < 0.02 and flat == pytest.approx(0)


def test_entropy_is_one_for_uniform_and_zero_for_certain_targets():
    assert teacher_entropy(torch.full((4, 8), 1 / 8)) == pytest.approx(1)
    assert teacher_entropy(torch.eye(8)) == pytest.approx(0)
    half = torch.zeros(2, 4)
    half[:, :2] = 0.5
    assert teacher_entropy(half) == pytest.approx(0.5)


def test_balance_counts_the_prototypes_chosen():
    assert prototype_balance(torch.eye(8)) == pytest.approx(1)
    assert prototype_balance(torch.eye(8)[:1].expand(8, 8)) == pytest.approx(0)
    pairs = torch.eye(8)[[0, 0, 1, 1]]
    assert prototype_balance(pairs) == pytest.approx(math.log(2) / math.log(4))


def test_nearest_distance_on_the_sphere():
    cls = torch.tensor([[5.0, 0.0], [0.0, 1.0], [-2.0, 0.0]])
    assert nearest_distance(cls) == pytest.approx(math.sqrt(2))
    assert nearest_distance(torch.ones(3, 4)) == pytest.approx(0, abs=1e-3)


def test_pca_colours_separate_what_differs_and_do_not_depend_on_the_run():
    patches = torch.randn(2, 4, 4, 16, generator=torch.Generator().manual_seed(0)) * 0.01
    patches[:, :, :2, 0] += 1.0
    patches[:, :, 2:, 1] += 1.0
    valid = torch.ones(2, 4, 4, dtype=torch.bool)
    valid[0, 0, 0] = False
    colours = pca_colours(patches, valid)
    assert colours.shape == (2, 4, 4, 3) and colours.min() >= 0 and colours.max() <= 1
    assert (colours[0, 0, 0] == 0).all()
    first = colours[..., 0]
    assert (first[1, :, :2].mean() - first[1, :, 2:].mean()).abs() > 0.8
    torch.testing.assert_close(colours, pca_colours(patches.flip(0), valid.flip(0)).flip(0), atol=1e-4, rtol=0)
