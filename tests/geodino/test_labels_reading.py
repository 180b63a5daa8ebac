from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rasterio
from affine import Affine
from labels_testing import GRID, found, place, raster, square, write
from odc.geo.geobox import GeoBox
from shapely.geometry import GeometryCollection, LineString, MultiPoint, Point, Polygon, box

from geodino.heads.labels import read_labels
from geodino.heads.labels.class_field import choose_field
from geodino.heads.legend import Legend
from tiles.errors import InputError


def test_vector_labels_may_bring_the_colours_of_their_classes(tmp_path: Path) -> None:
    """In a field called ``color``, which is never taken for the class; what is no colour is left to the palette."""
    squares = [square(5, 5, 4, 6), square(20, 30, 3, 3), square(30, 5, 3, 3)]
    kinds, colors = ["wood", "water", "ice"], ["#010203", "#0000ff", "none"]
    legend = read_labels(write(tmp_path / "l.gpkg", squares, cover=kinds, color=colors), GRID).legend
    own = dict(zip(legend.names, legend.colors, strict=True))
    assert (own["wood"], own["water"]) == ((1, 2, 3), (0, 0, 255))
    assert own["ice"] == Legend.of(["ice"]).colors[0]


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
    assert found(labels) == {(3, 4, "a"), (30, 50, "b"), (8, 8, "a"), (9, 9, "a")}


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


@pytest.mark.parametrize(
    "dtype", ["uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64"]
)
@pytest.mark.parametrize("factor", [1, 2])
def test_zero_means_no_label_in_every_type_and_on_another_grid(tmp_path: Path, dtype: str, factor: int) -> None:
    """GDAL makes -1 of a warped 0 where 0 is the nodata value of the result alone."""
    values = np.zeros((40 // factor, 60 // factor), dtype)
    values[: 10 // factor], values[20 // factor : 30 // factor, : 30 // factor] = 1, 2
    path = tmp_path / "l.tif"
    with rasterio.open(
        path, "w", driver="GTiff", height=values.shape[0], width=values.shape[1], count=1, dtype=dtype,
        crs="EPSG:32618", transform=GRID.affine @ Affine.scale(factor),
    ) as out:  # fmt: skip
        out.write(values, 1)
    labels = read_labels(path, GRID)
    assert labels.legend.names == ("1", "2")
    assert np.bincount(labels.classes).tolist() == [600, 300]


@pytest.mark.parametrize("nodata", [-1, 7])
def test_a_declared_nodata_value_leaves_zero_a_class_on_another_grid(tmp_path: Path, nodata: int) -> None:
    values = np.full((20, 30), nodata, np.int32)
    values[:5], values[10:15] = 0, 3
    path = tmp_path / "l.tif"
    with rasterio.open(
        path, "w", driver="GTiff", height=20, width=30, count=1, dtype="int32", crs="EPSG:32618", nodata=nodata,
        transform=GRID.affine @ Affine.scale(2),
    ) as out:  # fmt: skip
        out.write(values, 1)
    labels = read_labels(path, GRID)
    assert labels.legend.names == ("0", "3")
    assert len(labels) == 1200


@pytest.mark.parametrize("factor", [1, 2])
def test_pixels_that_a_mask_hides_are_no_labels(tmp_path: Path, factor: int) -> None:
    values = np.ones((40 // factor, 60 // factor), np.uint8)
    values[20 // factor :] = 2
    hidden = np.full(values.shape, 255, np.uint8)
    hidden[:, : 30 // factor] = 0
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(
        tmp_path / "l.tif", "w", driver="GTiff", height=values.shape[0], width=values.shape[1], count=1, dtype="uint8",
        crs="EPSG:32618", transform=GRID.affine @ Affine.scale(factor),
    ) as out:  # fmt: skip
        out.write(values, 1)
        out.write_mask(hidden)
    labels = read_labels(tmp_path / "l.tif", GRID)
    assert len(labels) == 1200
    assert labels.cols.min() == 30


def test_a_raster_of_several_bands_says_which_is_read(tmp_path: Path) -> None:
    path = tmp_path / "l.tif"
    with rasterio.open(
        path, "w", driver="GTiff", height=40, width=60, count=2, dtype="uint8", crs="EPSG:32618", transform=GRID.affine
    ) as out:
        out.write(np.repeat([[1], [2]], 20, axis=0) * np.ones((40, 60), np.uint8), 1)
        out.write(np.full((40, 60), 9, np.uint8), 2)
    labels = read_labels(path, GRID)
    assert labels.legend.names == ("1", "2")
    assert any("2 bands; the first is read" in note for note in labels.notes)


def test_a_raster_in_a_local_system_cannot_lie_on_the_earth(tmp_path: Path) -> None:
    values = np.ones((40, 60), np.uint8)
    path = raster(tmp_path / "l.tif", values, crs=LOCAL)
    with pytest.raises(InputError, match=r"l\.tif cannot be laid on the scene"):
        read_labels(path, GRID)


def test_whole_numbers_of_which_one_is_missing_are_a_class(tmp_path: Path) -> None:
    points = [Point(place(row, row)) for row in range(4)]
    labels = read_labels(write(tmp_path / "p.gpkg", points, code=[1, 2, None, 1]), GRID)
    assert found(labels) == {(0, 0, "1"), (1, 1, "2"), (3, 3, "1")}
    assert "1 labels have no class in field 'code' and are left out" in labels.notes


def test_an_empty_text_is_no_class(tmp_path: Path) -> None:
    points = [Point(place(row, row)) for row in range(3)]
    labels = read_labels(write(tmp_path / "p.gpkg", points, kind=["a", " ", "b"]), GRID, field="kind")
    assert found(labels) == {(0, 0, "a"), (2, 2, "b")}


def geojson(path: Path, geometry: list, **columns: list) -> Path:
    from json import dumps

    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    shapes = gpd.GeoSeries(geometry, crs="EPSG:32618").to_crs("EPSG:4326")
    features = [
        {"type": "Feature", "properties": row, "geometry": shape.__geo_interface__}
        for row, shape in zip(rows, shapes, strict=True)
    ]
    path.write_text(dumps({"type": "FeatureCollection", "features": features}))
    return path


def test_a_list_or_mapping_beside_the_class_is_passed_over(tmp_path: Path) -> None:
    columns = {"kind": ["a", "b"], "tags": [["x"], ["y", "z"]], "more": [{"k": 1}, {"k": [2]}], "counts": [[1], [2]]}
    path = geojson(tmp_path / "p.geojson", [Point(place(1, 1)), Point(place(2, 2))], **columns)
    assert found(read_labels(path, GRID)) == {(1, 1, "a"), (2, 2, "b")}


def test_collections_label_what_each_of_their_parts_labels(tmp_path: Path) -> None:
    mixed = GeometryCollection([Point(place(1, 1)), square(3, 3, 2, 2), LineString([place(9, 2), place(9, 4)])])
    path = geojson(tmp_path / "c.geojson", [mixed, GeometryCollection([mixed]), Polygon()], kind=["a", "a", "b"])
    shifted = geojson(tmp_path / "d.geojson", [mixed, square(20, 20, 1, 1)], kind=["a", "b"])
    with pytest.raises(InputError, match="only 'a'"):
        read_labels(path, GRID, field="kind")
    wanted = {(1, 1), (3, 3), (3, 4), (4, 3), (4, 4), (9, 2), (9, 3), (9, 4)}
    assert {(r, c) for r, c, name in found(read_labels(shifted, GRID)) if name == "a"} == wanted


def test_a_polygon_beyond_the_scenes_reference_system_is_cut_to_its_surroundings(tmp_path: Path) -> None:
    """Vertices 90 degrees of longitude away have no place in the scene's transverse Mercator."""
    frame = gpd.GeoDataFrame(
        {"kind": ["wide", "far", "near"]},
        geometry=[box(-75.1, 36.1275, 20, 37), box(14, 0, 16, 1), Point(-74.9995, 36.1255)], crs="EPSG:4326",
    )  # fmt: skip
    frame.to_file(tmp_path / "w.gpkg")
    labels = read_labels(tmp_path / "w.gpkg", WIDE)
    rows = gpd.GeoSeries([Point(WIDE.affine @ (c + 0.5, r + 0.5)) for r, c in ROWS], crs="EPSG:32618").to_crs(
        "EPSG:4326"
    )
    above = {place for place, point in zip(ROWS, rows, strict=True) if point.y > 36.1275}
    names = {(r, c): name for r, c, name in found(labels)}
    assert {place for place in ROWS if names.get(place) == "wide"} == above
    assert 0 < len(above) < len(ROWS)


WIDE = GeoBox((60, 40), Affine(10, 0, 500_000, 0, -10, 3_998_400), "EPSG:32618")
ROWS = [(row, 20) for row in range(60)]
LOCAL = 'LOCAL_CS["site grid",UNIT["metre",1],AXIS["Easting",EAST],AXIS["Northing",NORTH]]'


def test_a_local_system_is_reached_from_none_but_itself(tmp_path: Path) -> None:
    site = GeoBox((40, 60), GRID.affine, LOCAL)
    path = write(tmp_path / "p.geojson", [Point(place(1, 1)), Point(place(2, 2))], "EPSG:4326", kind=["a", "b"])
    with pytest.raises(
        InputError, match=r"p\.geojson is in 'WGS 84', from which no way leads to the scene's 'site grid'"
    ):
        read_labels(path, site)
    frame = gpd.GeoDataFrame({"kind": ["a", "b"]}, geometry=[Point(place(1, 1)), Point(place(2, 2))], crs=LOCAL)
    frame.to_file(tmp_path / "own.gpkg")
    assert found(read_labels(tmp_path / "own.gpkg", site)) == {(1, 1, "a"), (2, 2, "b")}


def test_labels_that_contradict_each_other_everywhere_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "x.gpkg", [square(0, 0, 4, 4), square(0, 0, 4, 4)], kind=["a", "b"])
    with pytest.raises(InputError, match="lies in objects of two classes"):
        read_labels(path, GRID)


def test_a_damaged_file_is_refused_in_the_commands_own_words(tmp_path: Path) -> None:
    path = write(tmp_path / "l.gpkg", [square(0, 0, 4, 4), square(8, 8, 4, 4)], kind=["a", "b"])
    content = bytearray(path.read_bytes())
    content[4096:] = bytes(len(content) - 4096)
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"l\.gpkg"):
        read_labels(path, GRID)


def test_layers_are_read_together_where_their_fields_agree(tmp_path: Path) -> None:
    path = write(tmp_path / "l.gpkg", [Point(place(1, 1))], layer="north", kind=["a"])
    write(path, [Point(place(2, 2))], "EPSG:4326", layer="south", kind=["b"])
    labels = read_labels(path, GRID)
    assert found(labels) == {(1, 1, "a"), (2, 2, "b")}
    assert "the layers north, south are read together; --layer takes one of them" in labels.notes
    write(path, [Point(place(2, 2)), Point(place(3, 3))], layer="east", kind=["b", "c"])
    assert found(read_labels(path, GRID, layer="east")) == {(2, 2, "b"), (3, 3, "c")}


def test_layers_that_do_not_go_together_are_listed(tmp_path: Path) -> None:
    path = write(tmp_path / "l.gpkg", [Point(place(1, 1))], layer="north", kind=["a"])
    write(path, [Point(place(2, 2)), Point(place(3, 3))], layer="south", sort=["b", "c"])
    with pytest.raises(InputError, match="name one with --layer: north, south"):
        read_labels(path, GRID)
    with pytest.raises(InputError, match="no layer 'west'; it has north, south"):
        read_labels(path, GRID, layer="west")
    assert found(read_labels(path, GRID, layer="south")) == {(2, 2, "b"), (3, 3, "c")}


def test_what_has_no_layers_refuses_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no layers; leave --layer out"):
        read_labels(raster(tmp_path / "r.tif", np.ones((40, 60), np.uint8)), GRID, layer="a")


def test_samples_come_class_by_class_object_by_object_from_top_to_bottom(tmp_path: Path) -> None:
    """Sums depend on the order, and with them the last digits of a head."""
    shapes = [square(20, 0, 2, 2), square(0, 30, 2, 2), square(0, 0, 2, 2), square(1, 1, 2, 2)]
    labels = read_labels(write(tmp_path / "o.gpkg", shapes, kind=["b", "a", "b", "b"]), GRID)
    assert labels.rows.tolist() == [0, 0, 1, 1, 20, 20, 21, 21, 0, 0, 1, 1, 1, 2, 2]
    assert labels.cols.tolist() == [30, 31, 30, 31, 0, 1, 0, 1, 0, 1, 0, 1, 2, 1, 2]
    assert labels.objects.tolist() == [1] * 4 + [0] * 4 + [2] * 4 + [3] * 3
