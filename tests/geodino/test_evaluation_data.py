"""Data sets, splits and floors on tiny generated images."""

import zipfile

import numpy as np
import pytest
import rasterio
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from rasterio.transform import from_origin

from geodino.backbones.normalize import Normalization
from geodino.evaluation.baselines import ImageStatistics, RandomConvolutions
from geodino.evaluation.dataset import IGNORE, ImageSet
from geodino.evaluation.extract import batches, load_batch
from geodino.evaluation.folders import Reading
from geodino.evaluation.open import open_data
from geodino.evaluation.split import split
from tiles.errors import InputError
from tiles.scenes.band import Pixels


def picture(path, colour, size=8):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (size, size), colour).save(path)


@pytest.fixture
def class_folder(tmp_path):
    for number, name in enumerate(("field", "forest", "water")):
        for i in range(6):
            picture(tmp_path / "data" / name / f"{i}.png", (40 * number, i, 255))
    return tmp_path / "data"


def zipped(folder, target, inside=""):
    with zipfile.ZipFile(target, "w") as out:
        for path in sorted(folder.rglob("*")):
            out.write(path, inside + path.relative_to(folder).as_posix())
    return target


@pytest.mark.parametrize("form", ["folder", "zip", "zip with a folder above"])
def test_classes_are_folders_wherever_they_lie(class_folder, tmp_path, form):
    if form == "folder":
        spec = class_folder
    else:
        spec = zipped(class_folder, tmp_path / "x.zip", "EuroSAT/2750/" if "above" in form else "")
    images = open_data(str(spec))
    assert images.classes == ("field", "forest", "water")
    assert images.labels.tolist() == [0] * 6 + [1] * 6 + [2] * 6
    pixels = images.read(8)  # forest/2.png
    assert pixels.values.dtype == np.float32 and pixels.valid.all()
    np.testing.assert_allclose(pixels.values[:, 0, 0], np.array([40, 2, 255]) / 255, rtol=1e-6)


def test_the_fingerprint_follows_the_images(class_folder):
    before = open_data(str(class_folder)).fingerprint
    assert open_data(str(class_folder)).fingerprint == before
    picture(class_folder / "water" / "more.png", (1, 2, 3))
    assert open_data(str(class_folder)).fingerprint != before


def test_one_class_is_refused(tmp_path):
    for i in range(6):
        picture(tmp_path / "only" / f"{i}.png", (0, 0, 0))
    with pytest.raises(InputError, match=r"has one class \(only\); a data set needs at least two"):
        open_data(str(tmp_path))


def test_an_empty_class_is_refused(class_folder, tmp_path):
    (class_folder / "desert").mkdir()
    for spec in (class_folder, zipped(class_folder, tmp_path / "x.zip")):
        with pytest.raises(InputError, match=r"class 'desert' of .* is empty; fill its folder or remove it"):
            open_data(str(spec))


def test_a_class_too_small_to_split_is_refused(class_folder):
    picture(class_folder / "desert" / "0.png", (0, 0, 0))
    with pytest.raises(InputError, match=r"class 'desert' of .* has 1 images; it needs 5"):
        open_data(str(class_folder))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: p.mkdir(), "holds no images"),
        (lambda p: p.write_bytes(b"no zip"), "neither a folder nor a zip"),
        (lambda p: None, "is no folder or zip, nor a torchgeo data set"),
    ],
)
def test_what_is_no_data_set_is_refused(tmp_path, make, message):
    make(tmp_path / "x")
    with pytest.raises(InputError, match=message):
        open_data(str(tmp_path / "x"))


def test_a_damaged_image_is_named(class_folder):
    (class_folder / "water" / "3.png").write_bytes(b"not a png")
    images = open_data(str(class_folder))
    with pytest.raises(InputError, match=r"water/3\.png cannot be read as an image"):
        images.read(images.keys.index("water/3.png"))


def test_bands_that_pictures_do_not_have_are_refused(class_folder):
    images = open_data(str(class_folder), Reading(("red", "nir")))
    with pytest.raises(InputError, match="is red, green, blue; the backbone also wants nir"):
        images.read(0)


def test_bands_come_in_the_backbones_order(class_folder):
    forward, back = (open_data(str(class_folder), Reading(order)) for order in (("red", "blue"), ("blue", "red")))
    assert np.array_equal(forward.read(7).values[::-1], back.read(7).values)


def write_raster(path, x, y, values=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.full((3, 8, 8), 100, np.uint8) if values is None else values
    profile = {"driver": "GTiff", "height": 8, "width": 8, "count": 3, "dtype": values.dtype, "crs": "EPSG:32633"}
    with rasterio.open(path, "w", **profile, transform=from_origin(x, y, 10, 10), photometric="RGB") as out:
        out.write(values)


def test_spatial_splits_keep_blocks_of_ground_together(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(120):  # twenty places 30 km apart, six images within a few hundred metres of each
        place = i % 20
        x, y = 300_000 + 30_000 * (place % 5), 5_000_000 + 30_000 * (place // 5)
        write_raster(tmp_path / "ab"[i % 2] / f"{i}.tif", x + rng.uniform(0, 300), y + rng.uniform(0, 300))
    images = open_data(str(tmp_path))
    parts = split(images, seed=3)
    assert parts.kind == "spatial"
    where = np.round(images.positions, 1).tolist()
    sides = {name: {tuple(where[i]) for i in getattr(parts, name)} for name in ("train", "val", "test")}
    assert not sides["train"] & sides["test"] and not sides["val"] & sides["test"]


def test_rasters_of_unknown_units_are_refused_rather_than_stretched_one_by_one(tmp_path):
    for name in "ab":
        for i in range(5):
            write_raster(tmp_path / name / f"{i}.tif", 0, 0, np.full((3, 8, 8), 700 * i, np.uint16))
    with pytest.raises(InputError, match=r"a/0\.tif does not say its units; name the sensor with --sensor"):
        open_data(str(tmp_path)).read(0)


def toy(labels, positions=None, official=None):
    labels = np.asarray(labels)
    keys = tuple(map(str, range(len(labels))))
    read = lambda i: Pixels(np.zeros((1, 2, 2), np.float32), np.ones((2, 2), bool))  # noqa: E731
    return ImageSet("toy", keys, ("a", "b", "c"), read, "0", labels, positions=positions, official=official)


@settings(deadline=None, max_examples=30)
@given(counts=st.lists(st.integers(5, 40), min_size=3, max_size=3), seed=st.integers(0, 9))
def test_a_split_is_a_seeded_partition_balanced_by_class(counts, seed):
    images = toy(np.repeat([0, 1, 2], counts))
    parts = split(images, seed)
    assert sorted(np.concatenate([parts.train, parts.val, parts.test])) == list(range(len(images)))
    again = split(images, seed)
    assert all(np.array_equal(getattr(parts, name), getattr(again, name)) for name in ("train", "val", "test"))
    for side in (parts.val, parts.test):
        for number, count in enumerate(counts):
            assert abs((images.labels[side] == number).sum() - count / 5) < 1
    assert parts.kind == "random"


def test_another_seed_is_another_split():
    images = toy(np.repeat([0, 1, 2], 30))
    assert split(images, 0).test.tolist() != split(images, 1).test.tolist()


def test_the_official_split_is_kept_and_gets_a_validation_part_where_it_has_none():
    official = np.array(["train"] * 60 + ["test"] * 30)
    parts = split(toy(np.tile([0, 1, 2], 30), official=official))
    assert parts.test.tolist() == list(range(60, 90)) and parts.kind == "official"
    assert len(parts.val) == 12 and sorted([*parts.train, *parts.val]) == list(range(60))


class TestMasks:
    def make(self, folder, masks, masks_folder="labels", mode=None):
        (folder / masks_folder).mkdir(parents=True)
        for i, mask in enumerate(masks):
            picture(folder / "images" / f"{i}.png", (i, 0, 0))
            Image.fromarray(np.asarray(mask, np.uint8), mode).save(folder / masks_folder / f"{i}.png")
        return open_data(str(folder))

    def test_numbers_are_classes_and_255_is_no_label(self, tmp_path):
        masks = [np.array([[0, 1], [3, 255]])] * 5
        images = self.make(tmp_path, masks)
        assert images.classes == ("0", "1", "3")
        assert images.read_mask(0).tolist() == [[0, 1], [2, IGNORE]]
        assert "255 is taken as no label" in images.notes[0]

    def test_black_and_white_are_two_classes(self, tmp_path):
        images = self.make(tmp_path, [np.array([[0, 255], [0, 255]])] * 5, "masks")
        assert images.read_mask(2).tolist() == [[0, 1], [0, 1]]

    def test_colours_are_classes(self, tmp_path):
        mask = np.zeros((2, 2, 3), np.uint8)
        mask[0, 1] = (255, 120, 80)
        images = self.make(tmp_path, [mask] * 5)
        assert images.classes == ("#000000", "#ff7850")
        assert images.read_mask(0).tolist() == [[0, 1], [0, 0]]

    def test_grey_with_many_values_is_cut_at_127(self, tmp_path):
        images = self.make(tmp_path, [np.arange(256).reshape(16, 16)] * 5)
        assert (images.read_mask(0).ravel() == (np.arange(256) > 127)).all()
        assert "cut at 127" in images.notes[0]

    def test_an_image_without_a_mask_is_named(self, tmp_path):
        self.make(tmp_path, [np.eye(2)] * 5)
        picture(tmp_path / "images" / "lonely.png", (0, 0, 0))
        with pytest.raises(InputError, match="'lonely' has no partner among images and labels"):
            open_data(str(tmp_path))

    def test_masks_of_one_class_are_refused(self, tmp_path):
        with pytest.raises(InputError, match="have one class only"):
            self.make(tmp_path, [np.zeros((2, 2))] * 5)


NORMALIZATION = Normalization((0.5, 0.5), (0.5, 0.5))


def varied(count=7):
    """Images of two sizes, one of them with an invalid corner."""
    rng = np.random.default_rng(0)
    stored = []
    for i in range(count):
        side = 8 if i % 2 else 6
        valid = np.ones((side, side), bool)
        valid[: side // 2, : side // 2] = i != 3
        stored.append(Pixels(rng.random((2, side, side), dtype=np.float32), valid))
    return ImageSet("varied", tuple(map(str, range(count))), ("a", "b"), stored.__getitem__, "0")


@pytest.mark.parametrize("batch_size", [1, 3, 7, 50])
def test_batches_are_the_images_in_order_whatever_the_batch(batch_size):
    images = varied()
    found = torch.cat(list(batches(images, np.arange(7), 8, NORMALIZATION, batch_size)))
    alone = torch.cat([next(batches(images, np.array([i]), 8, NORMALIZATION, 1)) for i in range(7)])
    assert torch.equal(found, alone)


def test_an_image_of_the_right_size_is_untouched_and_nodata_is_the_mean():
    images = varied()
    (x,) = batches(images, np.array([3]), 8, NORMALIZATION, 1)
    assert (x[0, :, :4, :4] == 0).all()
    np.testing.assert_allclose(x[0, :, 4:], images.read(3).values[:, 4:] * 2 - 1, atol=1e-6)


def test_resizing_stays_in_the_unit_range():
    values, valid = load_batch(varied(), [0, 1], 32)
    assert values.shape == (2, 2, 32, 32) and values.min() >= 0 and values.max() <= 1 and valid.all()


def test_two_dates_keep_their_axis():
    both = Pixels(np.random.default_rng(0).random((2, 3, 6, 6), dtype=np.float32), np.ones((6, 6), bool))
    images = ImageSet("pair", ("0",), ("no change", "change"), lambda i: both, "0")
    values, valid = load_batch(images, [0], 8)
    assert values.shape == (1, 2, 3, 8, 8) and valid.shape == (1, 1, 8, 8)
    assert next(batches(images, np.array([0]), 8, Normalization((0.5,) * 3, (0.5,) * 3), 1)).shape == (1, 2, 3, 8, 8)


def test_image_statistics_by_hand():
    x = torch.randn(2, 2, 8, 12)
    described = ImageStatistics(("a", "b"), NORMALIZATION, 4).describe(x)
    pixels = x.flatten(2).numpy()
    expected = [pixels.mean(2), pixels.std(2), *np.quantile(pixels, [0.05, 0.25, 0.5, 0.75, 0.95], axis=2)]
    np.testing.assert_allclose(described.summary, np.concatenate(expected, 1), atol=1e-5)
    cell = x[1, :, 4:8, 8:12].flatten(1).numpy()
    expected = [cell.mean(1), cell.std(1), *np.quantile(cell, [0.05, 0.25, 0.5, 0.75, 0.95], axis=1)]
    np.testing.assert_allclose(described.patches[1, :, 1, 2], np.concatenate(expected), atol=1e-5)


def test_random_convolutions_by_hand_and_by_seed():
    x = torch.randn(1, 2, 8, 8)
    floor = RandomConvolutions(("a", "b"), NORMALIZATION, 4, seed=1)
    described = floor.describe(x)
    padded = torch.nn.functional.pad(x, (1, 1, 1, 1))[0]
    response = torch.stack(
        [(padded[:, r : r + 3, c : c + 3] * floor.filters[5]).sum() for r in range(4) for c in range(4)]
    )
    np.testing.assert_allclose(described.patches[0, 5, 0, 0], (response - 1).relu().mean(), rtol=1e-4)
    np.testing.assert_allclose(described.patches[0, 256 + 5, 0, 0], (-response - 1).relu().mean(), rtol=1e-4)
    same = RandomConvolutions(("a", "b"), NORMALIZATION, 4, seed=1)
    other = RandomConvolutions(("a", "b"), NORMALIZATION, 4, seed=2)
    assert torch.equal(same.filters, floor.filters) and other.key != floor.key
