"""Cells of the Major TOM grid: a name for every piece of ground of about 10 km, the same for all data sets.

Rows are rings of equal latitude; each ring is cut into cells of nearly equal width (Francis & Czerkawski 2024,
arXiv 2402.12095). A cell is named by its row up or down from the equator and its column left or right of Greenwich.
"""

import math
from dataclasses import dataclass

_EQUATOR_RADIUS_KM = 6378.137


@dataclass(frozen=True)
class Cell:
    """A cell of the grid.

    Attributes:
        row_u: Rows up from the equator; negative below it.
        col_r: Columns right of Greenwich; negative left of it.
    """

    row_u: int
    col_r: int

    @property
    def name(self) -> str:
        """Name such as ``637U_59R`` or ``38D_378R``."""
        vertical = f"{self.row_u}U" if self.row_u >= 0 else f"{-self.row_u}D"
        horizontal = f"{self.col_r}R" if self.col_r >= 0 else f"{-self.col_r}L"
        return f"{vertical}_{horizontal}"

    @classmethod
    def at(cls, latitude: float, longitude: float, side_km: float = 10) -> "Cell":
        """The cell that holds a place.

        Args:
            latitude: Degrees north, -90 to 90.
            longitude: Degrees east, -180 to 180.
            side_km: Side of a cell in kilometres.
        """
        height = 180 / math.ceil(math.pi * _EQUATOR_RADIUS_KM / side_km)
        row = math.floor(latitude / height)
        ring_km = 2 * math.pi * _EQUATOR_RADIUS_KM * math.cos(math.radians(row * height))
        width = 360 / max(1, math.ceil(ring_km / side_km))
        return cls(row, math.floor(longitude / width))
