"""Checkpoints: whole or absent, the last few and the milestones kept."""

from pathlib import Path

import pytest
import torch

from pretrain.engine.checkpoint import checkpoints, load_checkpoint, save_checkpoint
from tiles.errors import InputError


def test_the_last_checkpoints_and_the_milestones_are_kept(tmp_path: Path) -> None:
    for step in range(1, 11):
        save_checkpoint(tmp_path, step, {"student": {}}, keep=2, milestone_every=4)
    assert list(checkpoints(tmp_path)) == [4, 8, 9, 10]
    (tmp_path / "step-00000011.ckpt.part").write_bytes(b"half")
    assert max(checkpoints(tmp_path)) == 10


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, 1, {"student": {"w": torch.ones(1000)}}, keep=1, milestone_every=0)
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(InputError, match="is damaged or no checkpoint"):
        load_checkpoint(path)
