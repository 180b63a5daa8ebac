import pytest
from hypothesis import given
from hypothesis import strategies as st

from geodino.heads.legend import Legend, palette
from tiles.errors import InputError


def test_the_first_sixty_colours_differ() -> None:
    assert len({palette(index) for index in range(60)}) == 60


@given(st.integers(0, 253))
def test_colours_are_bytes(index: int) -> None:
    assert all(0 <= part <= 255 for part in palette(index))


def test_class_numbers_start_at_one_and_zero_is_transparent() -> None:
    legend = Legend.of(("forest", "water"), {"water": (0, 0, 255)})
    assert legend.colormap()[0] == (0, 0, 0, 0)
    assert legend.colormap()[2] == (0, 0, 255, 255)


def test_a_legend_survives_json() -> None:
    legend = Legend.of(("a", "b", "ü"))
    assert Legend.from_json(legend.to_json()) == legend


def test_more_classes_than_a_byte_holds_are_refused() -> None:
    with pytest.raises(InputError, match="255 classes"):
        Legend.of([str(index) for index in range(255)])


def test_known_covers_have_their_customary_colours_and_no_two_the_same() -> None:
    legend = Legend.of(("Forest", "Forested Wetland", "Open Water", "Sea", "thing"))
    assert legend.colors[2][2] > max(legend.colors[2][:2])  # blue
    assert legend.colors[0][1] > max(legend.colors[0][0], legend.colors[0][2])  # green
    assert len(set(legend.colors)) == 5
