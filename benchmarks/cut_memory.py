"""Peak memory of a cut on a small and on a large scene: a ratio that stays near 1.

The large scene is a VRT that shows the small one many times, so that it needs no room of its own. Run as
``python benchmarks/cut_memory.py [--small 5120] [--times 8]``.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from cut import write_scene

SCRIPT = """
import resource, sys
from tiles.cutting.cut import cut
from tiles.cutting.plan import CutSettings, Request
cut([Request(sys.argv[1])], sys.argv[2], CutSettings(256), workers=1)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
SOURCE = (
    '<SimpleSource><SourceFilename relativeToVRT="1">{name}</SourceFilename><SourceBand>{band}</SourceBand>'
    '<SourceProperties RasterXSize="{side}" RasterYSize="{side}" DataType="Byte" BlockXSize="512" BlockYSize="512"/>'
    '<SrcRect xOff="0" yOff="0" xSize="{side}" ySize="{side}"/>'
    '<DstRect xOff="{x}" yOff="{y}" xSize="{side}" ySize="{side}"/></SimpleSource>'
)


def write_mosaic(path: Path, name: str, side: int, times: int) -> None:
    """A VRT of ``times`` by ``times`` copies of a three-band raster."""
    whole = side * times
    bands = []
    for band, colour in enumerate(("Red", "Green", "Blue"), 1):
        places = [(x * side, y * side) for y in range(times) for x in range(times)]
        sources = "".join(SOURCE.format(name=name, band=band, side=side, x=x, y=y) for x, y in places)
        bands.append(
            f'<VRTRasterBand dataType="Byte" band="{band}" blockXSize="512" blockYSize="512">'
            f"<ColorInterp>{colour}</ColorInterp>{sources}</VRTRasterBand>"
        )
    path.write_text(
        f'<VRTDataset rasterXSize="{whole}" rasterYSize="{whole}"><SRS>EPSG:32633</SRS>'
        f"<GeoTransform>400000, 10, 0, 5000000, 0, -10</GeoTransform>{''.join(bands)}</VRTDataset>"
    )


def peak_megabytes(scene: Path, folder: Path) -> float:
    """Peak resident memory of cutting a scene in a process of its own."""
    environment = os.environ | {"GDAL_CACHEMAX": os.environ.get("GDAL_CACHEMAX", "512")}  # what the command line sets
    command = [sys.executable, "-c", SCRIPT, str(scene), str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    shutil.rmtree(folder)
    return int(done.stdout.split()[-1]) / 1024


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", type=int, default=5120, help="side of the small scene")
    parser.add_argument("--times", type=int, default=8, help="how many times larger the side of the large one is")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="geodino-bench-"))
    try:
        write_scene(folder / "small.tif", options.small, "uint8", "deflate")
        write_mosaic(folder / "same.vrt", "small.tif", options.small, 1)
        write_mosaic(folder / "large.vrt", "small.tif", options.small, options.times)
        small = peak_megabytes(folder / "same.vrt", folder / "T")
        large = peak_megabytes(folder / "large.vrt", folder / "T")
        print(
            f"peak memory of cutting {options.small * options.times}² over {options.small}²: {large / small:.2f} "
            f"({large:.0f} and {small:.0f} MB; aim 1.0)"
        )
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
