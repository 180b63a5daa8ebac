"""What comes back from the map."""

from shapely.geometry import Point

from app.map.component import examples
from app.map.source import ClassColor


def test_examples_come_back_as_a_geodataframe_with_names() -> None:
    drawn = [
        {
            "type": "Feature",
            "geometry": {"type": "Point", "coordinates": [x, 45]},
            "properties": {"id": "x", "class": c},
        }
        for x, c in ((3, 2), (4, 9))
    ]
    features = {"type": "FeatureCollection", "features": drawn}
    frame = examples(features, (ClassColor(1, "water", (0, 0, 1)), ClassColor(2, "field", (0, 1, 0))))
    assert list(frame["class"]) == ["field"]
    assert list(frame["color"]) == ["#000100"]
    assert frame.geometry.iloc[0] == Point(3, 45)
    assert frame.crs.to_epsg() == 4326
    assert len(examples(None, ())) == 0
