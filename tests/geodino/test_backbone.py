import copy

import pytest
import torch

from geodino.backbones.architecture import hash_tensors
from geodino.backbones.backbone import load_backbone, save_backbone, untrained_backbone
from geodino.backbones.card import read_card
from geodino.backbones.hardware import pick_device, pick_dtype
from geodino.backbones.normalize import Normalization
from tiles.errors import InputError, OutputError

SMALL = {
    "vit_tiny_patch16_dinov3_qkvb": {"depth": 2},
    "vit_small_patch14_reg4_dinov2": {"depth": 2, "embed_dim": 128, "num_heads": 2, "img_size": 70},
    "vit_tiny_patch16_224": {"depth": 2},
    "convnext_atto": {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32)},
}


@pytest.fixture(scope="module", params=SMALL)
def backbone(request):
    return untrained_backbone(request.param, device="cpu", precision="fp32", **SMALL[request.param])


def image(backbone, rows=3, columns=4, seed=0):
    side = backbone.patch_size
    return torch.randn(2, 3, rows * side, columns * side, generator=torch.Generator().manual_seed(seed))


def test_one_token_a_patch_and_no_register_among_them(backbone):
    tokens = backbone.encode(image(backbone))
    assert tokens.cls.shape == (2, backbone.embed_dim)
    assert tokens.patches.shape == (2, backbone.embed_dim, 3, 4)
    assert tokens.cls.dtype == tokens.patches.dtype == torch.float32


def test_patch_tokens_lie_where_their_pixels_are(backbone):
    """Changing the pixels of one patch changes that patch's token more than any other."""
    x = image(backbone)
    changed = x.clone()
    side = backbone.patch_size
    changed[:, :, side : 2 * side, 2 * side : 3 * side] += 3
    difference = (backbone.encode(changed).patches - backbone.encode(x).patches).abs().sum(1)[0]
    assert difference.flatten().argmax() == 1 * 4 + 2


def test_the_last_layer_is_the_output(backbone):
    x = image(backbone)
    tokens, (first, last) = backbone.encode(x), backbone.encode_layers(x, [0, -1])
    torch.testing.assert_close(last.cls, tokens.cls, atol=1e-5, rtol=0)
    torch.testing.assert_close(last.patches, tokens.patches, atol=1e-5, rtol=0)
    assert first.patches.shape != last.patches.shape or not torch.allclose(first.patches, last.patches)


def test_layers_come_in_the_order_asked_for(backbone):
    x = image(backbone)
    a, b = backbone.encode_layers(x, [1, 0])
    c, d = backbone.encode_layers(x, [0, 1])
    assert torch.equal(a.patches, d.patches) and torch.equal(b.patches, c.patches)


def test_no_batch_mate_matters(backbone):
    x = image(backbone)
    torch.testing.assert_close(backbone.encode(x).cls[:1], backbone.encode(x[:1]).cls, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("shape", "message"),
    [((1, 4, 32, 32), r"takes \[B, 3, H, W\]"), ((1, 3, 33, 32), "not whole patches"), ((3, 32, 32), r"takes \[B, 3")],
)
def test_images_that_do_not_fit_are_refused(shape, message):
    backbone = untrained_backbone("vit_tiny_patch16_dinov3_qkvb", device="cpu", depth=1)
    with pytest.raises(ValueError, match=message):
        backbone.encode(torch.zeros(shape))


def test_a_layer_that_is_not_there_is_refused(backbone):
    with pytest.raises(ValueError, match="are not among the"):
        backbone.encode_layers(image(backbone), [99])


def test_saved_and_loaded_gives_the_same_tokens_and_hash(backbone, tmp_path):
    save_backbone(backbone.module, backbone.card, tmp_path / "run")
    loaded = load_backbone(tmp_path / "run", device="cpu", precision="fp32")
    x = image(backbone)
    assert torch.equal(loaded.encode(x).cls, backbone.encode(x).cls)
    assert torch.equal(loaded.encode(x).patches, backbone.encode(x).patches)
    assert (loaded.hash, loaded.bands, loaded.normalization) == (backbone.hash, backbone.bands, backbone.normalization)
    assert not list((tmp_path / "run").glob("*.part"))


def test_either_file_of_a_folder_names_the_backbone(backbone, tmp_path):
    save_backbone(backbone.module, backbone.card, tmp_path)
    hashes = {load_backbone(tmp_path / name).hash for name in ("backbone.json", "backbone.safetensors")}
    assert hashes == {backbone.hash}


def test_bf16_is_close_and_stays_float32_outside(backbone):
    half = untrained_backbone(backbone.architecture, device="cpu", precision="bf16", **SMALL[backbone.architecture])
    assert half.hash == backbone.hash
    x = image(backbone)
    a, b = backbone.encode(x), half.encode(x)
    assert b.patches.dtype == torch.float32
    cosine = torch.nn.functional.cosine_similarity(a.patches, b.patches, dim=1)
    assert cosine.min() > 0.999


def test_bf16_weights_on_disk_load_with_the_hash_of_what_is_on_disk(tmp_path):
    backbone = untrained_backbone("vit_tiny_patch16_dinov3_qkvb", device="cpu", precision="fp32", depth=1)
    save_backbone(backbone.module, backbone.card, tmp_path, dtype=torch.bfloat16)
    loaded = load_backbone(tmp_path, device="cpu", precision="fp32")
    assert loaded.hash == read_card(tmp_path / "backbone.json").weights_hash
    assert loaded.dtype == torch.float32


def test_one_seed_one_model_whatever_ran_before():
    first = untrained_backbone("vit_tiny_patch16_dinov3_qkvb", depth=1)
    torch.rand(7)
    assert untrained_backbone("vit_tiny_patch16_dinov3_qkvb", depth=1).hash == first.hash
    assert untrained_backbone("vit_tiny_patch16_dinov3_qkvb", depth=1, seed=1).hash != first.hash


def test_a_copied_module_adds_its_own_positions():
    """Teachers are deep copies: what is bound to the student's module must follow the copy."""
    module = untrained_backbone("vit_tiny_patch16_224", device="cpu", precision="fp32", depth=1).module
    twin = copy.deepcopy(module)
    with torch.no_grad():
        module.pos_embed.zero_()
    x = torch.randn(1, 3, 32, 48)
    assert not torch.allclose(module.forward_features(x), twin.forward_features(x))


def test_more_bands_than_three():
    bands = ("blue", "green", "red", "nir")
    statistics = Normalization((0.1, 0.2, 0.3, 0.4), (0.1, 0.1, 0.2, 0.2))
    backbone = untrained_backbone("vit_tiny_patch16_dinov3_qkvb", bands, normalization=statistics, depth=1)
    assert (backbone.bands, backbone.normalization) == (bands, statistics)
    assert backbone.encode(torch.zeros(1, 4, 32, 32)).cls.shape == (1, 192)


def test_the_hash_knows_names_shapes_and_values_but_not_order_or_float_type():
    a, b = torch.ones(2, 3), torch.arange(4.0)
    digest = hash_tensors({"a": a, "b": b})
    assert digest == hash_tensors({"b": b, "a": a}) == hash_tensors({"a": a.bfloat16(), "b": b.half()})
    assert digest not in {
        hash_tensors({"a": a.T, "b": b}),
        hash_tensors({"a": a, "c": b}),
        hash_tensors({"a": a, "b": b + 1}),
    }


class TestBadInput:
    @pytest.fixture
    def folder(self, tmp_path):
        backbone = untrained_backbone("vit_tiny_patch16_dinov3_qkvb", device="cpu", precision="fp32", depth=1)
        save_backbone(backbone.module, backbone.card, tmp_path)
        return tmp_path

    def test_a_folder_without_weights(self, tmp_path):
        with pytest.raises(InputError, match=r"holds no backbone\.safetensors"):
            load_backbone(tmp_path)

    def test_a_folder_without_a_card(self, folder):
        (folder / "backbone.json").unlink()
        with pytest.raises(InputError, match=r"backbone\.json is missing"):
            load_backbone(folder)

    def test_a_card_of_other_weights(self, folder):
        text = (folder / "backbone.json").read_text()
        digest = read_card(folder / "backbone.json").weights_hash
        (folder / "backbone.json").write_text(text.replace(digest, "0" * 64))
        with pytest.raises(InputError, match="do not belong together"):
            load_backbone(folder)

    def test_truncated_weights(self, folder):
        file = folder / "backbone.safetensors"
        file.write_bytes(file.read_bytes()[:-100])
        with pytest.raises(InputError, match=r"cannot be read .* copy it again"):
            load_backbone(folder)

    def test_a_card_of_another_architecture(self, folder):
        card = read_card(folder / "backbone.json")
        wrong = card.model_copy(update={"model_args": {"depth": 2}})
        (folder / "backbone.json").write_text(wrong.model_dump_json())
        with pytest.raises(InputError, match=r"backbone\.safetensors lacks blocks\.1"):
            load_backbone(folder)

    def test_a_target_that_cannot_be_written(self, tmp_path):
        backbone = untrained_backbone("vit_tiny_patch16_dinov3_qkvb", device="cpu", precision="fp32", depth=1)
        (tmp_path / "file").write_text("")
        with pytest.raises(OutputError, match="cannot be written"):
            save_backbone(backbone.module, backbone.card, tmp_path / "file" / "run")

    def test_no_packaged_backbone(self, tmp_path, monkeypatch):
        monkeypatch.setattr("geodino.backbones.backbone.PACKAGED", tmp_path)
        with pytest.raises(InputError, match="no packaged backbone: name one with --backbone"):
            load_backbone()

    def test_a_gpu_that_is_not_there(self, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        with pytest.raises(InputError, match="sees no GPU"):
            pick_device("cuda")


def test_bf16_only_where_the_processor_computes_in_it(monkeypatch):
    cpu = torch.device("cpu")
    for native, expected in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr("geodino.backbones.hardware.cpu_has_bf16", lambda native=native: native)
        assert pick_dtype("auto", cpu) == expected
    assert (pick_dtype("fp32", cpu), pick_dtype("bf16", cpu)) == (torch.float32, torch.bfloat16)
