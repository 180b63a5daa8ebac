"""Search of a STAC catalogue, for analysts who are online: the one place of the app that asks another server."""

import json
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from app.store.access import LOCAL_HOSTS, is_remote_raster
from tiles.errors import InputError

if TYPE_CHECKING:
    import pystac

MOST_ITEMS = 20
TIMEOUT_S = 20


def search(address: str, collection: str, bounds: tuple[float, float, float, float], dates: str) -> "list[pystac.Item]":
    """Items of a collection over some bounds and dates, the least clouded first.

    Args:
        address: ``https://`` address of a STAC API; ``http://`` for one on this machine.
        collection: Name of the collection.
        bounds: West, south, east, north in degrees.
        dates: A date or an interval, as ``2024-06-01/2024-09-30``.

    Raises:
        InputError: Where the catalogue cannot be asked; the sentence says why.
    """
    # Slow to import, and seldom needed.
    import pystac
    import pystac_client
    import requests
    from pystac_client.exceptions import APIError

    parts = urlsplit(address)
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in LOCAL_HOSTS):
        raise InputError("A catalogue's address begins with https://")
    try:
        client = pystac_client.Client.open(address, timeout=TIMEOUT_S)
        found = list(client.search(collections=[collection], bbox=bounds, datetime=dates, max_items=MOST_ITEMS).items())
    except (APIError, requests.RequestException, pystac.STACError, ValueError) as error:
        raise InputError(f"{address} did not answer the search ({type(error).__name__}); are you online?") from error
    if not found:
        raise InputError("Nothing found there for these dates; widen the box or the dates.")
    return sorted(found, key=lambda item: float(item.properties.get("eo:cloud_cover", 101)))


def write_item(item: "pystac.Item", folder: Path) -> Path:
    """Write an item where `open_scene` can read it, with those assets only that are rasters on the web.

    A catalogue is somebody else's: it could name files of this machine.

    Raises:
        InputError: Where no asset is left.
    """
    record = item.to_dict(transform_hrefs=True)
    record["assets"] = {name: one for name, one in record["assets"].items() if is_remote_raster(one["href"])}
    record["links"] = []
    if not record["assets"]:
        raise InputError(f"{item.id} has no raster that can be read over https.")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{''.join(c for c in item.id if c.isalnum() or c in '-_')[:120]}.json"
    path.write_text(json.dumps(record))
    return path
