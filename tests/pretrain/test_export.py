"""Exports: timm, torchgeo and ONNX Runtime give the tokens that geodino gives."""

import json

import numpy as np
import onnx
import onnxruntime
import pytest
import timm
import torch
import typer
from typer.testing import CliRunner

from geodino.backbones.backbone import load_backbone, save_backbone, untrained_backbone
from geodino.backbones.normalize import standardize
from geodino.cli.export import register
from pretrain.after.export import export_folder, export_onnx
from tiles.errors import InputError, OutputError

BANDS = ("blue", "green", "red", "nir")


@pytest.fixture(scope="module")
def vit():
    return untrained_backbone("vit_tiny_patch16_dinov3_qkvb", precision="fp32", init_values=0.5, depth=3)


@pytest.fixture(scope="module")
def four_bands():
    return untrained_backbone("vit_tiny_patch16_dinov3_qkvb", BANDS, precision="fp32", init_values=0.5, depth=2)


@pytest.fixture(scope="module")
def convnext():
    return untrained_backbone("convnext_atto", precision="fp32")


def _values(bands: int, size: int) -> torch.Tensor:
    return torch.rand(2, bands, size, size, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("kind", ["vit", "four_bands", "convnext"])
def test_timm_loads_the_folder_by_itself(kind, request, tmp_path):
    backbone = request.getfixturevalue(kind)
    export_folder(backbone, tmp_path / "out")
    model = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    x = standardize(_values(len(backbone.bands), 96), None, backbone.normalization)
    with torch.no_grad():
        assert torch.equal(model.forward_features(x), backbone.module.forward_features(x))
    assert tuple(model.pretrained_cfg["mean"]) == backbone.normalization.mean
    assert model.pretrained_cfg["input_size"][0] == len(backbone.bands)


def test_geodino_loads_the_folder_too(vit, tmp_path):
    export_folder(vit, tmp_path / "out")
    again = load_backbone(tmp_path / "out" / "model.safetensors", device="cpu", precision="fp32")
    assert again.hash == vit.hash and again.bands == vit.bands


@pytest.mark.slow
def test_torchgeo_tasks_take_the_folder_as_backbone(vit, convnext, tmp_path):
    from torchgeo.trainers import ClassificationTask, SemanticSegmentationTask

    export_folder(vit, tmp_path / "vit")
    export_folder(convnext, tmp_path / "convnext")
    image = torch.rand(1, 3, 64, 64)
    classify = ClassificationTask(
        model=f"local-dir:{tmp_path / 'vit'}", weights=True, task="multiclass", num_classes=10, freeze_backbone=True
    )
    assert classify.eval()(image).shape == (1, 10)
    assert torch.equal(classify.model.blocks[0].attn.qkv.weight, vit.module.blocks[0].attn.qkv.weight)
    segment = SemanticSegmentationTask(
        model="unet", backbone=f"tu-local-dir:{tmp_path / 'convnext'}", weights=True, task="multiclass", num_classes=4
    )
    assert segment.eval()(image).shape == (1, 4, 64, 64)
    assert torch.equal(segment.model.encoder.model.stem_0.weight, convnext.module.stem[0].weight)


@pytest.mark.slow
def test_torchgeo_segments_on_a_vit_through_dpt(tmp_path):
    from torchgeo.trainers import SemanticSegmentationTask

    backbone = untrained_backbone("vit_tiny_patch16_dinov3_qkvb", precision="fp32", init_values=0.5, depth=4)
    export_folder(backbone, tmp_path / "out")
    task = SemanticSegmentationTask(
        model="dpt", backbone=f"tu-local-dir:{tmp_path / 'out'}", weights=True, task="multiclass", num_classes=4
    )
    assert task.eval()(torch.rand(1, 3, 64, 64)).shape == (1, 4, 64, 64)
    assert torch.equal(task.model.encoder.model.patch_embed.proj.weight, backbone.module.patch_embed.proj.weight)


@pytest.mark.parametrize("kind", ["vit", "four_bands", "convnext"])
def test_onnx_runtime_gives_the_tokens_of_encode(kind, request, tmp_path):
    backbone = request.getfixturevalue(kind)
    path = tmp_path / "out.onnx"
    assert export_onnx(backbone, path, size=64) < 1e-3
    values = _values(len(backbone.bands), 64)
    hole = values.clone()
    hole[1, 0, 20:40] = torch.nan  # one band suffices
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert [o.name for o in session.get_outputs()] == ["tokens", "embedding"]
    assert session.get_inputs()[0].shape[1:] == [len(backbone.bands), 64, 64]
    tokens, embedding = session.run(None, {"values": hole.numpy()})
    expected = backbone.encode(standardize(values, ~hole.isnan().any(1), backbone.normalization))
    np.testing.assert_allclose(tokens, expected.patches.numpy(), atol=1e-3)
    np.testing.assert_allclose(embedding, expected.cls.numpy(), atol=1e-3)


def test_a_recognition_model_is_what_deepness_reads(vit, tmp_path):
    path = tmp_path / "out.onnx"
    backbone = load_backbone(_saved(vit, tmp_path), device="cpu", precision="fp32")
    export_onnx(backbone, path, size=64, outputs="embedding")
    model = onnx.load(str(path))
    assert model.opset_import[0].version == 17 and model.ir_version <= 8
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    # One input of bytes / 255, one output [batch, D]; the plugin knows no more than this and the metadata.
    assert len(session.get_inputs()) == 1 and [len(o.shape) for o in session.get_outputs()] == [2]
    props = session.get_modelmeta().custom_metadata_map
    assert json.loads(props["model_type"]) == "Recognition"
    assert json.loads(props["tile_size"]) == 64
    assert json.loads(props["resolution"]) == pytest.approx(200.0)  # between 1 m and 4 m
    card = json.loads(props["geodino"])
    assert card["bands"] == list(vit.bands) and card["weights_hash"] == vit.hash


def _saved(backbone, folder):
    save_backbone(backbone.module, backbone.card.model_copy(update={"gsd_range_m": (1.0, 4.0)}), folder / "run")
    return folder / "run"


def test_outputs_are_not_replaced_unasked(vit, tmp_path):
    (tmp_path / "out.onnx").write_text("mine")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match="--overwrite"):
        export_onnx(vit, tmp_path / "out.onnx", size=32)
    for overwrite in (False, True):  # a folder that is no export is never replaced
        with pytest.raises(OutputError, match="exists"):
            export_folder(vit, tmp_path / "folder", overwrite=overwrite)
    export_folder(vit, tmp_path / "again")
    export_folder(vit, tmp_path / "again", overwrite=True)
    assert (tmp_path / "out.onnx").read_text() == "mine"
    assert not list(tmp_path.glob("*.part"))


def test_a_size_of_no_whole_patches_is_refused(vit, tmp_path):
    with pytest.raises(InputError, match="16-pixel patch"):
        export_onnx(vit, tmp_path / "out.onnx", size=100)


def test_the_command_writes_both_kinds(vit, tmp_path):
    cli = typer.Typer()
    register(cli)
    run = str(_saved(vit, tmp_path))
    found = CliRunner().invoke(cli, [run, "-o", str(tmp_path / "out.onnx"), "--size", "32"], catch_exceptions=False)
    assert found.exit_code == 0 and "off PyTorch by" in found.output
    found = CliRunner().invoke(cli, [run, "-o", str(tmp_path / "folder")], catch_exceptions=False)
    assert found.exit_code == 0 and (tmp_path / "folder" / "config.json").exists()
