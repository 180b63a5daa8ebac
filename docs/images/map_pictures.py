"""Make the pictures of docs/segmentation.md and docs/change.md: `python docs/images/map_pictures.py [--backbone B]`.

Imagery: the Landsat 7 scene of San Francisco that the package localtileserver carries (USGS). Its second date is
semi-synthetic (geodino.demo.second_date). Good cases beside bad ones, each made by the public functions.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import rasterio
from PIL import Image
from rasterio.windows import Window
from scipy.ndimage import rotate

import geodino
from geodino.backbones.backbone import load_backbone
from geodino.demo.imagery import SAN_FRANCISCO_POINTS, san_francisco, write_points
from geodino.demo.page import class_picture, rgb_picture
from geodino.demo.second_date import make_second_date

HERE = Path(__file__).resolve().parent
LAND = Window(380, 540, 640, 640)
CITY = Window(420, 800, 400, 400)


def cut(source: Path, window: Window, target: Path, values: np.ndarray | None = None) -> Path:
    """A window of a raster, or other values on its grid."""
    with rasterio.open(source) as file:
        data = file.read(window=window) if values is None else values
        with rasterio.open(
            target, "w", driver="GTiff", height=data.shape[1], width=data.shape[2], count=3, dtype="uint8",
            crs=file.crs, transform=file.window_transform(window),
        ) as out:  # fmt: skip
            out.write(data)
            out.descriptions = ("nir", "red", "green")
    return target


def panel(*pictures: np.ndarray) -> Image.Image:
    """Pictures side by side on white."""
    height = min(picture.shape[0] for picture in pictures)
    columns = []
    for picture in pictures:
        alpha = picture[:height, :, 3:] / 255
        columns.append((picture[:height, :, :3] * alpha + 255 * (1 - alpha)).astype(np.uint8))
        columns.append(np.full((height, 8, 3), 255, np.uint8))
    return Image.fromarray(np.concatenate(columns[:-1], axis=1))


def main() -> None:
    """Make all four."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone")
    options = parser.parse_args()
    backbone = load_backbone(options.backbone)
    names = "nir,red,green" if "nir" in backbone.bands else "red,green,blue"
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        source = san_francisco().path
        land = cut(source, LAND, folder / "land.tif")
        scene = geodino.open_scene(land, band_names=names.split(","))
        for name, classes in (("good", list(SAN_FRANCISCO_POINTS)), ("bad", ["water", "woodland"])):
            points = {
                kind: tuple((c - LAND.col_off, r - LAND.row_off) for c, r in SAN_FRANCISCO_POINTS[kind])
                for kind in classes
            }
            write_points(land, points, folder / f"{name}.geojson")
            out = folder / f"{name}.tif"
            geodino.segment(scene, out, labels=folder / f"{name}.geojson", backbone=backbone)
            panel(rgb_picture(land, (1, 2, 3)), class_picture(out)).save(HERE / f"segmentation_{name}.jpg", quality=82)
        first = cut(source, CITY, folder / "first.tif")
        with rasterio.open(first) as file:
            values = file.read()
        made = make_second_date(values, np.ones(values.shape[1:], bool), np.random.default_rng(3), patches=8)
        turned = np.stack([rotate(band, 1.5, reshape=False, mode="nearest", order=3) for band in made.values])
        for name, later in (("good", made.values), ("bad", turned)):
            second = cut(source, CITY, folder / f"{name}_second.tif", np.clip(later, 1, 255).astype(np.uint8))
            out = folder / f"{name}_change.tif"
            pair = [geodino.open_scene(path, band_names=names.split(",")) for path in (first, second)]
            result = geodino.change(*pair, out, backbone=backbone)
            print(name, *result.notes, f"threshold {result.threshold.value:.2f}", sep="\n  ")
            truth = np.repeat((255 * made.truth)[..., None], 4, axis=2)
            truth[..., 3] = 255
            panel(rgb_picture(first, (1, 2, 3)), rgb_picture(second, (1, 2, 3)), truth, class_picture(out)).save(
                HERE / f"change_{name}.jpg", quality=82
            )


if __name__ == "__main__":
    main()
