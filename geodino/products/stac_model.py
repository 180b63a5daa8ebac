"""The model behind a product, in the fields of STAC's machine-learning-model extension."""

from collections.abc import Mapping
from typing import Any

import pystac
import torch
from pystac.extensions import mlm
from pystac.extensions.raster import DataType

from geodino.backbones.backbone import Backbone


def describe_model(item: pystac.Item, backbone: Backbone, task: str, settings: Mapping[str, Any]) -> None:
    """Write into an item what a backbone is, takes and gives.

    Args:
        item: Item of a product.
        backbone: The model that made it.
        task: What was done, see ``geodino.products.stac.write_item``.
        settings: What else the product depends on.
    """
    known = task in ("similarity-search", "semantic-segmentation")
    model = mlm.ItemMLMExtension(item)
    model.mlm_name = model_name(backbone.name)
    model.architecture = backbone.architecture
    model.framework, model.framework_version = "PyTorch", torch.__version__.split("+")[0]
    known = task in ("similarity-search", "semantic-segmentation")
    model.tasks = [mlm.TaskType(task) if known else mlm.TaskType.REGRESSION]
    model.total_parameters = sum(p.numel() for p in backbone.module.parameters())
    model.hyperparameters = mlm.Hyperparameters.create(weights_sha256=backbone.hash, **settings)
    model.input = [_input(backbone)]
    result = mlm.ResultStructure.create(*_images(backbone.embed_dim))
    model.output = [mlm.ModelOutput.create("patch tokens", [mlm.TaskType.REGRESSION], result)]


def _input(backbone: Backbone) -> mlm.ModelInput:
    found = mlm.ModelInput.create(
        name="windows of values in [0, 1]",
        bands=list(backbone.bands),
        input=mlm.InputStructure.create(*_images(len(backbone.bands))),
    )
    # The extension has one scaling a band, pystac's property one for all of them.
    found.properties["value_scaling"] = [
        mlm.ValueScaling.create(mlm.ValueScalingType.Z_SCORE, mean=mean, stddev=std).to_dict()
        for mean, std in zip(backbone.normalization.mean, backbone.normalization.std, strict=True)
    ]
    return found


def _images(channels: int) -> tuple[list[int], list[str], DataType]:
    """Shape, order of dimensions and number type of images of any count and size."""
    return [-1, channels, -1, -1], ["batch", "channel", "height", "width"], DataType.FLOAT32


def model_name(backbone: str) -> str:
    """A backbone's name in the letters that the extension allows."""
    letters = "".join(c if c.isascii() and (c.isalnum() or c in "_.-") else "-" for c in backbone).strip("-_.")
    return letters if letters[:1].isalpha() and len(letters) > 2 else f"geodino-{letters or 'backbone'}-model"
