"""Grids: the cells of the Major TOM grid have their published names everywhere."""

import numpy as np

from tiles.grids import cell_at, cell_name, cells


def brute_force_cell(longitude: float, latitude: float) -> str:
    """The published construction: rows every 180 / n degrees, columns from the circumference at the row's latitude."""
    rows = int(np.ceil(np.pi * 6378.137 / 10))
    edges = [-90 + 180 * k / rows for k in range(rows + 1)]
    shifted = sorted(((edge % 180) - 90) for edge in edges[:-1])
    row = np.searchsorted(shifted, latitude, side="right") - 1
    zero = np.searchsorted(shifted, -1e-9)
    around = 2 * np.pi * 6378.137 * np.cos(np.radians(shifted[row]))
    columns = int(np.ceil(around / 10))
    west = sorted((((-180 + 360 * k / columns) % 360) - 180) for k in range(columns))
    column = np.searchsorted(west, longitude, side="right") - 1
    middle = np.searchsorted(west, -1e-9)
    vertical = f"{row - zero}U" if row >= zero else f"{zero - row}D"
    return f"{vertical}_{column - middle}R" if column >= middle else f"{vertical}_{middle - column}L"


def test_cells_are_those_of_the_published_grid():
    generator = np.random.default_rng(0)
    longitude, latitude = generator.uniform(-179.9, 179.9, 300), generator.uniform(-80, 84, 300)
    assert cells(longitude, latitude) == [brute_force_cell(x, y) for x, y in zip(longitude, latitude, strict=True)]
    assert cells(np.array([np.nan]), np.array([0.0])) == [None]


def test_cells_have_the_names_of_published_samples():
    places = {
        "282D_485L": (-25.31599, -48.10599),
        "38D_378R": (-3.40140, 34.06608),
        "433D_629L": (-38.83090, -72.47873),
        "609U_541L": (54.77998, -83.95217),
        "637U_59R": (57.22683, 9.84499),
    }
    latitude, longitude = np.array(list(places.values())).T
    assert cells(longitude, latitude) == list(places)


def test_the_antimeridian_is_one_place():
    rows, columns = cell_at(np.array([180.0, -180.0, 540.0]), np.zeros(3))
    assert len(set(zip(rows.tolist(), columns.tolist(), strict=True))) == 1
    assert cell_name(0, int(columns[0])).endswith("L")
