from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rasterio
from affine import Affine
from odc.geo.geobox import GeoBox
from shapely.geometry import LineString, MultiPoint, Point, box

from geodino.heads.labels import Labels, choose_field, read_labels, thin
from geodino.heads.legend import Legend
from tiles.errors import InputError

GRID = GeoBox((40, 60), Affine(10, 0, 500_000, 0, -10, 4_000_400), "EPSG:32618")


def place(row: float, col: float) -> tuple[float, float]:
    """Coordinates of a pixel's centre."""
    return GRID.affine @ (col + 0.5, row + 0.5)


def square(row: int, col: int, rows: int, cols: int) -> object:
    """Polygon over whole pixels."""
    left, top = GRID.affine @ (col, row)
    right, bottom = GRID.affine @ (col + cols, row + rows)
    return box(left, bottom, right, top)


def write(path: Path, geometry: list, crs: str | None = "EPSG:32618", **columns: list) -> Path:
    frame = gpd.GeoDataFrame(columns, geometry=geometry, crs="EPSG:32618")
    frame = frame.set_crs(None, allow_override=True) if crs is None else frame.to_crs(crs)
    frame.to_file(path)
    return path


def test_vector_labels_may_bring_the_colours_of_their_classes(tmp_path: Path) -> None:
    """In a field called ``color``, which is never taken for the class; what is no colour is left to the palette."""
    squares = [square(5, 5, 4, 6), square(20, 30, 3, 3), square(30, 5, 3, 3)]
    kinds, colors = ["wood", "water", "ice"], ["#010203", "#0000ff", "none"]
    legend = read_labels(write(tmp_path / "l.gpkg", squares, cover=kinds, color=colors), GRID).legend
    found = dict(zip(legend.names, legend.colors, strict=True))
    assert (found["wood"], found["water"]) == ((1, 2, 3), (0, 0, 255))
    assert found["ice"] == Legend.of(["ice"]).colors[0]


@pytest.mark.parametrize("suffix", ["gpkg", "geojson", "shp", "fgb"])
def test_polygons_label_the_pixels_whose_centres_they_hold(tmp_path: Path, suffix: str) -> None:
    crs = "EPSG:4326" if suffix == "geojson" else "EPSG:32618"
    path = write(
        tmp_path / f"labels.{suffix}", [square(5, 5, 4, 6), square(20, 30, 3, 3)], crs, cover=["wood", "water"]
    )
    labels = read_labels(path, GRID)
    assert labels.legend.names == ("water", "wood")
    mask = np.zeros(GRID.shape, dtype=int)
    mask[labels.rows, labels.cols] = labels.classes + 1
    expected = np.zeros(GRID.shape, dtype=int)
    expected[5:9, 5:11], expected[20:23, 30:33] = 2, 1
    np.testing.assert_array_equal(mask, expected)


@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:3857", "EPSG:32617"])
def test_points_in_any_reference_system_fall_on_their_pixel(tmp_path: Path, crs: str) -> None:
    points = [Point(place(3, 4)), Point(place(30, 50)), MultiPoint([place(8, 8), place(9, 9)])]
    labels = read_labels(write(tmp_path / "p.gpkg", points, crs, kind=["a", "b", "a"]), GRID)
    found = {
        (int(r), int(c), labels.legend.names[k])
        for r, c, k in zip(labels.rows, labels.cols, labels.classes, strict=True)
    }
    assert found == {(3, 4, "a"), (30, 50, "b"), (8, 8, "a"), (9, 9, "a")}


def test_a_line_labels_the_pixels_it_touches(tmp_path: Path) -> None:
    road = LineString([place(10, 10), place(10, 20)])
    labels = read_labels(write(tmp_path / "l.gpkg", [road, square(0, 0, 2, 2)], kind=["road", "field"]), GRID)
    assert sorted(labels.cols[labels.classes == 1]) == list(range(10, 21))


def test_a_polygon_smaller_than_a_pixel_labels_the_pixel_it_lies_in(tmp_path: Path) -> None:
    x, y = place(7, 9)
    tiny = box(x + 2, y + 2, x + 3, y + 3)
    labels = read_labels(write(tmp_path / "t.gpkg", [tiny, square(0, 0, 2, 2)], kind=["hut", "field"]), GRID)
    hut = labels.classes == labels.legend.names.index("hut")
    assert (labels.rows[hut], labels.cols[hut]) == (7, 9)


def test_parts_outside_the_scene_are_cut_off(tmp_path: Path) -> None:
    path = write(tmp_path / "o.gpkg", [square(-5, -5, 8, 8), square(38, 58, 9, 9)], kind=["a", "b"])
    labels = read_labels(path, GRID)
    assert (labels.classes == 0).sum() == 9
    assert (labels.classes == 1).sum() == 4


def test_pixels_claimed_by_two_classes_are_left_out(tmp_path: Path) -> None:
    path = write(tmp_path / "x.gpkg", [square(0, 0, 4, 4), square(2, 2, 4, 4)], kind=["a", "b"])
    labels = read_labels(path, GRID)
    assert len(labels) == 16 + 16 - 8
    assert any("4 pixels lie in objects of two classes" in note for note in labels.notes)


def raster(path: Path, values: np.ndarray, nodata: float | None = None, crs: str | None = "EPSG:32618") -> Path:
    profile = {"driver": "GTiff", "height": values.shape[0], "width": values.shape[1], "count": 1}
    with rasterio.open(
        path, "w", **profile, dtype=values.dtype, nodata=nodata, crs=crs, transform=GRID.affine if crs else None
    ) as out:
        out.write(values, 1)
    return path


def test_a_raster_of_classes_with_zero_for_no_label(tmp_path: Path) -> None:
    values = np.zeros((40, 60), np.uint8)
    values[:10, :10], values[20:25] = 3, 7
    labels = read_labels(raster(tmp_path / "r.tif", values), GRID)
    assert labels.legend.names == ("3", "7")
    assert len(labels) == 100 + 300


def test_a_raster_with_nodata_may_use_zero_as_a_class(tmp_path: Path) -> None:
    values = np.full((40, 60), 255, np.uint8)
    values[:10], values[20:30] = 0, 1
    labels = read_labels(raster(tmp_path / "r.tif", values, nodata=255), GRID)
    assert labels.legend.names == ("0", "1")
    assert len(labels) == 1200


def test_a_raster_on_another_grid_is_laid_on_the_scenes(tmp_path: Path) -> None:
    values = np.zeros((20, 30), np.uint8)
    values[:5], values[10:15] = 1, 2
    path = tmp_path / "coarse.tif"
    with rasterio.open(
        path, "w", driver="GTiff", height=20, width=30, count=1, dtype="uint8", crs="EPSG:32618",
        transform=GRID.affine @ Affine.scale(2),
    ) as out:  # fmt: skip
        out.write(values, 1)
    labels = read_labels(path, GRID)
    assert set(labels.rows[labels.classes == 0]) == set(range(10))
    assert set(labels.rows[labels.classes == 1]) == set(range(20, 30))


def test_a_raster_of_continuous_values_is_refused(tmp_path: Path) -> None:
    path = raster(tmp_path / "dem.tif", np.linspace(1, 2, 2400, dtype=np.float32).reshape(40, 60))
    with pytest.raises(InputError, match="continuous values"):
        read_labels(path, GRID)


def test_a_map_of_ours_brings_its_names_and_colours_along(tmp_path: Path) -> None:
    from tiles.writing.cog import CogWriter, MapClass

    values = np.ones((1, 40, 60), np.uint8)
    values[:, 20:] = 2
    classes = (MapClass(1, "reed", (1, 2, 3)), MapClass(2, "lake", (4, 5, 6)))
    with CogWriter(tmp_path / "m.tif", GRID, dtype="uint8", nodata=0, classes=classes, resampling="nearest") as out:
        out.write(0, values)
    legend = read_labels(tmp_path / "m.tif", GRID).legend
    assert legend == Legend(("reed", "lake"), ((1, 2, 3), (4, 5, 6)))


def test_labels_outside_the_scene_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "far.gpkg", [square(900, 900, 3, 3), square(950, 900, 3, 3)], kind=["a", "b"])
    with pytest.raises(InputError, match="outside the scene"):
        read_labels(path, GRID)


def test_a_single_class_is_refused_and_named(tmp_path: Path) -> None:
    path = write(tmp_path / "one.gpkg", [square(0, 0, 3, 3), square(9, 9, 3, 3)], kind=["a", "a"], ok=["x", "y"])
    with pytest.raises(InputError, match="only 'a'"):
        read_labels(path, GRID, field="kind")


def test_labels_without_a_reference_system_are_refused(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="'crs' was not provided"):
        path = write(tmp_path / "n.shp", [square(0, 0, 3, 3), square(9, 9, 3, 3)], None, kind=["a", "b"])
    with pytest.raises(InputError, match="no coordinate reference system"):
        read_labels(path, GRID)


def test_labels_without_a_geometry_or_a_class_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no geometry"):
        read_labels(write(tmp_path / "e.gpkg", [None, None], kind=["a", "b"]), GRID)
    blank = write(tmp_path / "b.gpkg", [square(0, 0, 3, 3), square(9, 9, 3, 3)], kind=[None, None], ok=["x", "y"])
    with pytest.raises(InputError, match=r"field 'kind' of .* holds no value"):
        read_labels(blank, GRID, field="kind")


def test_a_raster_without_a_reference_system_must_be_the_same_grid(tmp_path: Path) -> None:
    bare = GeoBox((20, 60), GRID.affine, None)
    path = raster(tmp_path / "a.tif", np.ones((40, 60), np.uint8))
    with pytest.raises(InputError, match="must be the same grid"):
        read_labels(path, bare)


def test_a_missing_or_unreadable_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        read_labels(tmp_path / "none.gpkg", GRID)
    (tmp_path / "text.txt").write_text("hello")
    with pytest.raises(InputError, match="neither as vectors nor as a raster"):
        read_labels(tmp_path / "text.txt", GRID)


def frame(**columns: list) -> gpd.GeoDataFrame:
    count = len(next(iter(columns.values())))
    return gpd.GeoDataFrame(columns, geometry=[Point(i, i) for i in range(count)], crs="EPSG:32618")


def test_the_text_field_that_repeats_is_taken_before_numbers() -> None:
    table = frame(id=[1, 2, 3, 4], Classname=["a", "b", "a", "b"], Classvalue=[5, 6, 5, 6])
    name, notes = choose_field(table, None, Path("x"))
    assert name == "Classname"
    assert notes == ("classes are read from field 'Classname' (also there: Classvalue)",)


def test_a_single_number_field_is_taken() -> None:
    assert choose_field(frame(fid=[1, 2, 3, 4], code=[7, 8, 7, 8]), None, Path("x"))[0] == "code"


def test_several_possible_fields_ask_for_one() -> None:
    with pytest.raises(InputError, match="name one with --field: cover, owner"):
        choose_field(frame(cover=["a", "b", "a", "b"], owner=["x", "y", "x", "x"]), None, Path("x"))


def test_an_unknown_field_lists_the_known_ones() -> None:
    with pytest.raises(InputError, match="no field 'klass'; it has cover"):
        choose_field(frame(cover=["a", "b"]), "klass", Path("x"))


def test_no_usable_field_is_refused() -> None:
    with pytest.raises(InputError, match="no field that looks like a class"):
        choose_field(frame(id=[1, 2, 3]), None, Path("x"))


def test_thinning_shares_a_class_among_its_objects() -> None:
    objects = np.repeat([0, 1, 2], [1000, 10, 1000])
    count = len(objects)
    labels = Labels(np.arange(count), np.zeros(count, int), np.zeros(count, int), objects, Legend.of(("a",)))
    kept = thin(labels, 50)
    assert [int((kept.objects == i).sum()) for i in range(3)] == [20, 10, 20]
    np.testing.assert_array_equal(kept.rows, thin(labels, 50).rows)
