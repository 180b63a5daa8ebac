"""Random label files of many kinds over the tests' small grid, whole and damaged, with what whole ones must give."""

import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import rasterio
import shapely
from affine import Affine
from labels_testing import GRID, place, square

NAMES = ("wood", "water", "Fläche", "草", "1", "true", "NA", "two words", "semi;colon", "O'Neill, 7")
CRSS = ("EPSG:32618", "EPSG:4326", "EPSG:3857", "EPSG:32617", "EPSG:4269")
ODD_CRSS = (
    None, "EPSG:3413", "EPSG:4978", "EPSG:32718", "EPSG:4326+5773", "EPSG:27700", "ESRI:54009", "EPSG:5041",
    'LOCAL_CS["site",UNIT["metre",1],AXIS["E",EAST],AXIS["N",NORTH]]',
)  # fmt: skip
Wanted = set[tuple[int, int, str]]


@dataclass(frozen=True)
class LabelFile:
    """A label file.

    Attributes:
        path: where it lies.
        wanted: row, column and class of each pixel that it labels; None where the file may be refused or read.
        options: keywords for reading.
    """

    path: Path
    wanted: Wanted | None
    options: dict[str, str]


def make(folder: Path, count: int, seed: int) -> list[LabelFile]:
    """The files of a seed: the first ``count`` of an endless series."""
    made = []
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        kind = KINDS[number % len(KINDS)]
        home = folder / f"{number:04d}"
        home.mkdir()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what a format cannot hold is part of the trial
            made.append(kind(home, rng))
    return made


def _ground(rng: np.random.Generator) -> tuple[list[Any], list[str], Wanted]:
    """Points and polygons in cells that do not touch, of two classes or more, and the pixels they label."""
    cells = rng.permutation([(row, col) for row in range(0, 36, 6) for col in range(0, 54, 6)])
    names = rng.choice(NAMES, int(rng.integers(2, 5)), replace=False)
    geometries: list[Any] = []
    classes: list[str] = []
    wanted: Wanted = set()
    for number, (row, col) in enumerate(cells[: int(rng.integers(12, 20))].tolist()):
        name = str(names[number % len(names)])
        shape = rng.integers(0, 5)
        held = [(row + 1, col + 1)]
        if shape == 0:
            geometry: Any = shapely.Point(place(row + 1, col + 1))
        elif shape == 1:
            held = [(row + 1, col + 1), (row + 3, col + 2)]
            geometry = shapely.MultiPoint([place(*where) for where in held])
        elif shape == 2:
            held = [(row + r, col + c) for r in range(1, 4) for c in range(1, 4)]
            geometry = square(row + 1, col + 1, 3, 3).buffer(-0.5, join_style="mitre")
        elif shape == 3:
            held = [(row + 1, col + 1), (row + 3, col + 3)]
            geometry = shapely.MultiPolygon([square(r, c, 1, 1).buffer(-1, join_style="mitre") for r, c in held])
        else:
            geometry = shapely.Point(place(row + 1, col + 1)).buffer(1.5, 2)  # smaller than a pixel
        geometries.append(geometry)
        classes.append(name)
        wanted |= {(r, c, name) for r, c in held}
    return geometries, classes, wanted


def _frame(rng: np.random.Generator) -> tuple[gpd.GeoDataFrame, Wanted]:
    geometries, classes, wanted = _ground(rng)
    frame = gpd.GeoDataFrame({"kind": classes}, geometry=geometries, crs="EPSG:32618")
    count = len(frame)
    extras: dict[str, Callable[[], Any]] = {
        "fid_": lambda: np.arange(count),
        "height": lambda: rng.normal(size=count),
        "when": lambda: pd.to_datetime(rng.integers(0, 10**9, count), unit="s"),
        "flag": lambda: rng.integers(0, 2, count).astype(bool),
        "area": lambda: np.where(rng.random(count) < 0.3, np.nan, rng.normal(size=count)),
        "id": lambda: rng.integers(0, 3, count),
        "color": lambda: rng.choice(["#00ff00", "red", ""], count),
        "empty": lambda: [None] * count,
    }
    for name in rng.permutation(list(extras))[: int(rng.integers(0, 4))]:
        frame[str(name)] = extras[str(name)]()
    return frame, wanted


def _vector(home: Path, rng: np.random.Generator) -> LabelFile:
    """Formats, reference systems, encodings and fields."""
    frame, wanted = _frame(rng)
    suffix = str(rng.choice(["gpkg", "geojson", "shp", "fgb", "sqlite", "gml"]))
    crs = "EPSG:4326" if suffix == "geojson" else str(rng.choice(CRSS))
    frame = frame.to_crs(crs)
    if suffix in ("shp", "gml"):  # one kind of geometry a file
        points = frame.geom_type.isin(["Point"])
        frame = frame[points] if points.sum() > 3 else frame[frame.geom_type.isin(["Polygon", "MultiPolygon"])]
        frame = frame[[c for c in frame.columns if c not in ("empty", "when")]]
        wanted = None if frame["kind"].nunique() < 2 else _held(wanted, frame)
    options = {"shp": {"encoding": "utf-8"}, "sqlite": {"driver": "SQLite"}, "gml": {"driver": "GML"}}.get(suffix, {})
    frame.to_file(home / f"l.{suffix}", **options)
    return LabelFile(home / f"l.{suffix}", wanted, {"field": "kind"})


def _held(wanted: Wanted, frame: gpd.GeoDataFrame) -> Wanted:
    """What is labelled by the objects that are left."""
    moved = frame.to_crs("EPSG:32618")
    near = moved.geometry.buffer(4)
    points = {(r, c): shapely.Point(place(r, c)) for r, c, _ in wanted}
    return {(r, c, name) for r, c, name in wanted if near.intersects(points[r, c]).any()}


def _odd_geometries(home: Path, rng: np.random.Generator) -> LabelFile:
    """Null, empty, three-dimensional, invalid, far and infinite geometries beside whole ones."""
    frame, wanted = _frame(rng)
    frame = frame.to_crs("EPSG:4326")
    point = [rng.uniform(-180, 180), rng.uniform(-90, 90)]
    ring = [[-75, 36], [-74.9, 36.1], [-74.9, 36], [-75, 36.1], [-75, 36]]
    odd: list[dict[str, Any] | None] = [
        None,
        {"type": "Point", "coordinates": []},
        {"type": "Polygon", "coordinates": []},
        {"type": "GeometryCollection", "geometries": []},
        {"type": "Point", "coordinates": [*point, 1e300]},
        {"type": "Point", "coordinates": [1e300, -1e300]},
        {"type": "Polygon", "coordinates": [[[15, 0], [16, 0], [16, 1], [15, 0]]]},
        {"type": "Polygon", "coordinates": [[[105, -36], [106, -36], [106, -35], [105, -36]]]},
        {"type": "LineString", "coordinates": [[100, 80], [101, 80]]},
        {"type": "MultiPolygon", "coordinates": [[[[50, 10], [51, 10], [51, 11], [50, 10]]]]},
        {"type": "Polygon", "coordinates": [[[5, 5], [5, 5], [5, 5], [5, 5]]]},
        {"type": "MultiLineString", "coordinates": [[[60, 1], [60, 1]], []]},
        {"type": "Polygon", "coordinates": [[[x + 40, y] for x, y in ring]]},
    ]
    features = json.loads(frame[["kind", "geometry"]].to_json())["features"]
    for number in rng.integers(0, len(odd), 5).tolist():
        chosen = {"type": "Feature", "properties": {"kind": "elsewhere"}, "geometry": odd[number]}
        features.insert(int(rng.integers(0, len(features))), chosen)
    (home / "l.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return LabelFile(home / "l.geojson", wanted, {"field": "kind"})


def _odd_attributes(home: Path, rng: np.random.Generator) -> LabelFile:
    """Attributes of every type that JSON has."""
    frame, wanted = _frame(rng)
    features = json.loads(frame[["kind", "geometry"]].to_crs("EPSG:4326").to_json())["features"]
    values = [
        "a",
        "",
        1,
        0,
        -1.5,
        2**40,
        2**70,
        1e300,
        True,
        False,
        None,
        [],
        ["a"],
        [1, 2],
        {},
        {"a": [1]},
        [[1], [2]],
    ]
    field = "kind"
    for extra in ("one", "two", "geometry", "Kind", "länge")[: int(rng.integers(1, 6))]:
        few = [values[n] for n in rng.integers(0, len(values), int(rng.integers(1, 4)))]
        for feature in features:
            feature["properties"][extra] = few[int(rng.integers(0, len(few)))]
            if rng.random() < 0.1:
                del feature["properties"][extra]
    if rng.random() < 0.4:
        field, wanted = str(rng.choice(["one", "none"])), None
    (home / "l.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return LabelFile(home / "l.geojson", wanted, {"field": field})


def _numbers(home: Path, rng: np.random.Generator) -> LabelFile:
    """Class numbers of which some are missing, with no field named."""
    frame, wanted = _frame(rng)
    numbers = {name: int(n) for name, n in zip(NAMES, rng.choice(2000, len(NAMES), replace=False) - 300, strict=True)}
    codes = pd.Series([numbers[name] for name in frame["kind"]], dtype="float")
    wanted = {(r, c, str(numbers[name])) for r, c, name in wanted}
    if rng.random() < 0.7:
        gone = frame.iloc[[-1]]
        codes.iloc[-1] = np.nan
        wanted -= _held(wanted, gone)
    frame = gpd.GeoDataFrame({"code": codes.astype("Int64")}, geometry=frame.geometry, crs=frame.crs)
    suffix = str(rng.choice(["gpkg", "geojson", "fgb"]))
    frame.to_crs("EPSG:4326").to_file(home / f"l.{suffix}")
    few = codes.dropna().nunique() < 2
    return LabelFile(home / f"l.{suffix}", None if few else wanted, {})


def _layers(home: Path, rng: np.random.Generator) -> LabelFile:
    """Several layers, alike or not, one named or none."""
    frame, wanted = _frame(rng)
    frame = frame[["kind", "geometry"]]
    parts = [frame.iloc[0::2], frame.iloc[1::2]]
    other = rng.random() < 0.4
    for number, part in enumerate(parts):
        named = part.rename(columns={"kind": "sort"}) if other and number else part
        named.to_crs(str(rng.choice(CRSS))).to_file(home / "l.gpkg", layer=f"layer {number}")
    if rng.random() < 0.4:
        chosen = int(rng.integers(0, 3))
        if chosen == 2 or parts[chosen]["kind"].nunique() < 2:
            return LabelFile(home / "l.gpkg", None, {"layer": f"layer {chosen}"})
        return LabelFile(home / "l.gpkg", _held(wanted, parts[chosen]), {"layer": f"layer {chosen}"})
    return LabelFile(home / "l.gpkg", None if other else wanted, {})


def _reference_systems(home: Path, rng: np.random.Generator) -> LabelFile:
    """Reference systems that are none, local, far away, three-dimensional or a lie."""
    frame, _ = _frame(rng)
    frame = frame[["kind", "geometry"]]
    crs = ODD_CRSS[int(rng.integers(0, len(ODD_CRSS)))]
    frame = frame.set_crs(crs, allow_override=True) if rng.random() < 0.5 or crs is None else frame.to_crs("EPSG:4326")
    suffix = str(rng.choice(["gpkg", "fgb", "geojson"]))
    if frame.crs is not None and rng.random() < 0.3 and not frame.crs.is_engineering and frame.crs.is_projected:
        frame = frame.translate(float(rng.normal()) * 10**7).to_frame("geometry").assign(kind=frame["kind"])
    frame.to_file(home / f"l.{suffix}")
    return LabelFile(home / f"l.{suffix}", None, {"field": "kind"})


def _table(home: Path, rng: np.random.Generator) -> LabelFile:
    """Dialects of text tables."""
    frame, wanted = _frame(rng)
    frame = frame[frame.geom_type == "Point"]
    few = frame["kind"].nunique() < 2
    wanted = _held(wanted, frame)
    own = bool(rng.random() < 0.3)
    points = (frame if own else frame.to_crs("EPSG:4326")).geometry
    separator = str(rng.choice([",", ";", "\t", "|"]))
    comma = separator != "," and rng.random() < 0.5
    options = ["x,y", "Easting,Northing"] if own else ["lon,lat", "Longitude,Latitude", " lng , LAT", "X,Y"]
    heading = [*str(rng.choice(options)).split(","), "kind", "note"]
    encoding = str(rng.choice(["utf-8", "utf-8-sig", "utf-16"]))
    lines = [separator.join(heading)]
    for point, name in zip(points, frame["kind"], strict=True):
        numbers = [f"{value:.9f}".replace(".", "," if comma else ".") for value in (point.x, point.y)]
        lines.append(separator.join([*numbers, f'"{name}"', "x y"]))
    newline = str(rng.choice(["\n", "\r\n"]))
    text = newline.join(lines) + (newline if rng.random() < 0.5 else "")
    path = home / f"l.{rng.choice(['csv', 'tsv', 'txt'])}"
    path.write_bytes(text.encode(encoding))
    return LabelFile(path, None if few else wanted, {"field": "kind"})


def _broken_table(home: Path, rng: np.random.Generator) -> LabelFile:
    whole = _table(home, rng)
    content = bytearray(whole.path.read_bytes())
    for _ in range(int(rng.integers(1, 6))):
        where = int(rng.integers(0, len(content)))
        piece = [b'"', b",", b"\n", b"\x00", b"\xff", b";;", b"1e999", b"nan", b"", b"\r"][int(rng.integers(0, 10))]
        content[where : where + int(rng.integers(0, 3))] = piece
    if rng.random() < 0.3:
        del content[int(rng.integers(0, len(content))) :]
    whole.path.write_bytes(content)
    return LabelFile(whole.path, None, whole.options if rng.random() < 0.5 else {})


def _broken_json(home: Path, rng: np.random.Generator) -> LabelFile:
    whole = (_odd_attributes, _odd_geometries)[int(rng.integers(0, 2))](home, rng)
    text = whole.path.read_text()
    for _ in range(int(rng.integers(1, 5))):
        where = int(rng.integers(0, len(text)))
        pieces = [
            "{",
            "}",
            "[",
            "]",
            ",",
            '"',
            "null",
            "NaN",
            "-Infinity",
            "1e400",
            "\\u0000",
            "[[[[",
            "\\",
            '"type":',
            "",
        ]
        text = text[:where] + pieces[int(rng.integers(0, len(pieces)))] + text[where + int(rng.integers(0, 4)) :]
    if rng.random() < 0.3:
        text = text[: int(rng.integers(0, len(text)))]
    whole.path.write_text(text)
    return LabelFile(whole.path, None, whole.options)


def _broken_bytes(home: Path, rng: np.random.Generator) -> LabelFile:
    whole = (_vector, _layers, _raster)[int(rng.integers(0, 3))](home, rng)
    content = bytearray(whole.path.read_bytes())
    if rng.random() < 0.4:
        del content[int(rng.integers(0, len(content))) :]
    for _ in range(int(rng.integers(1, 20)) if content else 0):
        content[int(rng.integers(0, len(content)))] ^= 1 << int(rng.integers(0, 8))
    whole.path.write_bytes(content)
    return LabelFile(whole.path, None, whole.options)


def _curves(home: Path, rng: np.random.Generator) -> LabelFile:
    """Well-known text of every kind of geometry, through a virtual file."""
    x, y = place(10, 10)
    kinds = [
        f"CURVEPOLYGON(CIRCULARSTRING({x} {y},{x + 40} {y + 40},{x + 80} {y},{x + 40} {y - 40},{x} {y}))",
        f"CIRCULARSTRING({x} {y},{x + 40} {y + 40},{x + 80} {y})",
        f"COMPOUNDCURVE(({x} {y},{x + 50} {y}),CIRCULARSTRING({x + 50} {y},{x + 60} {y + 9},{x + 70} {y}))",
        f"MULTISURFACE((({x} {y},{x + 50} {y},{x + 50} {y + 50},{x} {y})))",
        f"MULTICURVE(({x} {y},{x + 50} {y}))",
        f"TIN Z((({x} {y} 0,{x + 50} {y} 0,{x + 50} {y + 50} 0,{x} {y} 0)))",
        f"POLYHEDRALSURFACE Z((({x} {y} 0,{x + 50} {y} 0,{x + 50} {y + 50} 0,{x} {y} 0)))",
        f"TRIANGLE(({x} {y},{x + 50} {y},{x + 50} {y + 50},{x} {y}))",
        f"POINT M({x} {y} 5)",
        f"POINT ZM({x} {y} 5 6)",
        f"LINESTRING M({x} {y} 5,{x + 30} {y} 6)",
        "POINT EMPTY",
        "GEOMETRYCOLLECTION EMPTY",
        f"GEOMETRYCOLLECTION(CIRCULARSTRING({x} {y},{x + 40} {y + 40},{x + 80} {y}),POINT({x} {y}))",
        f"POLYGON(({x} {y},{x + 50} {y},{x + 50} {y + 50}))",
        "nonsense",
    ]
    plain = [f"POINT({' '.join(map(str, place(30, 30)))})", f"POINT({' '.join(map(str, place(35, 50)))})"]
    chosen = [kinds[n] for n in rng.integers(0, len(kinds), int(rng.integers(1, 3)))]
    rows = [f'"{text}",{name}' for text, name in zip([*plain, *chosen], "abab", strict=False)]
    (home / "t.csv").write_text("\n".join(["WKT,kind", *rows]) + "\n")
    (home / "l.vrt").write_text(
        '<OGRVRTDataSource><OGRVRTLayer name="t"><SrcDataSource relativeToVRT="1">t.csv</SrcDataSource>'
        "<LayerSRS>EPSG:32618</LayerSRS><GeometryType>wkbUnknown</GeometryType>"
        '<GeometryField encoding="WKT" field="WKT"/></OGRVRTLayer></OGRVRTDataSource>'
    )
    return LabelFile(home / "l.vrt", None, {"field": "kind"})


def _raster(home: Path, rng: np.random.Generator) -> LabelFile:
    """Types, nodata values and grids of label rasters."""
    dtype = str(
        rng.choice(["uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float32", "float64"])
    )
    limits = (0, 100) if np.dtype(dtype).kind != "i" else (-100, 100)
    values = np.zeros((20, 30), dtype)
    empty = [None, 0, 99, np.nan][int(rng.integers(0, 4 if np.dtype(dtype).kind == "f" else 3))]
    if empty is not None:
        values[:] = empty
    numbers = [n for n in range(*limits) if n not in (0, 99)] + ([0] if empty not in (None, 0) else [])
    for number in rng.choice(numbers, int(rng.integers(2, 6)), replace=False):
        row, col = int(rng.integers(0, 18)), int(rng.integers(0, 28))
        values[row : row + 4, col : col + 5] = number
    same = rng.random() < 0.5
    transform = GRID.affine @ Affine.scale(2)
    profile = {"crs": "EPSG:32618", "transform": GRID.affine if same else transform, "nodata": empty}
    large = (
        np.kron(values, np.ones((2, 2), dtype))
        if not np.isnan(values.astype(float)).any()
        else values.repeat(2, 0).repeat(2, 1)
    )
    content = large if same else values
    with rasterio.open(
        home / "l.tif",
        "w",
        driver="GTiff",
        count=1,
        dtype=dtype,
        height=content.shape[0],
        width=content.shape[1],
        **profile,
    ) as file:
        file.write(content, 1)
    valid = ~np.isnan(large) if empty is not None and np.isnan(empty) else large != (empty or 0)
    wanted = {(int(r), int(c), str(int(large[r, c]))) for r, c in np.argwhere(valid)}
    return LabelFile(home / "l.tif", wanted if len({name for _, _, name in wanted}) > 1 else None, {})


def _no_labels(home: Path, rng: np.random.Generator) -> LabelFile:
    """Files of another kind under the name of one."""
    suffix = str(
        rng.choice(["gpkg", "geojson", "json", "shp", "fgb", "csv", "txt", "tif", "kml", "gml", "vrt", "xlsx", ""])
    )
    contents = [
        b"", b"hello\n", b"{}", b"[]", b"null", b'{"type": "FeatureCollection"}', b"<kml></kml>", bytes(1000),
        b'{"type": "FeatureCollection", "features": []}', b'{"type": "Feature", "geometry": null, "properties": null}',
        b'{"type": "Point", "coordinates": [-75, 36]}', b"PK\x03\x04" + bytes(50), rng.bytes(500), b"[" * 100_000,
        b'<?xml version="1.0"?><x/>', b"lon,lat,kind\n", b"lon,lat\n-75,36\n", b"SQLite format 3\x00" + bytes(84),
    ]  # fmt: skip
    path = home / (f"l.{suffix}" if suffix else "l")
    path.write_bytes(contents[int(rng.integers(0, len(contents)))])
    return LabelFile(path, None, {})


KINDS: tuple[Callable[[Path, np.random.Generator], LabelFile], ...] = (
    _vector, _odd_geometries, _odd_attributes, _numbers, _layers, _reference_systems, _table, _broken_table,
    _broken_json, _broken_bytes, _curves, _raster, _no_labels,
)  # fmt: skip
