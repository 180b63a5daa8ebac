"""Checkpoints in the authors' original layouts give the tokens of transformers' own implementations.

Each model is randomly initialised by transformers, renamed here to the layout that dino, dinov2 or dinov3 publish,
written as a `.pth` and loaded as a user would.
"""

import argparse
import re

import pytest
import torch
import transformers as hf

from geodino.backbones.backbone import load_backbone, save_backbone
from tiles.errors import InputError

TOLERANCE = {"atol": 1e-4, "rtol": 0}


def random_weights(model):
    """Weights at which every tensor matters: biases, norms and layer scales far from 0 and 1."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in model.named_parameters():
            scale = 0.3 if value.ndim < 2 or "token" in name or "position" in name else 0.04
            value.copy_(torch.randn(value.shape, generator=generator) * scale + (1.0 if "norm" in name else 0.0))
    return model.eval()


def vit_names(state):
    """Rename a transformers ViT of the family to the names that all three repositories share."""
    out, qkv = {}, {}
    for key, value in state.items():
        key = re.sub(r"^(encoder\.layer|model\.layer|layers)\.", "blocks.", key)
        key = key.replace("embeddings.patch_embeddings.projection.", "patch_embed.proj.")
        key = key.replace("embeddings.patch_embeddings.", "patch_embed.proj.")
        key = key.replace("embeddings.position_embeddings", "pos_embed").replace("embeddings.", "")
        key = key.replace(".layernorm_before.", ".norm1.").replace(".layernorm_after.", ".norm2.")
        key = re.sub(r"\.layer_scale(\d)\.lambda1", r".ls\1.gamma", key)
        key = re.sub(r"^layernorm\.", "norm.", key).replace(".attention.o_proj.", ".attn.proj.")
        if part := re.match(r"(blocks\.\d+)\.attention\.([qkv])_proj\.(weight|bias)", key):
            qkv.setdefault(f"{part[1]}.attn.qkv.{part[3]}", {})[part[2]] = value
        elif not key.startswith("pooler."):
            out[key] = value
    for key, parts in qkv.items():
        key_part = parts.get("k", torch.full_like(parts["q"], torch.nan))  # a masked key bias may hold anything
        out[key] = torch.cat([parts["q"], key_part, parts["v"]])
    return out


def gated_names(state, dinov3):
    """Gate, value and output of a SwiGLU as dinov3 (w1, w2, w3) or dinov2 (w12 packed, w3) name them."""
    out = {key: value for key, value in state.items() if "_proj." not in key}
    for key, gate in state.items():
        if ".mlp.gate_proj." not in key:
            continue
        up, down = (state[key.replace("gate_proj", name)] for name in ("up_proj", "down_proj"))
        if dinov3:
            out |= {key.replace("gate_proj", name): value for name, value in (("w1", gate), ("w2", up), ("w3", down))}
        else:
            out |= {key.replace("gate_proj", "w12"): torch.cat([gate, up]), key.replace("gate_proj", "w3"): down}
    return out


def dino_layout(model):
    return vit_names(model.state_dict())


def dinov3_layout(model):
    state = gated_names(vit_names(model.state_dict()), dinov3=True)
    if not model.config.use_gated_mlp:
        state |= {
            key.replace("up_proj", "fc1").replace("down_proj", "fc2"): value
            for key, value in vit_names(model.state_dict()).items()
            if "_proj." in key
        }
    registers = state.pop("register_tokens")
    if registers.shape[1]:  # the authors' files have no such tensor where there are no registers
        state["storage_tokens"] = registers
    width, heads = model.config.hidden_size, model.config.num_attention_heads
    for key in [key for key in state if key.endswith("attn.qkv.bias")]:
        mask = torch.ones(3 * width)
        if not model.config.key_bias:
            mask[width : 2 * width] = 0
            state[f"{key}_mask"] = mask
    exponents = torch.arange(0, 1, 4 * heads / width)
    return state | {"rope_embed.periods": 100.0**exponents, "local_cls_norm.weight": torch.ones(width)}


def dinov2_layout(model):
    return gated_names(vit_names(model.state_dict()), dinov3=False)


def convnext_layout(model):
    out = {}
    for key, value in model.state_dict().items():
        key = re.sub(r"^model\.stages\.(\d)\.downsample_layers\.", r"downsample_layers.\1.", key)
        key = re.sub(r"^model\.stages\.(\d)\.layers\.", r"stages.\1.", key)
        key = key.replace("depthwise_conv", "dwconv").replace("pointwise_conv", "pwconv")
        key = re.sub(r"^layer_norm\.", "norm.", key).replace(".layer_norm.", ".norm.")
        out[key] = value
    return out | {f"norms.3.{name}": out[f"norm.{name}"] for name in ("weight", "bias")}


def small(**more):
    return {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2} | more


def dino(patch=16):
    config = hf.ViTConfig(**small(intermediate_size=512, patch_size=patch, image_size=64, layer_norm_eps=1e-6))
    return hf.ViTModel(config, add_pooling_layer=False), dino_layout


def dinov2(**more):
    return hf.Dinov2Model(hf.Dinov2Config(**small(image_size=70, patch_size=14, **more))), dinov2_layout


def dinov2_registers(**more):
    config = hf.Dinov2WithRegistersConfig(**small(image_size=70, patch_size=14, num_register_tokens=4, **more))
    return hf.Dinov2WithRegistersModel(config), dinov2_layout


def dinov3(**more):
    settings = {"intermediate_size": 256, "num_register_tokens": 4} | more
    return hf.DINOv3ViTModel(hf.DINOv3ViTConfig(**small(**settings))), dinov3_layout


GATED = {"use_gated_mlp": True, "hidden_act": "silu"}
CASES = {
    "dino": (dino, 16, 1),
    "dino-8": (lambda: dino(8), 8, 1),
    "dinov2": (dinov2, 14, 1),
    "dinov2-swiglu": (lambda: dinov2(use_swiglu_ffn=True), 14, 1),
    "dinov2-registers": (dinov2_registers, 14, 5),
    "dinov2-registers-swiglu": (lambda: dinov2_registers(use_swiglu_ffn=True), 14, 5),
    "dinov3": (dinov3, 16, 5),
    "dinov3-gated": (lambda: dinov3(**GATED), 16, 5),
    "dinov3-no-bias": (lambda: dinov3(query_bias=False, value_bias=False), 16, 5),
    "dinov3-key-bias": (lambda: dinov3(key_bias=True), 16, 5),
    "dinov3-no-registers": (lambda: dinov3(num_register_tokens=0), 16, 1),
}


@pytest.fixture(scope="module", params=CASES)
def case(request, tmp_path_factory):
    make, patch, prefix = CASES[request.param]
    model, layout = make()
    random_weights(model)
    path = tmp_path_factory.mktemp("checkpoint") / f"{request.param}.pth"
    torch.save(layout(model), path)
    return model, path, patch, prefix


@pytest.mark.parametrize("grid", [(5, 5), (4, 4), (3, 6)], ids=str)
def test_vit_tokens_equal_transformers(case, grid):
    model, path, patch, prefix = case
    x = torch.randn(2, 3, grid[0] * patch, grid[1] * patch, generator=torch.Generator().manual_seed(1))
    learned = isinstance(model, hf.ViTModel)
    with torch.inference_mode():
        expected = model(x, **({"interpolate_pos_encoding": True} if learned else {})).last_hidden_state
    backbone = load_backbone(path, device="cpu", precision="fp32")
    assert (backbone.patch_size, backbone.prefix_tokens, backbone.embed_dim) == (patch, prefix, 128)
    tokens = backbone.encode(x)
    torch.testing.assert_close(tokens.cls, expected[:, 0], **TOLERANCE)
    patches = expected[:, prefix:].transpose(1, 2).reshape(2, 128, *grid)
    torch.testing.assert_close(tokens.patches, patches, **TOLERANCE)


def test_convnext_tokens_equal_transformers(tmp_path):
    model = random_weights(
        hf.DINOv3ConvNextModel(hf.DINOv3ConvNextConfig(depths=[1, 1, 2, 1], hidden_sizes=[8, 16, 24, 32]))
    )
    torch.save(convnext_layout(model), tmp_path / "convnext.pth")
    x = torch.randn(2, 3, 64, 96)
    with torch.inference_mode():
        expected = model(x).last_hidden_state
    backbone = load_backbone(tmp_path / "convnext.pth", device="cpu", precision="fp32")
    tokens = backbone.encode(x)
    assert (backbone.patch_size, backbone.prefix_tokens) == (32, 0)
    torch.testing.assert_close(tokens.cls, expected[:, 0], **TOLERANCE)
    torch.testing.assert_close(tokens.patches.flatten(2).transpose(1, 2), expected[:, 1:], **TOLERANCE)


@pytest.fixture
def dinov3_state():
    return dinov3_layout(random_weights(dinov3()[0]))


def test_published_sizes_get_their_own_names(tmp_path):
    """A file of a published size loads as that architecture, with no argument of ours."""
    state = dinov2_layout(hf.Dinov2Model(hf.Dinov2Config(hidden_size=384, num_attention_heads=6, image_size=518)))
    torch.save(state, tmp_path / "vits14.pth")
    backbone = load_backbone(tmp_path / "vits14.pth", device="cpu")
    assert backbone.architecture == "vit_small_patch14_dinov2"
    assert backbone.card is not None and backbone.card.model_args == {}


def test_untied_norms_norm_prefix_and_patches_apart(tmp_path, dinov3_state):
    width = 128
    untied = {"cls_norm.weight": torch.full((width,), 2.0), "cls_norm.bias": torch.full((width,), 3.0)}
    torch.save(dinov3_state, tmp_path / "tied.pth")
    torch.save(dinov3_state | untied, tmp_path / "untied.pth")
    x = torch.randn(1, 3, 32, 48)
    tied, apart = (
        load_backbone(tmp_path / f"{name}.pth", device="cpu", precision="fp32") for name in ("tied", "untied")
    )
    raw = tied.encode_layers(x, [-1], norm=False)[0].cls
    expected = torch.nn.functional.layer_norm(raw, (width,), *untied.values(), eps=1e-5)
    torch.testing.assert_close(apart.encode(x).cls, expected, **TOLERANCE)
    torch.testing.assert_close(apart.encode(x).patches, tied.encode(x).patches)


def test_rotary_periods_of_the_file_are_used(tmp_path, dinov3_state):
    """Published files hold periods rounded to bf16, which is part of the published features."""
    rounded = dinov3_state["rope_embed.periods"].bfloat16().float()
    torch.save(dinov3_state | {"rope_embed.periods": rounded}, tmp_path / "a.pth")
    for precision in ("fp32", "bf16"):
        backbone = load_backbone(tmp_path / "a.pth", device="cpu", precision=precision)
        assert torch.equal(backbone.module.rope.periods, rounded)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_what_timm_lacks_survives_saving(tmp_path, dinov3_state, dtype):
    """Untied norms and a file's own periods go into a folder of ours and come back."""
    untied = {"cls_norm.weight": torch.full((128,), 2.0), "cls_norm.bias": torch.full((128,), 3.0)}
    torch.save(dinov3_state | untied, tmp_path / "original.pth")
    original = load_backbone(tmp_path / "original.pth", device="cpu", precision="fp32")
    save_backbone(original.module, original.card, tmp_path / "run", dtype=dtype)
    loaded = load_backbone(tmp_path / "run", device="cpu", precision="fp32")
    assert torch.equal(loaded.module.rope.periods, original.module.rope.periods)
    x = torch.randn(1, 3, 32, 48)
    tolerance = {"atol": 0, "rtol": 0} if dtype is None else {"atol": 0.15, "rtol": 0.05}
    torch.testing.assert_close(loaded.encode(x).cls, original.encode(x).cls, **tolerance)


def wrapped(state, form):
    """The same backbone as the training scripts of the three repositories save it."""
    heads = {"head.mlp.0.weight": torch.ones(3)}
    backbone = {f"backbone.{key}": value for key, value in state.items()}
    return {
        "full-dino": {
            "student": {f"module.{key}": torch.zeros_like(value) for key, value in backbone.items()},
            "teacher": backbone | heads,
            "epoch": 3,
            "args": argparse.Namespace(arch="vit_small"),
        },
        "dinov2-teacher": {"teacher": backbone | {"dino_head.mlp.0.weight": torch.ones(3)}},
        "dinov3-consolidated": {
            "model": {f"teacher.{key}": value for key, value in backbone.items()}
            | {f"student.{key}": torch.zeros_like(value) for key, value in backbone.items()}
        },
        "compiled": {f"_orig_mod.{key}": value for key, value in state.items()},
        "chunks": {re.sub(r"^blocks\.(\d+)", r"blocks.0.\1", key): value for key, value in state.items()},
    }[form]


@pytest.mark.parametrize("form", ["full-dino", "dinov2-teacher", "dinov3-consolidated", "compiled", "chunks"])
def test_training_checkpoints_give_the_teachers_backbone(tmp_path, dinov3_state, form):
    torch.save(dinov3_state, tmp_path / "bare.pth")
    torch.save(wrapped(dinov3_state, form), tmp_path / "training.pth")
    bare, training = (load_backbone(tmp_path / f"{name}.pth", device="cpu") for name in ("bare", "training"))
    assert bare.hash == training.hash


def test_a_tensor_without_a_place_is_an_error(tmp_path, dinov3_state):
    torch.save(dinov3_state | {"blocks.0.attn.surprise": torch.ones(2)}, tmp_path / "x.pth")
    with pytest.raises(InputError, match=r"x\.pth.*no place for blocks\.0\.attn\.surprise"):
        load_backbone(tmp_path / "x.pth")


def test_a_missing_tensor_is_an_error(tmp_path, dinov3_state):
    del dinov3_state["blocks.1.ls2.gamma"]
    torch.save(dinov3_state, tmp_path / "x.pth")
    with pytest.raises(InputError, match=r"x\.pth lacks blocks\.1\.gamma_2"):
        load_backbone(tmp_path / "x.pth")


def test_differing_copies_of_the_convnext_norm_are_an_error(tmp_path):
    state = convnext_layout(
        hf.DINOv3ConvNextModel(hf.DINOv3ConvNextConfig(depths=[1] * 4, hidden_sizes=[8, 16, 24, 32]))
    )
    torch.save(state | {"norms.3.weight": torch.zeros(32)}, tmp_path / "x.pth")
    with pytest.raises(InputError, match=r"no place for norms\.3\.weight"):
        load_backbone(tmp_path / "x.pth")


class Bomb:
    """Pickles into a call."""

    def __reduce__(self):
        return (print, ("this must never be printed",))


def test_a_pickle_that_wants_to_run_code_is_refused(tmp_path, capsys):
    torch.save({"cls_token": torch.ones(1), "bomb": Bomb()}, tmp_path / "bomb.pth")
    with pytest.raises(InputError, match=r"bomb\.pth wants to run code when it is opened.*so it was not"):
        load_backbone(tmp_path / "bomb.pth")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"conv1.weight": torch.ones(2, 2)}, "unknown layout .it starts with conv1.weight"),
        ({"epoch": 3}, "holds no named tensors"),
        ([1, 2], "holds no named tensors"),
    ],
)
def test_an_unknown_layout_is_refused(tmp_path, content, message):
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(InputError, match=message):
        load_backbone(tmp_path / "x.pth")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_of_rubbish_is_refused(tmp_path, suffix):
    (tmp_path / f"x{suffix}").write_bytes(b"not a checkpoint at all" * 10)
    with pytest.raises(InputError, match=rf"x\{suffix} .*again"):
        load_backbone(tmp_path / f"x{suffix}")


def test_bands_that_a_file_does_not_name_are_refused(tmp_path, dinov3_state):
    dinov3_state["patch_embed.proj.weight"] = torch.ones(128, 5, 16, 16)
    torch.save(dinov3_state, tmp_path / "x.pth")
    with pytest.raises(InputError, match="takes 5 bands and does not say which"):
        load_backbone(tmp_path / "x.pth")
