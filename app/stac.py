"""Search of a STAC catalogue, for analysts who are online: the one place of the app that asks another server."""

import json
from pathlib import Path

import pystac
import pystac_client
import requests
from pystac_client.exceptions import APIError

from tiles.errors import InputError

MOST_ITEMS = 20
TIMEOUT_S = 20


def search(address: str, collection: str, bounds: tuple[float, float, float, float], dates: str) -> list[pystac.Item]:
    """Items of a collection over some bounds and dates, the least clouded first.

    Raises:
        InputError: Where the catalogue cannot be asked; the sentence says why.
    """
    if not address.startswith("https://"):
        raise InputError("A catalogue's address begins with https://")
    try:
        client = pystac_client.Client.open(address, timeout=TIMEOUT_S)
        found = list(client.search(collections=[collection], bbox=bounds, datetime=dates, max_items=MOST_ITEMS).items())
    except (APIError, requests.RequestException, pystac.STACError, ValueError) as error:
        raise InputError(f"{address} did not answer the search ({type(error).__name__}); are you online?") from error
    if not found:
        raise InputError("Nothing found there for these dates; widen the box or the dates.")
    return sorted(found, key=lambda item: float(item.properties.get("eo:cloud_cover", 101)))


def write_item(item: pystac.Item, folder: Path) -> Path:
    """Write an item where `tiles.scene.open_scene` can read it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{''.join(c for c in item.id if c.isalnum() or c in '-_')[:120]}.json"
    path.write_text(json.dumps(item.to_dict(transform_hrefs=True)))
    return path
