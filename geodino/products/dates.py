"""When a scene or a product was taken: the narrowest interval that is certainly right."""

import json
import os
from datetime import UTC, datetime
from pathlib import Path

from tiles.scenes.dates import interval
from tiles.scenes.scene import Scene

# No scene from the air or from space is older; a bound where a scene says nothing of its date.
_EARLIEST = datetime(1858, 1, 1, tzinfo=UTC)
_LATEST = datetime(2100, 1, 1, tzinfo=UTC)


def times_of(source: Scene | Path) -> tuple[datetime, datetime]:
    """First and last moment of a scene, or of a product as the STAC item beside it has them."""
    if isinstance(source, Scene):
        return times_of_scenes((source,))
    # Without an item, of a product's dates is known that they are not younger than its file.
    start, end = min(_EARLIEST, _age(source)), _age(source)
    item = source.with_name(source.name + ".stac.json")
    try:
        known = json.loads(item.read_text(encoding="utf-8"))["properties"]
    except (OSError, ValueError, KeyError, TypeError):
        return start, end
    first, last = (known.get("datetime") or known.get(f"{which}_datetime") for which in ("start", "end"))
    begun, ended = interval(first), interval(last)
    return begun[0] if begun else start, ended[1] if ended else end


def times_of_scenes(scenes: tuple[Scene, ...]) -> tuple[datetime, datetime]:
    """First and last moment at which any of the scenes was taken."""
    known = [times for scene in scenes if (times := interval(scene.datetime))]
    if len(known) < len(scenes):
        # A picture is not younger than its file.
        ages = [_age(Path(scene.source)) for scene in scenes if os.path.exists(scene.source)]
        latest = max(ages) if len(ages) == len(scenes) else _LATEST
        known.append((min(_EARLIEST, latest), latest))
    return min(start for start, _ in known), max(end for _, end in known)


def _age(path: Path) -> datetime:
    """Second in which a file was last changed."""
    return datetime.fromtimestamp(int(path.stat().st_mtime), UTC)
