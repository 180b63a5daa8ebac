"""What counts as measured, on arrays small enough to check by hand."""

import numpy as np
import pytest

from tiles.scenes.band import Band
from tiles.scenes.validity import Fill, MaskKind, Nodata, cloudy, fits, is_picture, measured, opaque, usable


def band(dtype: str, nodata: float | None) -> Band:
    return Band("b", "a.tif", 1, dtype, nodata, 1.0, 0.0)


# Two bands of three pixels: no band, the first, both are 0.
ZEROS = {"uint8": [[[5, 0, 0]], [[5, 5, 0]]]}


@pytest.mark.parametrize(
    ("dtypes", "nodata", "expected"),
    [
        (("uint8", "uint8"), (0, 0), [True, True, False]),  # a picture: nodata in every band
        (("uint16", "uint16"), (0, 0), [True, False, False]),  # a measurement: nodata in any
        (("uint8", "uint16"), (0, 0), [True, False, False]),
        (("uint8", "uint8"), (0, None), [True, True, True]),  # a picture whose second band always counts
        (("uint16", "uint16"), (None, 0), [True, True, False]),
        (("uint8", "uint8"), (-9999, -9999), [True, True, True]),  # no digital number can be that
    ],
)
def test_nodata_of_bands_read_together(dtypes, nodata, expected):
    values = np.array(ZEROS["uint8"], np.result_type(*dtypes))
    found = Nodata.of([band(*pair) for pair in zip(dtypes, nodata, strict=True)]).valid(values)
    assert found.tolist() == [expected]
    if None not in nodata and nodata[0] == 0:
        assert measured(values == 0, picture=is_picture(dtypes)).tolist() == [expected]


@pytest.mark.parametrize("nodata", [None, np.nan, -1.0])
def test_nan_and_infinity_are_never_measured(nodata):
    values = np.array([[[1.0, np.nan, np.inf, -np.inf]]], np.float32)
    assert Nodata.of([band("float32", nodata)]).valid(values).tolist() == [[True, False, False, False]]


@pytest.mark.parametrize(
    ("value", "dtype", "expected"),
    [(0, "uint8", True), (256, "uint8", False), (-1, "uint16", False), (0.5, "int16", False), (-9999, "float32", True)],
)
def test_a_value_fits_a_type_when_it_can_occur_there(value, dtype, expected):
    assert fits(value, np.dtype(dtype)) is expected


def test_masks_tell_ground_from_cloud():
    classes = np.arange(12)[None]
    assert np.flatnonzero(usable(classes, MaskKind.scl)).tolist() == [2, 4, 5, 6, 7, 11]
    assert np.flatnonzero(cloudy(classes, MaskKind.scl)).tolist() == [3, 8, 9, 10]
    bits = np.array([[0b0, 0b1, 0b10, 0b100, 0b1000, 0b10000, 0b1000000]])
    assert usable(bits, MaskKind.qa_pixel).tolist() == [[True, False, False, False, False, False, True]]
    assert cloudy(bits, MaskKind.qa_pixel).tolist() == [[False, False, True, True, True, True, False]]
    alpha = np.array([[0, 1, 255]], np.uint8)
    assert usable(alpha, MaskKind.explicit).tolist() == opaque(alpha).tolist() == [[False, True, True]]
    assert not cloudy(alpha, MaskKind.explicit).any()


def test_fill_is_where_witness_and_bands_have_it():
    witness = np.array([[0, 0, 5, 5]])
    values = np.array([[[0, 7, 0, 5]]])
    fill = Fill(0, band("uint8", None))
    assert fill.covers(witness, values, resampled=False).tolist() == [[True, False, False, False]]
    # Resampled, the witness alone decides, one pixel round.
    assert fill.covers(witness, values, resampled=True).tolist() == [[True, True, True, False]]
