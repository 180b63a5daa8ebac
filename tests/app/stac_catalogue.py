"""A STAC API with two items of one scene and their rasters: `python stac_catalogue.py FOLDER` prints its address.

In a process of its own, because GDAL holds Python's lock while it waits for an answer.
"""

import json
import re
import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

BANDS = {"red": 0, "green": 1, "blue": 2}


class Catalogue(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def answer(self, record: object, kind: str = "application/json") -> None:
        body = json.dumps(record).encode()
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        if self.path != "/":
            return self.part()
        spec = "https://api.stacspec.org/v1.0.0"
        self.answer({
            "type": "Catalog", "id": "here", "stac_version": "1.0.0", "description": "two scenes",
            "conformsTo": [f"{spec}/core", f"{spec}/item-search"],
            "links": [
                {"rel": "self", "href": self.base, "type": "application/json"},
                {"rel": "search", "href": f"{self.base}/search", "type": "application/geo+json", "method": "POST"},
            ],
        })  # fmt: skip

    def part(self) -> None:
        """A file or the part of it that is asked for, as servers of rasters do."""
        file = Path(self.translate_path(self.path))
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if not file.is_file() or not asked:
            return super().do_GET()
        body = file.read_bytes()
        first, last = int(asked[1]), min(int(asked[2]), len(body) - 1)
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{last}/{len(body)}")
        self.send_header("Content-Length", str(last - first + 1))
        self.end_headers()
        self.wfile.write(body[first : last + 1])

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        found = [] if asked["collections"] == ["nothing"] else [self.item("cloudy", 80), self.item("clear", 2)]
        self.answer({"type": "FeatureCollection", "features": found, "links": []}, "application/geo+json")

    def item(self, name: str, cloud: int) -> dict[str, object]:
        assets = {
            band: {"href": f"{self.base}/{band}.tif", "type": "image/tiff; application=geotiff", "roles": ["data"],
                   "eo:bands": [{"name": band, "common_name": band}]}
            for band in BANDS
        }  # fmt: skip
        assets["nir"] = {**assets["red"], "href": "/etc/passwd"}
        assets["swir16"] = {**assets["red"], "href": f"{self.base}/other.vrt"}
        return {
            "type": "Feature", "stac_version": "1.0.0", "id": name, "collection": "scenes", "links": [],
            "geometry": {"type": "Point", "coordinates": [3.0, 45.1]}, "bbox": [3, 45, 3.1, 45.2], "assets": assets,
            "properties": {"datetime": "2024-07-01T10:00:00Z", "platform": "sentinel-2a", "eo:cloud_cover": cloud,
                           "s2:processing_baseline": "05.09"},
        }  # fmt: skip


if __name__ == "__main__":
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Catalogue, directory=sys.argv[1])) as server:
        print(f"http://127.0.0.1:{server.server_address[1]}", flush=True)
        server.serve_forever()
