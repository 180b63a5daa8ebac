"""Blending: a partition of unity that never reaches zero, and streams that equal the whole-array result."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tiles.writing.stitch import Axis, MaskBand, RowBand, row_pieces, upsample_rows


@st.composite
def axes(draw, longest=60):
    window = draw(st.integers(1, 24))
    return Axis(draw(st.integers(1, longest)), window, draw(st.integers(0, window // 2)))


@given(axes())
def test_windows_lie_inside_the_axis_and_cover_it(axis):
    covered = np.zeros(axis.length, int)
    for start in axis.starts:
        assert 0 <= start <= axis.length - axis.size
        covered[start : start + axis.size] += 1
    assert covered.min() >= 1
    assert list(axis.starts) == sorted(set(axis.starts))


@given(axes())
def test_weights_sum_to_one_everywhere_and_never_reach_zero(axis):
    total = np.zeros(axis.length)
    for start, weight in zip(axis.starts, axis.weights, strict=True):
        total[start : start + axis.size] += weight
    np.testing.assert_allclose(total, 1, atol=1e-6)
    assert axis.weights.min() > 0


def test_weight_is_one_at_the_ends_of_the_scene_and_in_the_interior_of_a_window():
    axis = Axis(length=100, window=20, overlap=4)
    assert axis.weights[0, 0] == 1 and axis.weights[-1, -1] == 1
    np.testing.assert_array_equal(axis.weights[1, 4:16], 1)
    np.testing.assert_allclose(axis.weights[0, 16:] + axis.weights[1, :4], 1, atol=1e-6)


@given(axes(), st.data())
def test_touching_names_exactly_the_windows_that_share_a_cell(axis, data):
    start = data.draw(st.integers(0, axis.length - 1))
    stop = data.draw(st.integers(start + 1, axis.length))
    brute = [i for i, s in enumerate(axis.starts) if set(range(s, s + axis.size)) & set(range(start, stop))]
    assert list(axis.touching(start, stop)) == brute


def test_an_overlap_that_leaves_no_cell_of_its_own_is_refused():
    with pytest.raises(ValueError, match="cannot overlap"):
        Axis(100, 8, 5)


@given(axes(40), axes(40), st.integers(0, 2**31))
@settings(max_examples=40)
def test_band_equals_the_whole_array_blend(down, across, seed):
    rng = np.random.default_rng(seed)
    whole = np.zeros((2, down.length, across.length), np.float32)
    band = RowBand(2, across.length, down.size)
    got = []
    for i, (row, wy) in enumerate(zip(down.starts, down.weights, strict=True)):
        for column, wx in zip(across.starts, across.weights, strict=True):
            values = rng.standard_normal((2, down.size, across.size), dtype=np.float32)
            whole[:, row : row + down.size, column : column + across.size] += values * (wy[:, None] * wx)
            band.add(row, column, values, (wy, wx))
        got.append(band.take(down.settled(i)))
    np.testing.assert_array_equal(np.concatenate(got, axis=1), whole)


@given(axes(40), axes(40))
@settings(max_examples=25)
def test_equal_values_blend_to_that_value_up_to_the_edge(down, across):
    band = RowBand(1, across.length, down.size)
    rows = []
    for i, (row, wy) in enumerate(zip(down.starts, down.weights, strict=True)):
        for column, wx in zip(across.starts, across.weights, strict=True):
            band.add(row, column, np.full((1, down.size, across.size), 7, np.float32), (wy, wx))
        rows.append(band.take(down.settled(i)))
    np.testing.assert_allclose(np.concatenate(rows, axis=1), 7, rtol=1e-5)


def test_band_refuses_rows_that_have_left_it():
    band = RowBand(1, 4, 4)
    band.take(2)
    with pytest.raises(ValueError, match="outside the band"):
        band.add(1, 0, np.ones((1, 2, 2), np.float32), (np.ones(2, np.float32), np.ones(2, np.float32)))


def test_mask_band_gives_back_what_was_set():
    rng = np.random.default_rng(0)
    whole = rng.random((20, 9)) > 0.5
    axis = Axis(20, 8, 2)
    band = MaskBand(9, 8)
    got = []
    for i, row in enumerate(axis.starts):
        band.add(row, 0, whole[row : row + 8])
        got.append(band.take(axis.settled(i)))
    np.testing.assert_array_equal(np.concatenate(got), whole)


def bilinear(array, patch, height, width):
    """Whole-array bilinear interpolation, one pixel at a time."""
    _, rows, columns = array.shape
    out = np.zeros((array.shape[0], height, width), np.float64)
    for y in range(height):
        sy = max((y + 0.5) / patch - 0.5, 0)
        y0 = min(int(sy), rows - 1)
        y1, fy = min(y0 + 1, rows - 1), sy - y0
        for x in range(width):
            sx = max((x + 0.5) / patch - 0.5, 0)
            x0 = min(int(sx), columns - 1)
            x1, fx = min(x0 + 1, columns - 1), sx - x0
            top = array[:, y0, x0] * (1 - fx) + array[:, y0, x1] * fx
            bottom = array[:, y1, x0] * (1 - fx) + array[:, y1, x1] * fx
            out[:, y, x] = top * (1 - fy) + bottom * fy
    return out


@given(st.integers(1, 5), st.integers(1, 23), st.integers(1, 23), st.data())
@settings(max_examples=60)
def test_streamed_upsampling_equals_whole_array_bilinear(patch, height, width, data):
    rows, columns = -(-height // patch), -(-width // patch)
    array = np.random.default_rng(rows * columns).standard_normal((3, rows, columns)).astype(np.float32)
    cuts = sorted(data.draw(st.lists(st.integers(0, rows), max_size=4)))
    pieces = np.split(array, cuts, axis=1)
    got = list(upsample_rows(pieces, patch, height, width))
    assert [first for first, _ in got] == list(np.cumsum([0, *(piece.shape[1] for _, piece in got[:-1])]))
    assert max(piece.shape[1] for _, piece in got) <= 2 * patch
    np.testing.assert_allclose(
        np.concatenate([piece for _, piece in got], axis=1), bilinear(array, patch, height, width), atol=1e-5
    )


def test_upsampling_equals_torch():
    torch = pytest.importorskip("torch")
    array = np.random.default_rng(0).standard_normal((2, 4, 5)).astype(np.float32)
    whole = torch.nn.functional.interpolate(
        torch.from_numpy(array)[None], scale_factor=16, mode="bilinear", align_corners=False
    )[0].numpy()
    got = np.concatenate([piece for _, piece in upsample_rows([array], 16, 60, 75)], axis=1)
    np.testing.assert_allclose(got, whole[:, :60, :75], atol=1e-5)


def test_upsampling_rows_cut_anywhere_gives_the_same_bytes():
    array = np.random.default_rng(1).standard_normal((2, 6, 5)).astype(np.float32)
    whole = np.concatenate([piece for _, piece in upsample_rows([array], 7, 40, 33)], axis=1)
    cut = np.concatenate([piece for _, piece in upsample_rows(np.split(array, [1, 4], axis=1), 7, 40, 33)], axis=1)
    np.testing.assert_array_equal(whole, cut)


def test_upsampling_rows_that_end_early_is_an_error():
    with pytest.raises(ValueError, match="ended"):
        list(upsample_rows([np.zeros((1, 2, 3))], 4, 12, 12))


@given(st.integers(0, 50), st.integers(1, 50), st.integers(1, 20))
def test_row_pieces_cover_the_rows_and_break_at_multiples(start, count, step):
    assume(count > 0)
    pieces = row_pieces(start, start + count, step)
    assert [row for piece in pieces for row in piece] == list(range(start, start + count))
    assert all(piece.start % step == 0 for piece in pieces[1:])
