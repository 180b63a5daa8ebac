"""Labels as tables of points."""

from pathlib import Path

import geopandas as gpd
import pytest
from labels_testing import GRID, found, place
from odc.geo.geobox import GeoBox
from shapely.geometry import Point

from geodino.heads.labels import read_labels
from tiles.errors import InputError

PLACES = [(1, 2), (30, 40), (8, 55)]
WANTED = {(1, 2, "a"), (30, 40, "b"), (8, 55, "a")}


def rows(crs: str = "EPSG:4326") -> list[tuple[float, float, str]]:
    points = gpd.GeoSeries([Point(place(*where)) for where in PLACES], crs="EPSG:32618").to_crs(crs)
    return [(point.x, point.y, name) for point, name in zip(points, ["a", "b", "a"], strict=True)]


def table(path: Path, heading: str, lines: list[tuple], separator: str = ",", encoding: str = "utf-8") -> Path:
    text = "\n".join([heading, *(separator.join(map(str, line)) for line in lines)]) + "\n"
    path.write_text(text, encoding=encoding)
    return path


@pytest.mark.parametrize("heading", ["lon,lat,class", "Longitude, Latitude, class", "lng,lat,class", "X,Y,class"])
def test_columns_of_degrees_are_known_by_their_names_or_their_numbers(tmp_path: Path, heading: str) -> None:
    labels = read_labels(table(tmp_path / "l.csv", heading, rows()), GRID)
    assert found(labels) == WANTED
    assert any(note.endswith("of l.csv are read as degrees of longitude and latitude") for note in labels.notes)


@pytest.mark.parametrize("heading", ["x,y,class", "Easting,Northing,class"])
def test_other_columns_are_the_scenes_own_coordinates(tmp_path: Path, heading: str) -> None:
    labels = read_labels(table(tmp_path / "l.csv", heading, rows("EPSG:32618")), GRID)
    assert found(labels) == WANTED
    assert any(note.endswith("of l.csv are read as coordinates of the scene") for note in labels.notes)


def test_small_numbers_within_the_scene_are_its_own_coordinates(tmp_path: Path) -> None:
    bare = GeoBox((40, 60), GRID.affine.identity(), None)
    labels = read_labels(
        table(tmp_path / "l.csv", "x,y,class", [(c + 0.5, r + 0.5, "ab"[r > 9]) for r, c in PLACES]), bare
    )
    assert found(labels) == WANTED


@pytest.mark.parametrize("separator", [";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "cp1252"])
def test_dialects(tmp_path: Path, separator: str, encoding: str) -> None:
    lines = [(str(x).replace(".", ","), str(y).replace(".", ","), f'"{name}ü"') for x, y, name in rows()]
    path = table(tmp_path / "l.csv", separator.join(["lon", "lat", "class"]), lines, separator, encoding)
    assert {name for _, _, name in found(read_labels(path, GRID))} == {"aü", "bü"}


def test_a_first_column_without_a_name_stays_one(tmp_path: Path) -> None:
    path = table(tmp_path / "l.tsv", "\tlon\tlat\tclass", [(n, *row) for n, row in enumerate(rows())], "\t")
    assert found(read_labels(path, GRID, field="class")) == WANTED


def test_a_class_called_na_is_one_and_an_empty_cell_is_none(tmp_path: Path) -> None:
    lines = [(x, y, name) for (x, y, _), name in zip([*rows(), rows()[0]], ["NA", "None", "", "NA"], strict=True)]
    labels = read_labels(table(tmp_path / "l.csv", "lon,lat,class", lines), GRID, field="class")
    assert found(labels) == {(1, 2, "NA"), (30, 40, "None")}
    assert any(note.startswith("1 labels have no class") for note in labels.notes)


def test_rows_without_a_place_are_left_out_and_counted(tmp_path: Path) -> None:
    path = table(tmp_path / "l.csv", "lon,lat,class", [*rows(), ("", 1, "a"), ("east", 2, "b")])
    labels = read_labels(path, GRID)
    assert found(labels) == WANTED
    assert "2 rows of l.csv have no coordinates and are left out" in labels.notes


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("a,b,class\n1,2,x\n", "columns lon and lat, or x and y"),
        ("lon,lat,class\n", "holds no point"),
        ("lon,lat,class\nx,y,z\n", "holds no point"),
        ("lon,lat,class\n500000,4000000,z\n", "no degrees"),
        ("lon,lat,lat ,class\n1,2,3,z\n", "two columns of one name"),
        ('lon,lat,class\n1,2,"z\n', "cannot be read as labels"),
    ],
)
def test_what_is_no_table_of_points_is_refused(tmp_path: Path, content: str, sentence: str) -> None:
    (tmp_path / "l.csv").write_text(content)
    with pytest.raises(InputError, match=sentence):
        read_labels(tmp_path / "l.csv", GRID)


def test_a_table_has_no_layers(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no layers"):
        read_labels(table(tmp_path / "l.csv", "lon,lat,class", rows()), GRID, layer="a")
