"""Dates of acquisition: where they are found, and the interval of time that a text of any precision means.

A date that no calendar has (30 February, month 13) is no date. Texts are compared by their intervals, never as text.
"""

import re
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta

_DATE = re.compile(r"(?<!\d)((?:19|20)\d{2})[-_.:/]?(\d{2})[-_.:/]?(\d{2})(?:[T ](\d{2}):?(\d{2}):?(\d{2}))?(?!\d)")
# Year and day of the year, as names of HLS and MODIS files have them: ``.2020153T100559.``, ``.A2020153.``.
_ORDINAL = re.compile(r"(?<=\.)A?((?:19|20)\d{2}\d{3})(T\d{6})?(?=\.)")
_COARSE = re.compile(r"(?:19|20)\d{2}(?:[-_]\d{2})?")  # a whole name that is a year or a month
# Metadata that states when the picture was taken, in lower case, without a driver's prefix (``NC_GLOBAL#``).
_TAKEN = (
    "acquisition_date",
    "acquisitiondate",
    "acquisitiondatetime",
    "acquisition_datetime",
    "date_acquired",
    "datatake_1_datatake_sensing_start",
    "sensing_time",
    "product_start_time",
    "time_coverage_start",
    "firstlinetime",
    "exif_datetimeoriginal",
)
# Metadata that may as well be the day of processing.
_WRITTEN = ("date", "tifftag_datetime", "exif_datetime")


def interval(text: object) -> tuple[datetime, datetime] | None:
    """First and last second, in UTC, that an ISO 8601 text may mean: a moment, a day, a month or a year.

    Returns:
        None where the text is no possible date.
    """
    if not isinstance(text, str):
        return None
    try:
        if len(text) > 10:
            moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
            moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
            return moment.astimezone(UTC), moment.astimezone(UTC)
        parts = [int(part) for part in text.split("-")]
        year, month, day = (*parts, 1, 1)[:3]
        start = datetime(year, month, day, tzinfo=UTC)
        if len(parts) > 2:
            after = start + timedelta(days=1)
        elif len(parts) > 1:
            after = start.replace(year=year + month // 12, month=month % 12 + 1)
        else:
            after = start.replace(year=year + 1)
        return start, after - timedelta(seconds=1)
    except (ValueError, OverflowError):
        return None


def year_of(text: str | None) -> int | None:
    """Year of a date of any precision; None where it is no date."""
    found = interval(text)
    return found[0].year if found else None


def certainly_before(one: str | None, other: str | None) -> bool:
    """Whether all that ``one`` may mean is earlier than all that ``other`` may mean."""
    first, second = interval(one), interval(other)
    return first is not None and second is not None and first[1] < second[0]


def first_date(text: str) -> str | None:
    """The first possible date in a text, ``YYYY-MM-DD`` or with a time in UTC; None where there is none."""
    for found in _DATE.finditer(text):
        year, month, day, hour, minute, second = found.groups()
        date = f"{year}-{month}-{day}"
        moment = f"{date}T{hour}:{minute}:{second}Z"
        if hour and interval(moment):
            return moment
        if interval(date):
            return date
    for found in _ORDINAL.finditer(text):
        day, time = found.groups()
        with suppress(ValueError):
            taken = datetime.strptime(day + (time or "T000000"), "%Y%jT%H%M%S")
            if taken.year == int(day[:4]):  # day 366 of other years would be the next year's first
                return f"{taken:%Y-%m-%dT%H:%M:%SZ}" if time else f"{taken:%Y-%m-%d}"
    return None


def acquired(tags: Mapping[str, str], names: Mapping[str, str], notes: list[str]) -> str | None:
    """ISO 8601 date or time of acquisition, or None; where it is from is said in a note.

    What states the acquisition counts first, then names; a date that may be that of processing counts only where there
    is no other.

    Args:
        tags: Metadata of the file.
        names: Names to look for dates in, by what they are called in the note, the best first.
        notes: Takes the decision.
    """
    known = {key.rpartition("#")[2].lower(): (key, text) for key, text in tags.items()}
    for name in _TAKEN:
        key, text = known.get(name, ("", ""))
        if date := _stated(text):
            notes.append(f"date {date}: from the metadata ({key})")
            return date
    for kind, name in names.items():
        if date := _coarse(name) or first_date(name):
            notes.append(f"date {date}: from the {kind}")
            return date
    for name in _WRITTEN:
        key, text = known.get(name, ("", ""))
        if date := _stated(text):
            notes.append(f"date {date}: from {key}, which may be the time of processing, since nothing else states one")
            return date
    return None


def _coarse(text: str) -> str | None:
    date = text.replace("_", "-")
    return date if _COARSE.fullmatch(text) and interval(date) else None


def _stated(text: str) -> str | None:
    """Date of a metadata value, a moment in UTC."""
    text = text.strip()
    found = interval(text) if len(text) > 10 else None
    return found[0].strftime("%Y-%m-%dT%H:%M:%SZ") if found else _coarse(text) or first_date(text)
