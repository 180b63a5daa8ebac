"""How a process joins a run."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pretrain.engine.parallel import Parallel
from pretrain.ranks import ALONE


@pytest.mark.parametrize("world", [1, 2])
def test_every_process_on_a_gpu_multiplies_in_tf32(
    world: int, make_recipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    fabric = SimpleNamespace(launch=lambda: None, device=torch.device("cpu"), backward=None)
    monkeypatch.setattr("lightning.fabric.Fabric", lambda **_: fabric)
    monkeypatch.setattr("pretrain.engine.parallel.pick_device", lambda _: torch.device("cuda"))
    monkeypatch.setattr(torch.backends.cuda, "matmul", SimpleNamespace(allow_tf32=False))
    monkeypatch.setattr("pretrain.engine.parallel.Group", lambda: ALONE)
    monkeypatch.setenv("WORLD_SIZE", str(world))
    Parallel.start(make_recipe())
    assert torch.backends.cuda.matmul.allow_tf32
