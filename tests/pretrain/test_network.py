"""The network equals timm's own forward pass, and differs where a mask says so."""

import os
import shutil
from typing import Any

import pytest
import torch

from geodino.backbones.cpu_forward import Rotary, compiled_block, run_block
from pretrain.network.encode import create_backbone, encode
from pretrain.network.network import Network
from pretrain.network.projection_head import ProjectionHead
from pretrain.recipes.loading import load_recipe
from pretrain.recipes.settings import HeadSettings
from tiles.errors import InputError

SMALL = {"depth": 2, "embed_dim": 64, "num_heads": 2}
FAMILY = [
    ("vit_tiny_patch16_dinov3_qkvb", {**SMALL, "init_values": 0.2}, 16),
    ("vit_small_plus_patch16_dinov3", {**SMALL, "init_values": 0.3}, 16),
    ("vit_small_patch14_reg4_dinov2", {**SMALL, "init_values": 0.2}, 14),
    ("vit_small_patch16_224", dict(SMALL), 16),
]


@pytest.mark.parametrize(("name", "arguments", "patch"), FAMILY)
def test_tokens_and_gradients_are_timms(name: str, arguments: dict[str, Any], patch: int) -> None:
    torch.manual_seed(0)
    module: Any = create_backbone(name, 3, **arguments).double().eval()
    pixels = torch.randn(2, 3, 3 * patch, 3 * patch).double()
    found = encode(module, pixels)
    expected = module.forward_features(pixels)
    torch.testing.assert_close(found.cls, expected[:, 0])
    torch.testing.assert_close(found.patches, expected[:, module.num_prefix_tokens :])
    (found.patches.square().sum() + found.cls.sum()).backward()
    ours = {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}
    module.zero_grad()
    again = module.forward_features(pixels)
    (again[:, module.num_prefix_tokens :].square().sum() + again[:, 0].sum()).backward()
    for key, parameter in module.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(ours[key], parameter.grad)


def test_a_convnext_has_the_normed_mean_as_cls() -> None:
    module: Any = create_backbone("convnext_atto", 3).eval()
    pixels = torch.randn(2, 3, 64, 64)
    found = encode(module, pixels)
    features = module.forward_features(pixels)
    torch.testing.assert_close(found.patches, module.head.norm(features).flatten(2).mT)
    torch.testing.assert_close(found.cls, module.head.norm(features.mean((2, 3), keepdim=True)).flatten(1))


def network(**settings: Any) -> Network:
    torch.manual_seed(0)
    backbone = create_backbone("vit_tiny_patch16_dinov3_qkvb", 3, **SMALL, init_values=0.2)
    size = HeadSettings(hidden=32, bottleneck=16, prototypes=24)
    return Network(backbone, size, size, **settings)


def test_the_mask_token_hides_what_is_under_it() -> None:
    model = network().eval()
    pixels = torch.randn(2, 3, 48, 48)
    masks = torch.zeros(2, 9, dtype=torch.bool)
    masks[0, 4] = True
    changed = pixels.clone()
    changed[:, :, 16:32, 16:32] += 5  # patch 4
    before, after = model.tokens(pixels, masks), model.tokens(changed, masks)
    torch.testing.assert_close(before.cls[0], after.cls[0])
    assert not torch.allclose(before.cls[1], after.cls[1])


def test_scores_are_ordered_crop_by_crop() -> None:
    model = network().eval()
    views = [torch.randn(3, 3, 48, 48) for _ in range(2)]
    small = [torch.randn(3, 3, 32, 32) for _ in range(4)]
    masks = torch.zeros(6, 9, dtype=torch.bool)
    masks[4, [1, 7]] = True
    scores = model(views, small, masks, masks.flatten().nonzero().squeeze(1))
    assert scores.dino_global.shape == (2, 3, 24) and scores.dino_local.shape == (4, 3, 24)
    one = model.dino_head(model.tokens(small[2], local=True).cls)
    torch.testing.assert_close(scores.dino_local[2], one)
    masked = model.tokens(views[1], masks[3:]).patches[1, [1, 7]]
    torch.testing.assert_close(scores.ibot, model.ibot_head(masked))


def test_local_crops_have_a_norm_of_their_own_when_untied() -> None:
    model = network(untie_norms=True).eval()
    pixels = torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(model.tokens(pixels).cls, model.tokens(pixels, local=True).cls)
    assert model.local_norm is not None
    torch.nn.init.constant_(model.local_norm.weight, 2.0)
    torch.testing.assert_close(2 * model.tokens(pixels).cls, model.tokens(pixels, local=True).cls)


def test_checkpointing_changes_no_gradient() -> None:
    gradients = []
    for checkpointing in (False, True):
        model = network(checkpointing=checkpointing).train()
        torch.manual_seed(1)
        pixels = torch.randn(2, 3, 48, 48)
        model.tokens(pixels).patches.square().sum().backward()
        gradients.append([p.grad for p in model.backbone.parameters() if p.grad is not None])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.skipif(shutil.which(os.environ.get("CXX") or "g++") is None, reason="compiling needs a C++ compiler")
def test_a_compiled_block_gives_the_values_and_gradients_of_the_plain_one() -> None:
    backbone: Any = network().backbone
    tokens = torch.randn(2, backbone.num_prefix_tokens + 9, 64)
    rotary = Rotary.of(backbone.rope.get_embed((3, 3)), backbone.num_prefix_tokens)
    found = []
    for run in (run_block, compiled_block()):
        backbone.zero_grad()
        given = tokens.clone().requires_grad_()
        result = run(backbone.blocks[0], given, rotary, 0.0)
        result.square().sum().backward()
        gradients = [p.grad.clone() for p in backbone.blocks[0].parameters() if p.grad is not None]
        found.append([result.detach(), given.grad, *gradients])
    assert len(found[0]) > 10
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-4)


def test_stochastic_depth_leaves_samples_out_and_keeps_the_expectation() -> None:
    model = network(drop_path=0.5).train()
    pixels = torch.randn(4, 3, 32, 32)
    torch.manual_seed(0)
    dropped = torch.stack([model.tokens(pixels).patches for _ in range(300)])
    whole = model.eval().tokens(pixels).patches
    assert dropped.std(0).max() > 0
    assert torch.nn.functional.cosine_similarity(dropped.mean(0), whole, dim=-1).min() > 0.97


def test_other_families_are_refused() -> None:
    with pytest.raises(InputError, match="neither a ViT of the DINO family nor a ConvNeXt"):
        create_backbone("resnet18", 3)


def test_logits_over_unit_prototypes_are_cosines() -> None:
    torch.manual_seed(0)
    head = ProjectionHead(8, HeadSettings(hidden=32, bottleneck=16, prototypes=24, unit_prototypes=True))
    tokens = torch.randn(5, 8)
    cosines = torch.nn.functional.cosine_similarity(
        head.mlp(tokens)[:, None], head.prototypes.weight[None], dim=-1, eps=1e-12
    )
    torch.testing.assert_close(head(tokens), cosines)
    head(tokens).sum().backward()
    assert head.prototypes.weight.grad is not None


def test_dino_and_dinov2_keep_unit_prototypes_and_dinov3_does_not() -> None:
    kept = {name: load_recipe(name).dino.head.unit_prototypes for name in ("dino", "dinov2", "dinov3")}
    assert kept == {"dino": True, "dinov2": True, "dinov3": False}
    assert load_recipe("dinov2").ibot.head.unit_prototypes
