"""When a scene or a product was taken: the narrowest interval that is certainly right."""

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tiles.scenes.scene import Scene

# No scene from the air or from space is older; a bound where a scene says nothing of its date.
_EARLIEST = datetime(1858, 1, 1, tzinfo=UTC)
_LATEST = datetime(2100, 1, 1, tzinfo=UTC)


def interval(text: str) -> tuple[datetime, datetime]:
    """First and last second that an ISO 8601 text may mean: a moment, a day, a month or a year.

    Raises:
        ValueError: It is no such text.
    """
    if len(text) > 10:
        moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return moment, moment
    year, month, day = (*(int(part) for part in text.split("-")), None, None)[:3]
    start = datetime(year or 1, month or 1, day or 1, tzinfo=UTC)
    if day is not None:
        after = start + timedelta(days=1)
    elif month is not None:
        after = start.replace(year=start.year + month // 12, month=month % 12 + 1)
    else:
        after = start.replace(year=start.year + 1)
    return start, after - timedelta(seconds=1)


def times_of(source: Scene | Path) -> tuple[datetime, datetime]:
    """First and last moment of a scene, or of a product as the STAC item beside it has them."""
    if isinstance(source, Scene):
        return times_of_scenes((source,))
    # Without an item, of a product's dates is known that they are not younger than its file.
    start, end = min(_EARLIEST, _age(source)), _age(source)
    item = source.with_name(source.name + ".stac.json")
    if not item.exists():
        return start, end
    known = json.loads(item.read_text(encoding="utf-8"))["properties"]
    first, last = (known.get("datetime") or known.get(f"{which}_datetime") for which in ("start", "end"))
    return interval(first)[0] if first else start, interval(last)[1] if last else end


def times_of_scenes(scenes: tuple[Scene, ...]) -> tuple[datetime, datetime]:
    """First and last moment at which any of the scenes was taken."""
    known = [interval(text) for scene in scenes if (text := scene.datetime)]
    if len(known) < len(scenes):
        # A picture is not younger than its file.
        ages = [_age(Path(scene.source)) for scene in scenes if os.path.exists(scene.source)]
        latest = max(ages) if len(ages) == len(scenes) else _LATEST
        known.append((min(_EARLIEST, latest), latest))
    return min(start for start, _ in known), max(end for _, end in known)


def _age(path: Path) -> datetime:
    """Second in which a file was last changed."""
    return datetime.fromtimestamp(int(path.stat().st_mtime), UTC)
