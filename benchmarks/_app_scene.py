"""The scene of the web map's benchmarks: a COG of three uint16 bands with texture at every scale, made once.

It is kept in the system's folder for temporary files, as 16,384 × 16,384 pixels take longer to make than to measure.
"""

import tempfile
from pathlib import Path

import numpy as np
from odc.geo.geobox import GeoBox
from rasterio.transform import from_origin

from tiles.writing.cog import CogWriter

FULL, SMALL = 16_384, 4096


def make_cog(side: int) -> Path:
    """The COG of ``side × side`` pixels of 10 m."""
    folder = Path(tempfile.gettempdir()) / "geodino-benchmarks"
    folder.mkdir(exist_ok=True)
    path = folder / f"scene-{side}.tif"
    if path.exists():
        return path
    geobox = GeoBox((side, side), from_origin(400_000, 5_200_000, 10, 10), "EPSG:32631")
    rng = np.random.default_rng(0)
    columns = np.arange(side)
    with CogWriter(path, geobox, dtype="uint16", nodata=0, count=3, descriptions=("red", "green", "blue")) as out:
        for row in range(0, side, 512):
            rows = np.arange(row, min(row + 512, side))[:, None]
            wave = 1500 + 600 * np.sin(rows / 300) * np.cos(columns / 230)
            bands = [wave + 200 * band + rng.normal(0, 60, wave.shape) for band in range(3)]
            out.write(row, np.stack(bands).astype(np.uint16))
    return path
