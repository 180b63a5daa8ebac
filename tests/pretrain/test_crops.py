"""Crops: exact geometry, nodata kept apart, Gram views that are the student's crop undistorted."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch.nn import functional

from pretrain.data.crops import Boxes, Resampler, draw_boxes, make_crops
from pretrain.recipes.views import CropSettings, RadiometrySettings


class _Plain:
    """A normalisation that changes nothing."""

    mean = (0.0, 0.0, 0.0)
    std = (1.0, 1.0, 1.0)


class _Bands:
    mean = (0.2, 0.3, 0.4)
    std = (0.1, 0.2, 0.3)


STILL = RadiometrySettings(probability=0.0, blur_probability_global=(0.0,), blur_probability_local=0.0)


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _tiles(count: int = 8, size: int = 16, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    values = torch.rand(count, 3, size, size, generator=_generator(seed))
    return values, torch.ones(count, size, size, dtype=torch.bool), torch.full((count,), 10.0)


def _boxes(top: float, left: float, height: float, width: float, symmetry: torch.Tensor) -> Boxes:
    sides = (torch.full((len(symmetry),), float(v), dtype=torch.float64) for v in (top, left, height, width))
    return Boxes(*sides, symmetry)


def test_each_symmetry_equals_rot90_and_flip_exactly():
    values, valid, _ = _tiles(8)
    view = Resampler(values, valid, _Plain()).undistorted(_boxes(0, 0, 16, 16, torch.arange(8)), 16)
    for s in range(8):
        expected = torch.rot90(values[s], s % 4, (1, 2))
        expected = expected.flip(2) if s >= 4 else expected
        assert torch.equal(view.pixels[s], expected)
    assert view.valid.all()


def test_an_aligned_crop_at_scale_one_is_the_pixels_themselves():
    values, valid, _ = _tiles(2)
    view = Resampler(values, valid, _Plain()).undistorted(_boxes(3, 5, 8, 8, torch.zeros(2, dtype=torch.long)), 8)
    assert torch.equal(view.pixels, values[:, :, 3:11, 5:13])


@pytest.mark.parametrize("size", [5, 8, 16, 24, 40])
def test_resampling_the_whole_tile_equals_torch_bicubic_with_antialiasing(size):
    values, valid, _ = _tiles(2)
    smooth = functional.avg_pool2d(values, 3, 1, 1)  # values that the overshoot of a cubic does not push out of [0, 1]
    view = Resampler(smooth, valid, _Plain()).undistorted(_boxes(0, 0, 16, 16, torch.zeros(2, dtype=torch.long)), size)
    expected = functional.interpolate(smooth, size=(size, size), mode="bicubic", antialias=True).clamp(0, 1)
    # Where nothing shrinks torch 2 uses the same kernel; the border is renormalised alike.
    torch.testing.assert_close(view.pixels, expected, atol=2e-6, rtol=0)


def test_shrinking_does_not_alias():
    stripes = torch.zeros(1, 3, 64, 64)
    stripes[..., ::2] = 1.0  # one pixel on, one off: grey at any coarser scale
    valid = torch.ones(1, 64, 64, dtype=torch.bool)
    view = Resampler(stripes, valid, _Plain()).undistorted(_boxes(0, 0, 64, 64, torch.zeros(1, dtype=torch.long)), 20)
    inside = view.pixels[..., 2:-2]
    assert (inside - 0.5).abs().max() < 0.06


def test_views_have_the_asked_shapes_and_types():
    values, valid, gsd = _tiles(4, 32)
    wanted = CropSettings(global_size=24, local_size=8, local_count=3, gram_scale=1.5)
    crops = make_crops(values, valid, gsd, wanted, _Bands(), _generator())
    assert [v.pixels.shape for v in crops.global_views] == [(4, 3, 24, 24)] * 2
    assert [v.pixels.shape for v in crops.local_views] == [(4, 3, 8, 8)] * 3
    assert [v.pixels.shape for v in crops.gram_views] == [(4, 3, 36, 36)] * 2
    for view in (*crops.global_views, *crops.local_views, *crops.gram_views):
        assert view.pixels.dtype == torch.float32 and view.valid.dtype == torch.bool and view.valid.all()


def test_the_same_generator_gives_the_same_bytes():
    values, valid, gsd = _tiles(4, 32)
    valid[0, :10] = False
    wanted = CropSettings(global_size=24, local_size=8, gram_scale=2)
    first, again, other = (make_crops(values, valid, gsd, wanted, _Bands(), _generator(s)) for s in (7, 7, 8))
    for a, b in zip(
        (*first.global_views, *first.local_views, *first.gram_views),
        (*again.global_views, *again.local_views, *again.gram_views),
        strict=True,
    ):
        assert torch.equal(a.pixels, b.pixels) and torch.equal(a.valid, b.valid)
    assert not torch.equal(first.global_views[0].pixels, other.global_views[0].pixels)


def test_the_input_is_left_alone():
    values, valid, gsd = _tiles(2)
    before = values.clone()
    make_crops(values, valid, gsd, CropSettings(global_size=16, local_size=8, symmetries=False), _Bands(), _generator())
    assert torch.equal(values, before)


def test_a_gram_view_is_the_undistorted_resize_of_the_same_crop():
    values, valid, gsd = _tiles(6, 32)
    distorted = CropSettings(global_size=16, local_count=0, gram_scale=1)
    crops = make_crops(values, valid, gsd, distorted, _Bands(), _generator(3))
    still = make_crops(values, valid, gsd, distorted.model_copy(update={"radiometry": STILL}), _Bands(), _generator(3))
    for student, plain, gram in zip(crops.global_views, still.global_views, crops.gram_views, strict=True):
        assert torch.equal(plain.pixels, gram.pixels)  # no distortion: student and Gram crop are one
        assert not torch.equal(student.pixels, gram.pixels)


def test_a_larger_gram_view_shows_the_same_ground():
    values, valid, gsd = _tiles(4, 32)
    smooth = functional.avg_pool2d(values, 9, 1, 4)
    wanted = CropSettings(global_size=16, local_count=0, gram_scale=2, radiometry=STILL)
    crops = make_crops(smooth, valid, gsd, wanted, _Plain(), _generator())
    for student, gram in zip(crops.global_views, crops.gram_views, strict=True):
        assert (functional.avg_pool2d(gram.pixels, 2) - student.pixels).abs().max() < 0.02


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), holes=st.floats(0, 1), size=st.sampled_from([8, 16, 24]))
def test_nodata_is_zero_never_invented_and_never_seen(seed, holes, size):
    values, valid, gsd = _tiles(3, 16, seed)
    valid = torch.rand(3, 4, 4, generator=_generator(seed)).repeat_interleave(4, 1).repeat_interleave(4, 2) >= holes
    wanted = CropSettings(global_size=size, local_size=8, local_count=2, gram_scale=1)
    crops = make_crops(values, valid, gsd, wanted, _Bands(), _generator(seed))
    poisoned = torch.where(valid.unsqueeze(1), values, torch.rand(values.shape, generator=_generator(seed + 1)))
    same = make_crops(poisoned, valid, gsd, wanted, _Bands(), _generator(seed))
    low = (0 - torch.tensor(_Bands.mean)) / torch.tensor(_Bands.std)
    high = (1 - torch.tensor(_Bands.mean)) / torch.tensor(_Bands.std)
    for view, other in zip(
        (*crops.global_views, *crops.local_views, *crops.gram_views),
        (*same.global_views, *same.local_views, *same.gram_views),
        strict=True,
    ):
        assert torch.equal(view.pixels, other.pixels)  # what lies under nodata does not matter
        hidden = (~view.valid).unsqueeze(1).expand_as(view.pixels)
        assert (view.pixels[hidden] == 0).all()
        assert torch.isfinite(view.pixels).all()
        assert (view.pixels >= low.view(-1, 1, 1) - 1e-5).all() and (view.pixels <= high.view(-1, 1, 1) + 1e-5).all()
    for tile in range(3):
        if not valid[tile].any():
            assert not any(v.valid[tile].any() for v in crops.global_views)


def test_nan_under_nodata_does_not_spread():
    values, valid, gsd = _tiles(2)
    valid[:, 4:8, 4:8] = False
    values[:, :, 4:8, 4:8] = float("nan")
    wanted = CropSettings(global_size=16, local_count=0)
    crops = make_crops(values, valid, gsd, wanted, _Bands(), _generator())
    assert all(torch.isfinite(v.pixels).all() for v in crops.global_views)


def test_validity_follows_the_geometry():
    values, valid, _ = _tiles(8)
    valid[:, :5, :3] = False
    view = Resampler(values, valid, _Plain()).undistorted(_boxes(0, 0, 16, 16, torch.arange(8)), 16)
    for s in range(8):
        expected = torch.rot90(valid[s], s % 4, (0, 1))
        assert torch.equal(view.valid[s], expected.flip(1) if s >= 4 else expected)


def test_a_constant_tile_keeps_its_value_up_to_the_edge_of_the_gap():
    valid = torch.ones(1, 16, 16, dtype=torch.bool)
    valid[:, :, 9:] = False
    values = torch.full((1, 3, 16, 16), 0.6)
    view = Resampler(values, valid, _Plain()).undistorted(_boxes(0, 0, 16, 16, torch.zeros(1, dtype=torch.long)), 23)
    assert view.valid.any() and not view.valid.all()
    seen = view.valid.unsqueeze(1).expand_as(view.pixels)
    torch.testing.assert_close(view.pixels[seen], torch.full_like(view.pixels[seen], 0.6))


def test_blur_keeps_the_gaussian_s_width_whatever_the_crop():
    point = torch.zeros(1, 3, 33, 33)
    point[..., 16, 16] = 1.0
    batch = Resampler(point, torch.ones(1, 33, 33, dtype=torch.bool), _Plain())
    settings = RadiometrySettings(probability=0.0, blur_sigma=(1.5, 1.5))
    view = batch.view(_boxes(0, 0, 33, 33, torch.ones(1, dtype=torch.long)), 33, settings, 1.0, _generator())
    distance = (torch.arange(33) - 16).square().float()
    profile = view.pixels[0, 0].sum(0)
    assert ((profile * distance).sum() / profile.sum()).sqrt().item() == pytest.approx(1.5, rel=0.02)


def test_tiles_must_be_square():
    with pytest.raises(ValueError, match="square"):
        values, valid = torch.rand(1, 3, 16, 20), torch.ones(1, 16, 20, dtype=torch.bool)
        make_crops(values, valid, torch.ones(1), CropSettings(), _Plain(), _generator())


def test_boxes_lie_inside_and_keep_their_share():
    valid = torch.ones(2000, 20, 30, dtype=torch.bool)
    wanted = CropSettings(aspect=0.75)
    boxes = draw_boxes(valid, True, torch.ones(2000), (0.1, 0.4), None, wanted, _generator())
    assert (boxes.top >= 0).all() and (boxes.top + boxes.height <= 20 + 1e-9).all()
    assert (boxes.left >= 0).all() and (boxes.left + boxes.width <= 30 + 1e-9).all()
    share = boxes.height * boxes.width / 600
    assert share.min() >= 0.1 - 1e-6 and share.max() <= 0.4 + 1e-6
    assert share.mean().item() == pytest.approx(0.25, abs=0.01)
    assert torch.bincount(boxes.symmetry, minlength=8).min() > 190


def test_boxes_in_metres_show_the_same_ground_at_every_gsd():
    valid = torch.ones(2, 100, 100, dtype=torch.bool)
    wanted = CropSettings(aspect=1.0)
    boxes = draw_boxes(valid, True, torch.tensor([1.0, 2.5]), (0.1, 0.4), (50.0, 50.0), wanted, _generator())
    assert boxes.height.tolist() == pytest.approx([50, 20])
    assert boxes.width.tolist() == pytest.approx([50, 20])


def test_boxes_look_for_data():
    valid = torch.zeros(200, 32, 32, dtype=torch.bool)
    valid[:, :16] = True
    wanted = CropSettings()
    boxes = draw_boxes(valid, False, torch.ones(200), (0.05, 0.1), None, wanted, _generator())
    blind = draw_boxes(valid, True, torch.ones(200), (0.05, 0.1), None, wanted, _generator())
    on_data = ((boxes.top + boxes.height / 2) <= 17).float().mean()
    assert on_data > 0.9 > 0.6 > ((blind.top + blind.height / 2) <= 17).float().mean()


def test_the_gsd_range_of_the_views():
    wanted = CropSettings(global_size=100, global_scale=(0.25, 1.0), local_size=50, local_scale=(0.04, 0.25))
    assert wanted.gsd_range_m(200, (10.0, 10.0)) == pytest.approx((8.0, 20.0))
    metres = CropSettings(global_size=100, global_extent_m=(500.0, 1000.0), local_count=0)
    assert metres.gsd_range_m(200, (1.0, 10.0)) == pytest.approx((2.0, 10.0))


@pytest.mark.parametrize(
    "wrong", [{"global_scale": (0.5, 0.1)}, {"local_scale": (0.1, 1.2)}, {"global_extent_m": (0, 10)}, {"sise": 3}]
)
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ValidationError):
        CropSettings(**wrong)
