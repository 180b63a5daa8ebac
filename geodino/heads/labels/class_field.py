"""Which attribute of vector labels holds the class, and its classes."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from geodino.heads.legend import LARGEST_CLASS, Color, Legend
from tiles.errors import InputError

if TYPE_CHECKING:
    import geopandas as gpd
    import pandas as pd

COLOR_FIELD = "color"  # of vector labels: each class's own colour, as the web map writes it
_IDENTIFIERS = {"id", "fid", "objectid", "gid", "index", "uuid", "ogc_fid"}
_LARGEST_NUMBER = 2**53  # floats hold every whole number up to here


def choose_field(frame: "gpd.GeoDataFrame", field: str | None, path: Path) -> tuple[str, tuple[str, ...]]:
    """Attribute that holds the class, and a note when it was chosen rather than given.

    Raises:
        InputError: no such attribute, none usable, or several (the sentence lists them).
    """
    import pandas as pd

    columns = [str(column) for column in frame.columns if column != frame.geometry.name]
    if field is not None:
        if field not in columns:
            raise InputError(f"{path} has no field {field!r}; it has {', '.join(columns) or 'none at all'}")
        if not _plain(frame[field]):
            raise InputError(
                f"field {field!r} of {path} holds lists or the like; name one of single values with --field"
            )
        return field, ()

    def repeats(column: str) -> bool:
        distinct = frame[column].nunique()
        return 2 <= distinct <= LARGEST_CLASS and (distinct < len(frame) or len(frame) <= 10)

    named = (column for column in columns if column.lower() not in {*_IDENTIFIERS, COLOR_FIELD})
    usable = [column for column in named if _plain(frame[column]) and repeats(column)]
    types = pd.api.types
    texts = [c for c in usable if types.is_string_dtype(frame[c]) or types.is_object_dtype(frame[c])]
    numbers = [c for c in usable if types.is_integer_dtype(frame[c]) or types.is_bool_dtype(frame[c])]
    # Whole numbers of which some are missing come as floats.
    numbers = numbers or [c for c in usable if frame[c].isna().any() and _whole(frame[c])]
    candidates = texts or numbers
    if len(candidates) == 1:
        others = [column for column in texts + numbers if column != candidates[0]]
        beside = f" (also there: {', '.join(others)})" if others else ""
        return candidates[0], (f"classes are read from field {candidates[0]!r}{beside}",)
    if not candidates:
        raise InputError(
            f"{path} has no field that looks like a class, with two values or more; name one with --field: "
            f"{', '.join(columns)}"
        )
    raise InputError(f"{path} has several fields that may be the class; name one with --field: {', '.join(candidates)}")


def classify(
    frame: "gpd.GeoDataFrame", name: str, path: Path
) -> tuple["gpd.GeoDataFrame", NDArray[np.int64], Legend, tuple[str, ...]]:
    """Labels that have a class, the index of each one's class in the legend `[N]`, the legend and notes.

    Raises:
        InputError: no label has a class, or there are too many classes.
    """
    import pandas as pd

    values = frame[name]
    if pd.api.types.is_object_dtype(values) or pd.api.types.is_string_dtype(values):
        values = values.where(values.isna(), values.astype(str))
        known = values.notna() & (values.str.strip() != "")
    else:
        known = values.notna() & ~values.isin([np.inf, -np.inf])
    if not known.any():
        raise InputError(f"field {name!r} of {path} holds no value; name the one with the class with --field")
    gone = int((~known).sum())
    notes = (f"{gone:,} labels have no class in field {name!r} and are left out",) if gone else ()
    frame, values = frame[known], values[known]
    if pd.api.types.is_float_dtype(values) and _whole(values):
        values = values.astype("int64")
    codes, uniques = pd.factorize(values, sort=True)
    if len(uniques) > LARGEST_CLASS:
        raise InputError(
            f"field {name!r} of {path} has {len(uniques)} values and a map at most {LARGEST_CLASS} classes; merge some "
            "or name another with --field"
        )
    legend = Legend.of([str(value) for value in uniques], _own_colors(frame, values))
    return frame, codes.astype(np.int64), legend, notes


def _plain(column: "pd.Series") -> bool:
    """Whether each value is a single one: no list, mapping or bytes."""
    return not (
        column.dtype == object and any(isinstance(v, list | dict | tuple | set | bytes | np.ndarray) for v in column)
    )


def _whole(column: "pd.Series") -> bool:
    import pandas as pd

    if not pd.api.types.is_float_dtype(column):
        return False
    known = column.dropna()
    return bool((known.abs() < _LARGEST_NUMBER).all() and (known == known.round()).all())


def _own_colors(frame: "gpd.GeoDataFrame", values: "pd.Series[Any]") -> dict[str, Color]:
    """Colours that the labels bring along for their classes: ``#rrggbb`` in a field ``color``."""
    if COLOR_FIELD not in frame.columns:
        return {}
    pairs = zip(values, frame[COLOR_FIELD], strict=True)
    return {
        str(value): (int(text[1:3], 16), int(text[3:5], 16), int(text[5:7], 16))
        for value, text in pairs
        if isinstance(text, str) and re.fullmatch("#[0-9a-fA-F]{6}", text)
    }
