import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh

from geodino.backbones import memory
from geodino.backbones.backbone import untrained_backbone
from geodino.backbones.memory import plan, shard
from tiles.errors import InputError


def test_seven_billion_parameters_are_planned_without_being_made():
    one = plan("vit_7b_patch16_dinov3")
    assert one.parameters == 6_716_030_976
    assert one.weights == one.shard == 2 * one.parameters and one.gathered == 0
    four = plan("vit_7b_patch16_dinov3", devices=4)
    assert four.shard == pytest.approx(one.weights / 4)
    # a block: four 4096² projections, three of 4096 × 8192, and little else
    assert four.gathered == pytest.approx(2 * (4 * 4096**2 + 3 * 4096 * 8192), rel=0.001)
    assert four.device < one.device / 3


def test_the_plan_of_a_small_model_is_the_models_own_size():
    backbone = untrained_backbone("vit_tiny_patch16_dinov3_qkvb", device="cpu", precision="bf16", depth=3)
    planned = plan("vit_tiny_patch16_dinov3_qkvb", depth=3)
    assert planned.weights == sum(p.numel() * p.itemsize for p in backbone.module.parameters())


def test_activations_grow_with_batch_and_pixels():
    small, larger = plan("vit_tiny_patch16_dinov3_qkvb"), plan("vit_tiny_patch16_dinov3_qkvb", batch=3, side=512)
    assert larger.activations == pytest.approx(3 * 4 * small.activations, rel=0.02)


def test_a_convnext_is_not_sharded():
    with pytest.raises(InputError, match="no transformer blocks to plan"):
        plan("convnext_tiny")


def test_weights_that_do_not_fit_are_refused_with_the_way_out(monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda device: 1_000_000)
    with pytest.raises(InputError, match=r"need 0\.0 GiB and cpu has 0\.0 free; --precision bf16 halves it"):
        untrained_backbone("vit_tiny_patch16_dinov3_qkvb", device="cpu", precision="fp32", depth=1)


@pytest.mark.slow
def test_a_sharded_backbone_gives_the_same_tokens(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    try:
        backbone = untrained_backbone("vit_tiny_patch16_dinov3_qkvb", device="cpu", precision="fp32", depth=2)
        x = torch.randn(2, 3, 32, 48)
        expected = backbone.encode(x)
        shard(backbone.module, init_device_mesh("cpu", (1,)))
        found = backbone.encode(x)
        torch.testing.assert_close(found.cls, expected.cls)
        torch.testing.assert_close(found.patches, expected.patches)
    finally:
        torch.distributed.destroy_process_group()
