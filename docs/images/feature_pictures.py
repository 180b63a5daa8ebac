"""Make the pictures of docs/features.md: `python docs/images/feature_pictures.py [--backbone B]`.

Imagery: the Landsat 7 scene of San Francisco that the package localtileserver carries (USGS). Each picture is made by
the public functions.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import rasterio
from map_pictures import cut, panel
from PIL import Image
from rasterio.windows import Window

import geodino
from geodino.backbones.backbone import load_backbone
from geodino.demo.imagery import san_francisco
from geodino.demo.page import rgb_picture
from geodino.dense.settings import DenseSettings

HERE = Path(__file__).resolve().parent
PLACE = Window(380, 540, 640, 640)
CLICK = (190, 440)  # the long park, by column and row of the cut


def shades(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Values as shades of grey, RGBA; transparent where unknown."""
    share = np.clip((values - low) / (high - low), 0, 1)
    grey = np.nan_to_num(share * 255).astype(np.uint8)
    return np.stack([grey, grey, grey, np.where(np.isfinite(values), 255, 0).astype(np.uint8)], axis=-1)


def main() -> None:
    """Make all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone")
    backbone = load_backbone(parser.parse_args().backbone)
    names = "nir,red,green" if "nir" in backbone.bands else "red,green,blue"
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        land = cut(san_francisco().path, PLACE, folder / "land.tif")
        scene = geodino.open_scene(land, band_names=names.split(","))
        coarse, fine = folder / "coarse.tif", folder / "fine.tif"
        pictures = {coarse: folder / "coarse.png", fine: folder / "fine.png"}
        for cube, upscale in ((coarse, 1), (fine, 2)):
            settings = DenseSettings(upscale=upscale)
            geodino.features(scene, cube, backbone=backbone, settings=settings, quicklook=pictures[cube])
        drawn = [
            np.asarray(Image.open(path).resize((640, 640), Image.Resampling.NEAREST)) for path in pictures.values()
        ]
        panel(rgb_picture(land, (1, 2, 3)), *drawn).save(HERE / "features_quicklook.jpg", quality=82)

        here = scene.geobox.affine @ (CLICK[0] + 0.5, CLICK[1] + 0.5)
        like = geodino.similar(scene, folder / "like.tif", at=[here], backbone=backbone)
        with rasterio.open(like) as file:
            score = file.read(1)
        picture = rgb_picture(land, (1, 2, 3)).copy()
        column, row = CLICK
        picture[row - 8 : row + 9, column - 1 : column + 2, :3] = (255, 40, 40)
        picture[row - 1 : row + 2, column - 8 : column + 9, :3] = (255, 40, 40)
        panel(picture, shades(score, np.nanpercentile(score, 1), 1)).save(HERE / "features_similar.jpg", quality=82)


if __name__ == "__main__":
    main()
