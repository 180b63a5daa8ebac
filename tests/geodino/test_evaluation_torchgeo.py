"""torchgeo's data sets by name, on tiny files laid out as torchgeo expects them."""

import numpy as np
import pytest
import rasterio
from PIL import Image

from geodino.backbones.backbone import untrained_backbone
from geodino.evaluation.dataset import IGNORE
from geodino.evaluation.folders import Reading
from geodino.evaluation.open import open_data
from geodino.evaluation.run import EvaluationSettings, evaluate
from tiles.errors import InputError

RNG = np.random.default_rng(0)


def png(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(array, np.uint8)).save(path)


def tif(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    profile = {"driver": "GTiff", "count": len(array), "height": array.shape[1], "width": array.shape[2]}
    with rasterio.open(path, "w", **profile, dtype=array.dtype) as out:
        out.write(array)


@pytest.fixture
def eurosat(tmp_path):
    base = tmp_path / "ds/images/remote_sensing/otherDatasets/sentinel_2/tif"
    values = np.arange(13, dtype=np.uint16)[:, None, None] * 100 + np.zeros((13, 8, 8), np.uint16)
    for split, numbers in (("train", (1, 2, 3)), ("val", (4,)), ("test", (5, 6))):
        names = [f"{name}_{i}" for name in ("Forest", "River") for i in numbers]
        for name in names:
            tif(base / name.split("_")[0] / f"{name}.tif", values)
        (tmp_path / f"eurosat-{split}.txt").write_text("\n".join(f"{name}.jpg" for name in names))
    return tmp_path


def test_eurosat_has_its_units_bands_and_official_split(eurosat):
    images = open_data(f"EuroSAT={eurosat}")
    assert images.classes == ("Forest", "River") and len(images) == 12
    assert images.official.tolist() == ["train"] * 6 + ["val"] * 2 + ["test"] * 4
    assert images.labels.tolist() == [0, 0, 0, 1, 1, 1, 0, 1, 0, 0, 1, 1]
    # B04, B03, B02 hold 300, 200, 100 digital numbers = 0.03, 0.02, 0.01 reflectance, in equal display units
    red, green, blue = images.read(0).values[:, 0, 0]
    assert red == pytest.approx(1.5 * green) == pytest.approx(3 * blue) and 0 < blue < red < 1


def test_bands_that_a_set_does_not_have_are_refused(eurosat):
    with pytest.raises(InputError, match="EuroSAT has no band thermal"):
        open_data(f"EuroSAT={eurosat}", Reading(("red", "thermal")))


def test_missing_files_are_explained(tmp_path):
    with pytest.raises(InputError, match=r"the files of LoveDA are not in .*; put them there as torchgeo expects"):
        open_data(f"LoveDA={tmp_path}")


def test_loveda_has_no_label_where_its_masks_are_zero(tmp_path):
    mask = np.arange(64).reshape(8, 8) % 8
    for part, count in (("Train", 5), ("Val", 2)):
        for i in range(count):
            png(tmp_path / part / "Urban/images_png" / f"{i}.png", RNG.integers(0, 255, (8, 8, 3)))
            png(tmp_path / part / "Urban/masks_png" / f"{i}.png", mask)
        (tmp_path / part / "Rural").mkdir()
    images = open_data(f"LoveDA={tmp_path}")
    assert len(images.classes) == 7 and images.official.tolist() == ["train"] * 5 + ["test"] * 2
    assert images.read_mask(0)[0].tolist() == [IGNORE, 0, 1, 2, 3, 4, 5, 6]


def test_levircd_reads_both_dates_and_its_changes_are_found(tmp_path):
    """Where the second date turns white there is change: any features' difference must show it."""
    for split, count in (("train", 6), ("val", 2), ("test", 2)):
        for i in range(count):
            before = RNG.integers(40, 80, (32, 32, 3))
            after, mask = before.copy(), np.zeros((32, 32))
            left = RNG.integers(0, 16)
            after[:, left : left + 16] = 250
            mask[:, left : left + 16] = 255
            for folder, array in (("A", before), ("B", after), ("label", mask)):
                png(tmp_path / folder / f"{split}_{i}.png", array)
    images = open_data(f"LEVIRCD={tmp_path}")
    assert images.read(0).values.shape == (2, 3, 32, 32) and set(np.unique(images.read_mask(0))) == {0, 1}
    tiny = {"depth": 1, "embed_dim": 64, "num_heads": 1}
    backbone = untrained_backbone("vit_tiny_patch16_dinov3_qkvb", device="cpu", precision="fp32", **tiny)
    (result,) = evaluate(backbone, images, EvaluationSettings(with_floors=False, size=128), tmp_path / "out")
    assert (result.metric, result.split, result.test) == ("mIoU", "official", 2)
    assert result.value > 0.6


def test_oscd_stacks_bands_of_both_dates(tmp_path):
    top = "Onera Satellite Change Detection dataset - "
    bands = [f"B{i:02d}" for i in range(1, 13)] + ["B8A"]
    for split, cities in (("Train", "abcdef"), ("Test", "gh")):
        for city in cities:
            png(tmp_path / f"{top}{split} Labels" / city / "cm/cm.png", np.eye(8) * 255)
            for date in (1, 2):
                for number, band in enumerate(bands):
                    values = np.full((1, 8, 8), 1000 * date + number, np.uint16)
                    tif(tmp_path / f"{top}Images" / city / f"imgs_{date}_rect" / f"{band}.tif", values)
            (tmp_path / f"{top}Images" / city / "dates.txt").write_text("date_1: 20160101\ndate_2: 20180101\n")
    images = open_data(f"OSCD={tmp_path}")
    before, after = images.read(0).values
    assert before.shape == (3, 8, 8) and (after > before).all()
    assert images.official.tolist() == ["train"] * 6 + ["test"] * 2
    assert images.read_mask(0).sum() == 8
