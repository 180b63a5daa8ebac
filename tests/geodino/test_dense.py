"""Dense features: exact for any range of rows, blended by the maths of one whole array, nodata kept out."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import rasterio
import torch
from affine import Affine

from geodino.backbones.backbone import untrained_backbone
from geodino.backbones.normalize import standardize
from geodino.dense.settings import DenseSettings
from geodino.dense.stream import encode_unit, stream_tokens, token_grid
from tiles.errors import InputError
from tiles.scenes.opening import open_scene
from tiles.writing.stitch import Axis


@pytest.fixture(scope="module")
def backbone():
    return untrained_backbone("vit_small_patch16_dinov3", depth=1, embed_dim=64, num_heads=2, precision="fp32")


def write(path, array, **profile):
    _, height, width = array.shape
    profile = {"transform": Affine(10, 0, 5e5, 0, -10, 5e6), "crs": "EPSG:32633", "dtype": array.dtype} | profile
    with rasterio.open(path, "w", driver="GTiff", count=len(array), height=height, width=width, **profile) as out:
        out.write(array)
    return path


@pytest.fixture
def scene(tmp_path):
    array = np.random.default_rng(0).integers(0, 256, (3, 250, 330), dtype=np.uint8)
    return open_scene(write(tmp_path / "scene.tif", array), band_names=["red", "green", "blue"])


def whole(rows):
    rows = list(rows)
    return np.concatenate([r.features for r in rows], axis=1), np.concatenate([r.valid for r in rows])


SMALL = DenseSettings(window=8, halo=1, batch_size=3)


def test_rows_come_once_in_order_with_unit_length(scene, backbone):
    rows = list(stream_tokens(scene, backbone, SMALL))
    grid = token_grid(scene, backbone, SMALL)
    assert (grid.rows, grid.columns) == (16, 21)
    assert [r.row for r in rows] == list(np.cumsum([0, *(r.features.shape[1] for r in rows[:-1])]))
    features, valid = whole(rows)
    assert features.shape == (64, 16, 21) and valid.all()
    np.testing.assert_allclose(np.linalg.norm(features, axis=0), 1, atol=1e-5)
    assert np.concatenate([r.pixels for r in rows]).shape == (250, 330)


def test_the_stream_equals_blending_every_window_in_one_array(scene, backbone):
    """Brute force: read all, pad, encode windows one by one, weigh, sum, bring to unit length."""
    got, _ = whole(stream_tokens(scene, backbone, SMALL))
    with rasterio.open(scene.source) as source:
        values = standardize(source.read().astype(np.float32) / 255, None, backbone.normalization)
    values = np.pad(values, ((0, 0), (0, 6), (0, 6)), mode="edge")
    down, across = Axis(16, 8, 2), Axis(21, 8, 2)
    total = np.zeros((64, 16, 21), np.float32)
    for row, wy in zip(down.starts, down.weights, strict=True):
        for column, wx in zip(across.starts, across.weights, strict=True):
            window = values[:, row * 16 : (row + 8) * 16, column * 16 : (column + 8) * 16]
            tokens = encode_unit(backbone, torch.from_numpy(window.copy())[None], SMALL)[0].numpy()
            total[:, row : row + 8, column : column + 8] += tokens * wy[:, None] * wx[None]
    np.testing.assert_allclose(got, total / np.linalg.norm(total, axis=0), atol=2e-5)


@pytest.mark.parametrize("rows", [range(1), range(3, 11), range(5, 6), range(9, 16)])
def test_a_range_of_rows_is_the_same_bytes_as_the_whole(scene, backbone, rows):
    features, valid = whole(stream_tokens(scene, backbone, SMALL))
    part, part_valid = whole(stream_tokens(scene, backbone, SMALL, rows=rows))
    np.testing.assert_array_equal(part, features[:, rows.start : rows.stop])
    np.testing.assert_array_equal(part_valid, valid[rows.start : rows.stop])


def test_readers_do_not_change_the_result(scene, backbone):
    one, _ = whole(stream_tokens(scene, backbone, DenseSettings(window=8, halo=1, batch_size=3, readers=1)))
    four, _ = whole(stream_tokens(scene, backbone, DenseSettings(window=8, halo=1, batch_size=3, readers=4)))
    np.testing.assert_array_equal(one, four)


@pytest.mark.parametrize(("allowed", "shares"), [(1, [1]), (2, [1, 1]), (3, [1, 1, 1]), (7, [1, 2, 2, 2])])
def test_batches_side_by_side_share_the_threads_that_pytorch_may_use(scene, backbone, monkeypatch, allowed, shares):
    before, used, together = torch.get_num_threads(), {}, threading.Barrier(len(shares), timeout=60)

    def encode(*arguments):
        if threading.get_ident() not in used:
            used[threading.get_ident()] = torch.get_num_threads()
            together.wait()  # for the first batch of every other thread
        return encode_unit(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr("geodino.dense.stream.encode_unit", encode)
        torch.set_num_threads(allowed)
        try:
            features, _ = whole(stream_tokens(scene, backbone, SMALL))
            with ThreadPoolExecutor(1) as later:
                assert later.submit(torch.get_num_threads).result() == torch.get_num_threads() == allowed
        finally:
            torch.set_num_threads(before)
    assert sorted(used.values()) == shares
    np.testing.assert_array_equal(features, whole(stream_tokens(scene, backbone, SMALL))[0])


def test_a_scene_smaller_than_a_window_is_one_window(tmp_path, backbone):
    array = np.random.default_rng(0).integers(0, 256, (3, 40, 20), dtype=np.uint8)
    scene = open_scene(write(tmp_path / "s.tif", array), band_names=["red", "green", "blue"])
    features, valid = whole(stream_tokens(scene, backbone))
    assert features.shape == (64, 3, 2) and valid.all()


def test_nodata_is_nodata_and_its_value_does_not_matter(tmp_path, backbone):
    rng = np.random.default_rng(0)
    array = rng.integers(1, 256, (3, 160, 160), dtype=np.uint8)
    array[:, 32:96, 48:112] = 0  # tokens rows 2..5, columns 3..6, whole patches
    array[:, :16, :6] = 0  # 6 of 16 columns: the token keeps 62 % of its pixels
    array[:, :16, 16:26] = 0  # 10 of 16 columns: below half
    scene = open_scene(write(tmp_path / "s.tif", array, nodata=0), band_names=["red", "green", "blue"])
    features, valid = whole(stream_tokens(scene, backbone, SMALL))
    expected = np.ones((10, 10), bool)
    expected[2:6, 3:7] = False
    expected[0, 1] = False
    np.testing.assert_array_equal(valid, expected)
    assert not features[:, ~valid].any()
    other = array.copy()
    other[array == 0] = 255
    mask = write(tmp_path / "mask.tif", (array[:1] != 0).astype(np.uint8))
    masked = open_scene(write(tmp_path / "t.tif", other), band_names=["red", "green", "blue"], mask=mask)
    again, _ = whole(stream_tokens(masked, backbone, SMALL))
    np.testing.assert_array_equal(features, again)


def test_a_scene_without_a_valid_pixel_gives_no_valid_token(tmp_path, backbone):
    scene = open_scene(
        write(tmp_path / "s.tif", np.zeros((3, 64, 64), np.uint8), nodata=0), band_names=["red", "green", "blue"]
    )
    features, valid = whole(stream_tokens(scene, backbone, SMALL))
    assert not valid.any() and not features.any()


def test_a_valid_edge_token_counts_only_pixels_inside_the_scene(tmp_path, backbone):
    array = np.full((3, 33, 33), 9, np.uint8)
    scene = open_scene(write(tmp_path / "s.tif", array, nodata=0), band_names=["red", "green", "blue"])
    _, valid = whole(stream_tokens(scene, backbone, SMALL))
    assert valid.shape == (3, 3) and valid.all()


def test_constant_scene_has_no_seam(tmp_path, backbone):
    scene = open_scene(
        write(tmp_path / "s.tif", np.full((3, 320, 320), 90, np.uint8)), band_names=["red", "green", "blue"]
    )
    features, _ = whole(stream_tokens(scene, backbone, SMALL))
    # With rotary positions and equal patches every token of every window is the same vector.
    np.testing.assert_allclose(features, np.broadcast_to(features[:, :1, :1], features.shape), atol=1e-5)


@pytest.mark.parametrize("upscale", [2, 4])
def test_upscale_refines_the_grid(scene, backbone, upscale):
    settings = DenseSettings(window=8, halo=1, upscale=upscale, batch_size=4)
    grid = token_grid(scene, backbone, settings)
    box = grid.geobox(scene.geobox)
    assert grid.pixels == 16 // upscale
    assert box.affine.a == 160 / upscale and tuple(box.affine)[2:6:3] == (5e5, 5e6)
    features, _ = whole(stream_tokens(scene, backbone, settings))
    assert features.shape[1:] == (grid.rows, grid.columns)


def test_layers_are_concatenated_each_with_the_same_weight(scene):
    backbone = untrained_backbone("vit_small_patch16_dinov3", depth=3, embed_dim=64, num_heads=2, precision="fp32")
    settings = DenseSettings(window=8, halo=1, layers=(0, -1), batch_size=3)
    features, _ = whole(stream_tokens(scene, backbone, settings))
    assert features.shape[0] == 128
    x = torch.randn(1, 3, 64, 64)
    both = encode_unit(backbone, x, settings)
    np.testing.assert_allclose(both.norm(dim=1), 1, atol=1e-5)
    final = encode_unit(backbone, x, DenseSettings(window=8, halo=1))
    np.testing.assert_allclose(both[:, 64:] * 2**0.5, final, atol=1e-5)


def test_context_changes_a_core_token_little(tmp_path, backbone):
    """The same ground through windows cut at two offsets agrees in the core: no seam but the backbone's own context."""
    array = np.random.default_rng(3).integers(0, 256, (3, 480, 480), dtype=np.uint8)
    scene = open_scene(write(tmp_path / "s.tif", array), band_names=["red", "green", "blue"])
    moved = open_scene(write(tmp_path / "m.tif", array[:, 64:, 64:]), band_names=["red", "green", "blue"])
    one, _ = whole(stream_tokens(scene, backbone, DenseSettings(window=16, halo=2)))
    two, _ = whole(stream_tokens(moved, backbone, DenseSettings(window=16, halo=2)))
    cosine = (one[:, 4:, 4:] * two).sum(0)
    assert cosine[4:-4, 4:-4].min() > 0.95


def test_stopping_early_ends_the_threads(scene, backbone):
    import threading

    stream = stream_tokens(scene, backbone, SMALL)
    next(stream)
    stream.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("geodino")]


def test_a_damaged_file_is_an_input_error_in_the_callers_thread(scene, backbone, tmp_path):
    data = (tmp_path / "scene.tif").read_bytes()
    (tmp_path / "scene.tif").write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match=r"scene\.tif"):
        list(stream_tokens(scene, backbone, SMALL))


def test_a_scene_without_the_bands_says_which(tmp_path, backbone):
    scene = open_scene(write(tmp_path / "s.tif", np.ones((2, 64, 64), np.uint8)), band_names=["nir", "red"])
    with pytest.raises(InputError, match="green"):
        next(stream_tokens(scene, backbone))


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ({"upscale": 3}, "1, 2 or 4"),
        ({"window": 6, "halo": 2}, "core"),
        ({"batch_size": 0}, "batch"),
        ({"min_valid": 1.5}, "between 0 and 1"),
    ],
)
def test_settings_that_cannot_be_are_refused(bad, says):
    with pytest.raises(InputError, match=says):
        DenseSettings(**bad)


def test_a_patch_that_cannot_be_divided_is_refused(scene):
    backbone = untrained_backbone("vit_small_patch14_dinov2", depth=1, embed_dim=64, num_heads=2, img_size=56)
    with pytest.raises(InputError, match="cannot be divided by 4"):
        token_grid(scene, backbone, DenseSettings(upscale=4))


def test_layers_that_the_backbone_does_not_have_are_refused(backbone):
    assert DenseSettings(layers=(0, -1)).resolved(backbone).layers == (0, -1)
    for layers in ((1,), (0, -2)):
        with pytest.raises(InputError, match=r"has layers 0 to 0 .* --layers"):
            DenseSettings(layers=layers).resolved(backbone)
    stages = untrained_backbone("convnext_tiny", depths=(1, 1, 1, 1), dims=(8, 8, 8, 8), precision="fp32")
    assert DenseSettings(layers=(-1,)).resolved(stages)
    with pytest.raises(InputError, match="only the last"):
        DenseSettings(layers=(1, 3)).resolved(stages)


def test_a_gpu_takes_the_windows_that_its_memory_holds(backbone, monkeypatch):
    gpu = replace(backbone, device=torch.device("cuda"))
    found = {}
    for gib in (1, 4, 16, 80):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, gib=gib: (0, gib << 30))
        found[gib] = DenseSettings(window=64).resolved(gpu).batch_size
    # 64 x 64 tokens of 64 channels take 16 MiB at once, and a quarter of the memory is theirs.
    assert found == {1: 16, 4: 64, 16: 64, 80: 64}


def test_a_gpu_without_memory_is_one_sentence_that_names_the_scene(scene, backbone, monkeypatch):
    def full(*arguments):
        raise torch.OutOfMemoryError

    monkeypatch.setattr("geodino.dense.stream.encode_unit", full)
    with pytest.raises(InputError, match=r"3 windows of .*scene\.tif .* --batch-size"):
        list(stream_tokens(scene, backbone, SMALL))


def test_windows_start_on_the_usual_blocks():
    down = Axis(1000, 36, 4)
    assert {start * 16 % 512 for start in down.starts[:-1]} == {0}  # the last one ends where the scene ends


@pytest.mark.parametrize(
    ("crop_px", "patch", "expected"),
    [
        (None, 16, (36, 2)),
        (512, 16, (36, 2)),
        (256, 16, (32, 6)),
        (112, 16, (24, 4)),
        (64, 8, (24, 4)),
        (48, 8, (18, 3)),
        (16, 8, (8, 2)),
    ],
)
def test_windows_follow_the_crops_that_the_backbone_was_trained_on(crop_px, patch, expected):
    backbone = untrained_backbone(
        "vit_small_patch16_dinov3", depth=1, embed_dim=64, num_heads=2, patch_size=patch, precision="fp32"
    )
    backbone = replace(backbone, card=backbone.card.model_copy(update={"crop_px": crop_px}))
    found = DenseSettings().resolved(backbone)
    assert (found.window, found.halo) == expected
    assert found.batch_size * found.window**2 >= 36**2
    assert [DenseSettings(window=side).resolved(backbone).halo for side in (4, 8, 12, 16, 40)] == [1, 2, 2, 3, 2]
    with pytest.raises(InputError, match="no core"):
        DenseSettings(halo=20).resolved(backbone)
