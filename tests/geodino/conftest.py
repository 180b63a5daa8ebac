"""Fixtures that tests of whole maps share: tiny untrained backbones, and a model trained on one."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))  # the tests' own helpers are no package

if TYPE_CHECKING:
    from geodino.backbones.backbone import Backbone


@pytest.fixture(scope="module")
def backbone() -> "Backbone":
    """A tiny untrained backbone, where a module makes none of its own."""
    from change_testing import TINY

    from geodino.backbones.backbone import untrained_backbone

    return untrained_backbone("vit_tiny_patch16_dinov3_qkvb", device="cpu", precision="fp32", **TINY)


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny untrained backbone."""
    from geodino.backbones.backbone import save_backbone, untrained_backbone

    folder = tmp_path_factory.mktemp("run")
    backbone = untrained_backbone("vit_small_patch16_dinov3", depth=1, embed_dim=64, num_heads=2, precision="fp32")
    save_backbone(backbone.module, backbone.card, folder)
    return folder


@pytest.fixture
def land_model(tmp_path: Path, run_folder: Path) -> Path:
    """A head that tells dark ground from bright, trained on a scene of two halves."""
    from batch_testing import write_scene

    import geodino
    from geodino.backbones.backbone import load_backbone

    rng = np.random.default_rng(9)
    array = rng.integers(1, 90, (3, 96, 96), dtype=np.uint8)
    array[:, :, 48:] += 150
    write_scene(tmp_path / "halves.tif", array)
    kinds = np.zeros((96, 96), np.uint8)
    kinds[::8, ::8] = 1
    kinds[::8, 56::8] = 2
    write_scene(tmp_path / "kinds.tif", kinds[None])
    backbone = load_backbone(run_folder, device="cpu", precision="fp32")
    words = {"labels": tmp_path / "kinds.tif", "save_model": tmp_path / "land.safetensors", "backbone": backbone}
    geodino.segment(tmp_path / "halves.tif", tmp_path / "halves-map.tif", **words)
    return tmp_path / "land.safetensors"
