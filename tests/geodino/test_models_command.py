import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from geodino.backbones.backbone import save_backbone, untrained_backbone
from geodino.backbones.catalogue import catalogue, packaged
from geodino.backbones.published import FAMILY
from geodino.cli import build


def test_json_lists_every_fact():
    result = CliRunner().invoke(build(), ["models", "--json"])
    assert result.exit_code == 0
    rows = {row["name"]: row for row in json.loads(result.stdout)}
    assert {model.name for model in FAMILY} <= rows.keys()
    satellite = rows["vit_7b_patch16_dinov3.sat493m"]
    assert satellite == {
        "name": "vit_7b_patch16_dinov3.sat493m",
        "parameters": 6_716_030_976,
        "patch_size": 16,
        "prefix_tokens": 5,
        "bands": ["red", "green", "blue"],
        "gsd_range_m": [0.6, 0.6],
        "normalization": "sat493m",
        "licence": "dinov3-license",
        "here": satellite["here"],
        "weights_bytes_bf16": 13_432_061_952,
    }


def test_the_table_has_one_line_a_model_whatever_the_width():
    result = CliRunner().invoke(build(), ["models"])
    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines[1 : 1 + len(catalogue())]] == [entry.name for entry in catalogue()]


@pytest.mark.parametrize(
    ("architecture", "prefix"), [("vit_tiny_patch16_dinov3_qkvb", 5), ("vit_tiny_patch16_224", 1), ("convnext_atto", 0)]
)
def test_the_packaged_backbone_is_described_from_its_files(tmp_path, architecture, prefix):
    small = {"depths": (1, 1, 1, 1)} if architecture.startswith("convnext") else {"depth": 1}
    backbone = untrained_backbone(architecture, device="cpu", **small)
    save_backbone(backbone.module, backbone.card, tmp_path)
    (entry,) = packaged(tmp_path)
    assert entry.parameters == sum(p.numel() for p in backbone.module.parameters())
    assert (entry.patch_size, entry.prefix_tokens) == (backbone.patch_size, prefix)


def test_no_packaged_backbone_no_row(tmp_path):
    assert packaged(tmp_path) == []


def test_listing_needs_no_torch():
    code = "import sys; from geodino.backbones.catalogue import catalogue; catalogue(); "
    code += "assert not {'torch', 'timm', 'rasterio'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
