"""The forward pass on a processor is timm's own, whatever the model and the length."""

from typing import Any

import pytest
import torch

from geodino.backbones.backbone import create_module
from geodino.backbones.cpu_forward import forward_features

SMALL = {"depth": 2, "embed_dim": 64, "num_heads": 2}
FAMILY = [
    ("vit_tiny_patch16_dinov3_qkvb", {**SMALL, "init_values": 0.2}, 16),
    ("vit_small_plus_patch16_dinov3", {**SMALL, "init_values": 0.3}, 16),
    ("vit_small_patch14_reg4_dinov2", {**SMALL, "init_values": 0.2}, 14),
    ("vit_small_patch16_224", dict(SMALL), 16),
    ("convnext_atto", {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32)}, 32),
]


@pytest.mark.parametrize("side", [(1, 1), (3, 5), (14, 14)], ids=["one token", "few", "more than plain products take"])
@pytest.mark.parametrize(("name", "arguments", "patch"), FAMILY, ids=[row[0] for row in FAMILY])
def test_features_are_timms(name: str, arguments: dict[str, Any], patch: int, side: tuple[int, int]) -> None:
    torch.manual_seed(0)
    module = create_module(name, 3, **arguments).eval()
    pixels = torch.randn(2, 3, side[0] * patch, side[1] * patch)
    with torch.inference_mode():
        torch.testing.assert_close(
            forward_features(module, pixels), module.forward_features(pixels), atol=1e-5, rtol=1e-4
        )


def test_in_bf16_features_are_as_near_to_the_exact_ones_as_timms() -> None:
    torch.manual_seed(0)
    module = create_module("vit_tiny_patch16_dinov3_qkvb", 3, **SMALL, init_values=0.2).eval()
    pixels = torch.randn(8, 3, 128, 128)
    with torch.inference_mode():
        exact = module.forward_features(pixels)
        module.bfloat16()
        ours, timms = forward_features(module, pixels.bfloat16()), module.forward_features(pixels.bfloat16())
    assert (ours - exact).norm() < 1.2 * (timms - exact).norm()


def test_a_module_that_something_hooks_into_runs_as_it_is() -> None:
    module = create_module("vit_tiny_patch16_dinov3_qkvb", 3, **SMALL).eval()
    seen: list[int] = []
    hook = module.blocks[0].register_forward_hook(lambda *_: seen.append(1))
    forward_features(module, torch.randn(1, 3, 32, 32))
    hook.remove()
    forward_features(module, torch.randn(1, 3, 32, 32))
    assert seen == [1]
