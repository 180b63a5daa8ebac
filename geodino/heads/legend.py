"""Class names and colours that go into every classified file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tiles.errors import InputError

Color = tuple[int, int, int]

LARGEST_CLASS = 254  # uint8 with 0 for nodata; 255 stays free for viewers that reserve it

# Twelve hues told apart by people with the common kinds of colour blindness as far as twelve can be (after the
# principles of Okabe and Ito, 2008: vary lightness with hue), then darker and lighter rounds of the same.
_PALETTE: tuple[Color, ...] = (
    (0, 114, 178),
    (230, 159, 0),
    (0, 158, 115),
    (204, 121, 167),
    (240, 228, 66),
    (213, 94, 0),
    (86, 180, 233),
    (120, 94, 240),
    (143, 98, 48),
    (160, 205, 120),
    (110, 110, 110),
    (170, 20, 60),
)


# Colours that maps of land cover have by custom, by a word of the class's name; the first class with the word gets it.
_CUSTOMARY: tuple[tuple[tuple[str, ...], Color], ...] = (
    (("water", "sea", "lake", "river", "haline", "ocean"), (0, 92, 176)),
    (("wetland", "marsh", "swamp", "mangrove"), (64, 160, 150)),
    (("forest", "wood", "tree"), (20, 110, 50)),
    (("grass", "herb", "pasture", "meadow"), (160, 205, 100)),
    (("crop", "field", "farm", "arable", "agri"), (230, 190, 80)),
    (("built", "urban", "building", "resident", "house", "roof"), (190, 60, 50)),
    (("road", "rail", "highway"), (110, 110, 110)),
    (("sand", "beach", "bare", "soil"), (225, 200, 160)),
    (("snow", "ice"), (235, 245, 255)),
    (("cloud",), (200, 200, 210)),
)


def palette(index: int) -> Color:
    """Colour of class ``index`` (from 0): the same index has the same colour in every map."""
    red, green, blue = _PALETTE[index % len(_PALETTE)]
    turn = (index // len(_PALETTE)) % 5
    if turn == 0:
        return red, green, blue
    toward = 255 if turn % 2 else 0
    share = 0.25 * ((turn + 1) // 2)
    mix = [round(value * (1 - share) + toward * share) for value in (red, green, blue)]
    return mix[0], mix[1], mix[2]


@dataclass(frozen=True)
class Legend:
    """Classes of a map; class number ``i + 1`` in the raster is ``names[i]``.

    Attributes:
        names: one name a class, no two alike.
        colors: red, green, blue in 0 to 255, one a class.
    """

    names: tuple[str, ...]
    colors: tuple[Color, ...]

    def __post_init__(self) -> None:
        if len(self.names) != len(self.colors):
            raise ValueError("a legend needs one colour a name")
        if len(self.names) > LARGEST_CLASS:
            raise InputError(f"{len(self.names)} classes do not fit a map of at most {LARGEST_CLASS}; merge some")

    @classmethod
    def of(cls, names: Sequence[str], colors: Mapping[str, Color] | None = None) -> "Legend":
        """Legend with a class's own colour where ``colors`` names it, else the customary or the palette's."""
        chosen: list[Color] = []
        for index, name in enumerate(names):
            customary = next((c for words, c in _CUSTOMARY if any(word in name.lower() for word in words)), None)
            fallback = palette(index) if customary is None or customary in chosen else customary
            chosen.append((colors or {}).get(name, fallback))
        return cls(tuple(names), tuple(chosen))

    def __len__(self) -> int:
        return len(self.names)

    def colormap(self) -> dict[int, tuple[int, int, int, int]]:
        """GDAL colour table: 0 transparent, classes opaque."""
        return {0: (0, 0, 0, 0)} | {index + 1: (*color, 255) for index, color in enumerate(self.colors)}

    def to_json(self) -> list[dict[str, Any]]:
        """One record a class for JSON files and tags."""
        return [
            {"value": index + 1, "name": name, "color": list(color)}
            for index, (name, color) in enumerate(zip(self.names, self.colors, strict=True))
        ]

    @classmethod
    def from_json(cls, records: list[dict[str, Any]]) -> "Legend":
        """The legend that ``to_json`` wrote."""
        colors = tuple((int(red), int(green), int(blue)) for red, green, blue in (r["color"] for r in records))
        return cls(tuple(str(record["name"]) for record in records), colors)
