"""A backbone in the forms that other programs read: a folder for timm and torchgeo, an ONNX file for everything else.

The folder is timm's own layout (``config.json`` beside ``model.safetensors``)::

    timm.create_model("local-dir:FOLDER", pretrained=True)
    torchgeo.trainers.ClassificationTask(model="local-dir:FOLDER", weights=True, num_classes=10)
    torchgeo.trainers.SemanticSegmentationTask(model="dpt", backbone="tu-local-dir:FOLDER", weights=True, num_classes=4)

The ONNX file takes values in [0, 1] and standardises them itself, so that no caller can do it wrongly.
"""

import json
import math
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, cast

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from geodino.backbones.backbone import Backbone
from geodino.backbones.card import BackboneCard
from tiles.errors import InputError, OutputError
from tiles.writing.outputs import check_output, locked, part_of, replace_folder, replacing

TIMM_WEIGHTS, TIMM_CONFIG, CARD = "model.safetensors", "config.json", "model.json"
# Opset 17 in IR version 8 is read by ONNX Runtime from 1.12 on; QGIS's Deepness plugin allows 1.12.1 to 1.17.
OPSET = 17
TOLERANCE = 1e-3
_MOST_BYTES = 2**31  # protobuf's limit on one file

Outputs = Literal["both", "embedding"]


def export_folder(backbone: Backbone, folder: Path, *, overwrite: bool = False) -> None:
    """Write a folder that timm, and through timm torchgeo, loads by itself.

    Args:
        backbone: A float32 backbone on the CPU.
        folder: ``model.safetensors`` (tensors under timm's names), ``config.json`` (timm's) and ``model.json`` (the
            card, so that geodino loads ``FOLDER/model.safetensors`` too) are written into it.
        overwrite: Replace an existing folder of this kind.

    Raises:
        InputError: When timm's model has no place for a tensor of the backbone.
        OutputError: When the folder exists and is not to be replaced.
    """
    tensors = {name: value.detach().contiguous() for name, value in backbone.module.state_dict().items()}
    tensors.pop("rope.periods", None)  # computed by timm; original checkpoints hold them rounded to bfloat16
    if any(name.startswith("norm.prefix") for name in tensors):
        raise InputError(
            f"{backbone.name} norms its class token apart from its patches, which timm cannot; export it to ONNX"
        )
    if os.path.exists(folder) and not (overwrite and _is_export(folder)):
        raise OutputError(f"{folder} exists already; add --overwrite to replace an export, or name another folder")
    with _writing(folder, overwrite=overwrite):
        part = part_of(folder)
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        save_file(tensors, part / TIMM_WEIGHTS, metadata={"format": "pt"})
        (part / TIMM_CONFIG).write_text(json.dumps(timm_config(backbone), indent=2) + "\n")
        if backbone.card is not None:
            card = backbone.card.model_copy(update={"weights_hash": ""})
            (part / CARD).write_text(card.model_dump_json(indent=2) + "\n")
        old = replace_folder(part, folder)
        if old is not None:
            shutil.rmtree(old)


@contextmanager
def _writing(output: Path, *, overwrite: bool) -> Iterator[None]:
    """Make an output's folder, check the output and keep other processes from writing it."""
    output.parent.mkdir(parents=True, exist_ok=True)
    check_output(output, overwrite=overwrite)
    with locked(output):
        yield


def _is_export(folder: Path) -> bool:
    return folder.is_dir() and {TIMM_WEIGHTS, TIMM_CONFIG} <= {path.name for path in folder.iterdir()}


def timm_config(backbone: Backbone) -> dict[str, Any]:
    """What timm's ``config.json`` says about a backbone: how to build it and what its input must go through."""
    settings = backbone.module.pretrained_cfg
    transformer = hasattr(backbone.module, "blocks")
    arguments: dict[str, Any] = dict(backbone.card.model_args) if backbone.card else {}
    if transformer:
        arguments["dynamic_img_size"] = True
    if len(backbone.bands) != 3:
        arguments["in_chans"] = len(backbone.bands)
    size = settings["input_size"][-1]
    return {
        "architecture": backbone.architecture.split(".")[0],
        "num_classes": 0,
        "num_features": backbone.embed_dim,
        "global_pool": "token" if transformer else "avg",
        "model_args": arguments,
        "pretrained_cfg": {
            "tag": "geodino",
            "custom_load": False,
            "input_size": [len(backbone.bands), size, size],
            "fixed_input_size": False,
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            "mean": list(backbone.normalization.mean),
            "std": list(backbone.normalization.std),
            "num_classes": 0,
            "first_conv": settings["first_conv"],
            "classifier": settings["classifier"],
            "license": backbone.licence,
            "description": f"bands in order: {', '.join(backbone.bands)}; values in [0, 1] before mean and std",
        },
    }


class ExportedBackbone(nn.Module):
    """A backbone as ONNX sees it: values in, tokens and embedding out, for one size of image.

    Args:
        backbone: A float32 backbone on the CPU.
        size: Pixels along the image's side.
        outputs: ``both`` gives (tokens, embedding), ``embedding`` that alone.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: Backbone, size: int, outputs: Outputs = "both") -> None:
        super().__init__()
        self.module: nn.Module = backbone.module
        self.side, self.dim, self.prefix = size // backbone.patch_size, backbone.embed_dim, backbone.prefix_tokens
        self.outputs = outputs
        self.register_buffer("mean", torch.tensor(backbone.normalization.mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(backbone.normalization.std).view(-1, 1, 1))

    def forward(self, values: Tensor) -> tuple[Tensor, Tensor] | Tensor:
        """Encode values ``[B, C, S, S]`` in [0, 1]; a pixel with a NaN has no data and is taken as the mean.

        Returns:
            Final-norm patch tokens ``[B, D, S/p, S/p]`` and class token ``[B, D]``, float32, or the latter alone.
        """
        model = cast(Any, self.module)
        seen = values.sum(1, keepdim=True)  # NaN where any band is
        standard = torch.where(seen == seen, (values - self.mean) / self.std, torch.zeros_like(values))
        features = model.forward_features(standard)
        if features.ndim == 4:  # ConvNeXt: a map, not yet normed
            tokens, embedding = model.head.norm(features), model.head.norm(features.mean((-2, -1), keepdim=True))
        else:
            tokens, embedding = features[:, self.prefix :].transpose(1, 2), features[:, 0]
        embedding = embedding.reshape(-1, self.dim)
        return (
            embedding
            if self.outputs == "embedding"
            else (tokens.reshape(-1, self.dim, self.side, self.side), embedding)
        )


def export_onnx(
    backbone: Backbone, path: Path, *, size: int = 224, outputs: Outputs = "both", overwrite: bool = False
) -> float | None:
    """Write an ONNX file.

    Input ``values`` ``[batch, C, size, size]`` float32 in [0, 1], NaN where there is no data; outputs ``tokens``
    ``[batch, D, size / p, size / p]`` and ``embedding`` ``[batch, D]``. With ``outputs="embedding"`` the file has that
    one output and is what QGIS's Deepness plugin calls a recognition model: it finds the places of a raster that look
    like a picture. The metadata holds Deepness's keys and, under ``geodino``, the card.

    Args:
        backbone: A float32 backbone on the CPU.
        path: File to write.
        size: Pixels along the image's side, a multiple of the patch size.
        outputs: Which outputs the file has.
        overwrite: Replace an existing file.

    Returns:
        Largest difference to PyTorch on random values, measured with ONNX Runtime; None where that is not installed.

    Raises:
        InputError: When ``size`` does not fit, the backbone is too large for one file, or ``onnx`` is missing.
        OutputError: When the file exists, or its outputs differ from PyTorch's by more than 1e-3.
    """
    if find_spec("onnx") is None:
        raise InputError("exporting to ONNX needs the onnx package; install geodino[pretrain]")
    if size < backbone.patch_size or size % backbone.patch_size:
        raise InputError(f"--size {size} is no multiple of the {backbone.patch_size}-pixel patch of {backbone.name}")
    if sum(p.numel() * 4 for p in backbone.module.parameters()) >= _MOST_BYTES:
        raise InputError(f"{backbone.name} is larger than the 2 GiB of one ONNX file; export a folder instead")
    wrapped = ExportedBackbone(backbone, size, outputs).eval()
    names = ["embedding"] if outputs == "embedding" else ["tokens", "embedding"]
    generator = torch.Generator().manual_seed(0)
    sample = torch.rand(2, len(backbone.bands), size, size, generator=generator)
    with _writing(path, overwrite=overwrite), replacing(path) as part:
        with warnings.catch_warnings(), torch.no_grad():
            # The newer exporter writes opset 18 at least, which older ONNX Runtimes and with them Deepness cannot read.
            warnings.simplefilter("ignore")
            torch.onnx.export(
                wrapped,
                (sample,),
                str(part),
                input_names=["values"],
                output_names=names,
                dynamic_axes={name: {0: "batch"} for name in ["values", *names]},
                opset_version=OPSET,
                dynamo=False,
            )
        _add_metadata(part, metadata(backbone, size, outputs))
        difference = _difference(part, wrapped, len(backbone.bands), size)
        if difference is not None and not difference <= TOLERANCE:
            raise OutputError(f"the ONNX file of {backbone.name} gives other tokens (by {difference:.2g}); not written")
    return difference


def metadata(backbone: Backbone, size: int, outputs: Outputs) -> dict[str, str]:
    """Metadata of the ONNX file: Deepness's keys, JSON-encoded as it wants them, and ours."""
    card = backbone.card or BackboneCard(
        architecture=backbone.architecture,
        bands=backbone.bands,
        mean=backbone.normalization.mean,
        std=backbone.normalization.std,
        patch_size=backbone.patch_size,
    )
    # Deepness's documentation says tiles_size, its code reads tile_size.
    found: dict[str, Any] = {"tile_size": size, "tiles_size": size, "tiles_overlap": 50}
    if outputs == "embedding":
        found["model_type"] = "Recognition"
    if backbone.gsd_range_m is not None:
        found["resolution"] = round(100 * math.sqrt(math.prod(backbone.gsd_range_m)), 3)  # centimetres a pixel
    found["geodino"] = card.model_dump(mode="json") | {"name": backbone.name, "weights_hash": backbone.hash}
    return {key: json.dumps(value) for key, value in found.items()}


def _add_metadata(path: Path, values: dict[str, str]) -> None:
    import onnx

    model = onnx.load(str(path))
    onnx.helper.set_model_props(model, values)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


def _difference(path: Path, module: nn.Module, bands: int, size: int) -> float | None:
    """Largest absolute difference between ONNX Runtime and PyTorch, on a batch of another length with nodata."""
    if find_spec("onnxruntime") is None:
        return None
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    values = torch.rand(3, bands, size, size, generator=torch.Generator().manual_seed(1))
    values[0, 0, : size // 2] = torch.nan
    found = session.run(None, {"values": values.numpy()})
    with torch.no_grad():
        expected = module(values)
    pairs = zip(found, [expected] if isinstance(expected, Tensor) else expected, strict=True)
    return max(float((torch.from_numpy(a) - b).abs().max()) for a, b in pairs)
