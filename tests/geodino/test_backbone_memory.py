import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh

from geodino.backbones import memory
from geodino.backbones.backbone import untrained_backbone
from geodino.backbones.memory import shard
from tiles.errors import InputError


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
