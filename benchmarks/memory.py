"""Peak memory of a command on rasters of one width and very different heights, each in its own process.

    python benchmarks/memory.py [--command features|segment] [--width 5000] [--heights 5000 100000] [--suffix .zarr]

The tall raster is a VRT that repeats one file, made on the spot. Prints the ratio of the peaks (resident set of the
whole process, model and libraries included) and the peak above that of a process that only loads the model.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import geopandas
import numpy as np
import rasterio
from rasterio.transform import from_origin
from shapely.geometry import Point

CHILD = """
import resource, sys
from geodino.backbones.backbone import untrained_backbone
backbone = untrained_backbone({model})
if sys.argv[1] != "-":
    import geodino
    {work}
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
WORK = {
    "features": "geodino.features(sys.argv[1], sys.argv[2], backbone=backbone)",
    "segment": "geodino.segment(sys.argv[1], sys.argv[2], labels=sys.argv[3], backbone=backbone)",
}
# A shallow model of full width: memory for buffers is what a ViT-S needs, time is a tenth of it.
MODEL = '"vit_small_patch16_dinov3", depth=1'


def make_block(path: Path, height: int, width: int) -> None:
    """A tiled raster to be repeated."""
    array = np.random.default_rng(0).integers(0, 255, (3, height, width), dtype=np.uint8)
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        count=3,
        height=height,
        width=width,
        dtype="uint8",
        crs="EPSG:32633",
        transform=from_origin(5e5, 5e6, 10, 10),
        tiled=True,
        blockxsize=512,
        blockysize=512,
        compress="DEFLATE",
        photometric="RGB",
    ) as out:
        out.write(array)


def make_tall(path: Path, block: Path, times: int) -> None:
    """A VRT of ``times`` copies of ``block`` below each other."""
    with rasterio.open(block) as file:
        height, width = file.shape
        wkt = file.crs.to_wkt()
    bands = []
    for number, color in enumerate(("Red", "Green", "Blue"), 1):
        sources = "".join(
            f"<SimpleSource><SourceFilename relativeToVRT='1'>{block.name}</SourceFilename>"
            f"<SourceBand>{number}</SourceBand>"
            f"<SrcRect xOff='0' yOff='0' xSize='{width}' ySize='{height}'/>"
            f"<DstRect xOff='0' yOff='{i * height}' xSize='{width}' ySize='{height}'/></SimpleSource>"
            for i in range(times)
        )
        head = f"<VRTRasterBand dataType='Byte' band='{number}'><ColorInterp>{color}</ColorInterp>"
        bands.append(f"{head}{sources}</VRTRasterBand>")
    path.write_text(
        f"<VRTDataset rasterXSize='{width}' rasterYSize='{height * times}'><SRS>{wkt}</SRS>"
        f"<GeoTransform>500000, 10, 0, 5000000, 0, -10</GeoTransform>{''.join(bands)}</VRTDataset>"
    )


def make_labels(path: Path, block: Path) -> None:
    """Points of four classes, spread over the first copy of the block."""
    with rasterio.open(block) as file:
        (height, width), affine, crs = file.shape, file.transform, file.crs
    places = np.random.default_rng(0).uniform(0, (width, height), (40, 2))
    points = [Point(*(affine @ (float(x), float(y)))) for x, y in places]
    geopandas.GeoDataFrame({"kind": [str(i % 4) for i in range(40)]}, geometry=points, crs=crs).to_file(path)


def peak_mb(work: str, scene: str, output: Path | str, labels: Path) -> float:
    """Peak resident memory of a process that does the work."""
    command = [sys.executable, "-c", CHILD.format(model=MODEL, work=WORK[work]), scene, str(output), str(labels)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(result.stdout.split()[-1]) / 1024


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--command", default="features", choices=sorted(WORK))
    parser.add_argument("--width", type=int, default=5000)
    parser.add_argument("--heights", type=int, nargs=2, default=(5000, 100_000))
    parser.add_argument("--suffix", default=".zarr", choices=(".zarr", ".tif"))
    parser.add_argument("--small", action="store_true", help="a fifth of the width, for CI")
    options = parser.parse_args()
    width = 1000 if options.small else options.width
    suffix = options.suffix if options.command == "features" else ".tif"
    step = min(options.heights)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_block(folder / "block.tif", step, width)
        labels = folder / "labels.gpkg"
        make_labels(labels, folder / "block.tif")
        base = peak_mb(options.command, "-", "-", labels)
        peaks = []
        for height in options.heights:
            make_tall(folder / f"{height}.vrt", folder / "block.tif", height // step)
            peaks.append(peak_mb(options.command, str(folder / f"{height}.vrt"), folder / f"{height}{suffix}", labels))
        low, high = options.heights
        print(
            f"memory {options.command}{suffix}: {width} × {high} / {width} × {low} = {peaks[1] / peaks[0]:.3f} "
            f"({peaks[1]:.0f} MB and {peaks[0]:.0f} MB; model and libraries alone {base:.0f} MB, "
            f"so {peaks[1] - base:.0f} MB above them)"
        )


if __name__ == "__main__":
    main()
