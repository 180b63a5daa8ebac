"""What counts as measured, on arrays small enough to check by hand."""

import numpy as np
import pytest

from tiles.scenes.band import Band
from tiles.scenes.validity import MaskKind, cloudy, fits, measured, opaque, settle_picture, usable


def band(dtype: str, nodata: float | None) -> Band:
    return Band("b", "a.tif", 1, dtype, nodata, 1.0, 0.0)


# Two bands of three pixels: no band, the first, both are 0.
ZEROS = np.array([[[5, 0, 0]], [[5, 5, 0]]])


@pytest.mark.parametrize(
    ("nodata", "expected"),
    [
        ((0, 0), [True, False, False]),
        ((None, 0), [True, True, False]),
        ((0, 5), [False, False, False]),
        ((-9999, -9999), [True, True, True]),  # no digital number can be that
    ],
)
def test_a_measurement_needs_every_band(nodata, expected):
    assert measured(ZEROS.astype(np.uint16), nodata).tolist() == [expected]


@pytest.mark.parametrize(
    ("dtypes", "nodata", "together", "said"),
    [
        (("uint8", "uint8"), (0, 0), (0, 0), ""),
        (("uint8", "uint8"), (0, 255), (0, 255), ""),
        (("uint8", "uint8"), (0, None), None, "every pixel counts"),
        (("uint8", "uint8"), (-9999, -9999), None, ""),
        (("uint8", "uint16"), (0, 0), None, ""),
        (("uint8",), (0,), None, ""),
    ],
)
def test_bands_of_an_8_bit_picture_are_nodata_together_only(dtypes, nodata, together, said):
    bands = [band(*pair) for pair in zip(dtypes, nodata, strict=True)]
    notes: list[str] = []
    settled, blank = settle_picture(bands, [True] * len(bands), notes)
    picture = len(dtypes) > 1 and set(dtypes) == {"uint8"}
    assert [one.nodata for one in settled] == ([None] * len(bands) if picture else list(nodata))
    assert (None if blank is None else blank.values) == together
    assert any(said in note for note in notes) if said else not notes


@pytest.mark.parametrize("nodata", [None, np.nan, -1.0])
def test_nan_and_infinity_are_never_measured(nodata):
    values = np.array([[[1.0, np.nan, np.inf, -np.inf]]], np.float32)
    assert measured(values, [nodata]).tolist() == [[True, False, False, False]]


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
