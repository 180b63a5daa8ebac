"""Every published model of the family, held against timm's own."""

import json

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models import get_pretrained_cfg

from geodino.backbones import published
from geodino.backbones.architecture import create_module, patch_size_of
from geodino.backbones.backbone import load_backbone
from geodino.backbones.normalize import IMAGENET, SATELLITE, Normalization
from geodino.backbones.published import FAMILY
from tiles.errors import InputError


@pytest.mark.parametrize("model", FAMILY, ids=lambda model: model.name)
def test_every_row_is_timms_model(model):
    settings = get_pretrained_cfg(model.name)
    with torch.device("meta"):
        module = create_module(model.name, 3)
    assert sum(p.numel() for p in module.parameters()) == model.parameters
    assert patch_size_of(module) == model.patch_size
    assert getattr(module, "num_prefix_tokens", 0) == model.prefix_tokens
    assert settings.license == model.licence
    expected = {"sat493m": SATELLITE, "imagenet": IMAGENET}[model.normalization]
    assert Normalization.of(settings.mean, settings.std) == expected


def test_no_published_model_of_the_family_is_missing():
    """The `_qkvb` twins hold the same weights plus biases that are all zero; EUPE is another family."""
    listed = {
        name
        for pattern in ("*dinov3*", "*dinov2*", "vit_*.dino")
        for name in timm.list_models(pattern, pretrained=True)
    }
    assert {name for name in listed if "_qkvb" not in name and "eupe" not in name} == {model.name for model in FAMILY}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A Hugging Face cache with random weights of one satellite and one web model, the first in two shards."""
    found = {}
    for name, shards in (("vit_large_patch16_dinov3.sat493m", 2), ("vit_small_patch16_dinov3.lvd1689m", 1)):
        folder = tmp_path / name
        folder.mkdir()
        with torch.device("meta"):
            expected = create_module(name, 3, depth=1).state_dict()
        generator = torch.Generator().manual_seed(0)
        tensors = {key: torch.randn(value.shape, generator=generator) * 0.02 for key, value in expected.items()}
        if shards == 1:
            found[name] = folder / "model.safetensors"
            save_file(tensors, found[name])
            continue
        keys = sorted(tensors)
        parts = {"a.safetensors": keys[::2], "b.safetensors": keys[1::2]}
        for file, names in parts.items():
            save_file({key: tensors[key] for key in names}, folder / file)
        found[name] = folder / "model.safetensors.index.json"
        found[name].write_text(json.dumps({"weight_map": {k: file for file, names in parts.items() for k in names}}))
    monkeypatch.setattr("geodino.backbones.load.cached_weights", found.get)
    # one block instead of 24: the test is about files, not about depth
    real = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, **args: real(name, **({"depth": 1} | args)))
    return found


@pytest.mark.parametrize(
    ("name", "normalization", "gsd"),
    [
        ("vit_large_patch16_dinov3.sat493m", SATELLITE, (0.6, 0.6)),
        ("vit_small_patch16_dinov3.lvd1689m", IMAGENET, None),
        ("vit_small_patch16_dinov3", IMAGENET, None),  # the default tag
    ],
)
def test_a_name_loads_from_the_local_cache_with_its_own_normalisation(cache, name, normalization, gsd):
    backbone = load_backbone(name, device="cpu", precision="fp32")
    assert (backbone.normalization, backbone.gsd_range_m) == (normalization, gsd)
    assert (backbone.licence, backbone.patch_size, backbone.prefix_tokens) == ("dinov3-license", 16, 5)
    assert backbone.encode(torch.randn(1, 3, 32, 64)).patches.shape == (1, backbone.embed_dim, 2, 4)


def test_a_missing_shard_is_named(cache):
    name = "vit_large_patch16_dinov3.sat493m"
    (cache[name].parent / "b.safetensors").unlink()
    with pytest.raises(InputError, match=r"b\.safetensors is missing beside its index"):
        load_backbone(name)


def test_weights_that_are_not_here_are_explained(monkeypatch):
    monkeypatch.setattr("geodino.backbones.load.cached_weights", lambda name: None)
    with pytest.raises(InputError, match=r"not on this machine.*hf download timm/vit_base_patch14_dinov2\.lvd142m"):
        load_backbone("vit_base_patch14_dinov2")


def test_the_cache_is_looked_up_by_repository(tmp_path, monkeypatch):
    """The folder layout of the Hugging Face cache, as `hf download` makes it."""
    name = "vit_small_patch16_dinov3.lvd1689m"
    repository = tmp_path / f"models--timm--{name}"
    snapshot = repository / "snapshots" / "0123456789abcdef0123456789abcdef01234567"
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(snapshot.name)
    (snapshot / "model.safetensors").write_bytes(b"")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert published.cached_weights(name) == snapshot / "model.safetensors"
    assert published.cached_weights("vit_base_patch16_dinov3.lvd1689m") is None


@pytest.mark.parametrize("spec", ["vit_enormous_patch16_dinov9", "no/such/folder"])
def test_an_unknown_name_is_explained(spec):
    with pytest.raises(InputError, match=f"'{spec}' is neither a file or folder nor a timm model"):
        load_backbone(spec)
