"""`geodino export`: a backbone for timm, torchgeo, ONNX Runtime and QGIS."""

from enum import StrEnum
from typing import Annotated

import typer

from geodino.cli.options import OutputOption, OverwriteOption


class Outputs(StrEnum):
    """Outputs of an ONNX file."""

    both = "both"
    embedding = "embedding"


def register(cli: typer.Typer) -> None:
    """Add the command."""
    cli.command("export")(export)


def export(
    output: OutputOption,
    backbone: Annotated[
        str | None,
        typer.Argument(metavar="BACKBONE", help="As for --backbone elsewhere; nothing for the packaged one."),
    ] = None,
    size: Annotated[int, typer.Option("--size", metavar="PIXELS", help="Image side that an ONNX file takes.")] = 224,
    outputs: Annotated[
        Outputs,
        typer.Option("--outputs", help="Of an ONNX file: tokens and embedding, or the embedding alone (for Deepness)."),
    ] = Outputs.both,
    overwrite: OverwriteOption = False,
) -> None:
    """Write a backbone for other programs: FILE.onnx, or else a FOLDER that timm and torchgeo load.

    Load the folder with timm.create_model("local-dir:FOLDER", pretrained=True); give torchgeo's ClassificationTask
    model="local-dir:FOLDER", weights=True. An ONNX file takes values in [0, 1], NaN for nodata, and gives the outputs
    named tokens and embedding; with --outputs embedding it is a recognition model of QGIS's Deepness plugin.
    """
    from geodino.backbones.backbone import load_backbone
    from pretrain.after.export import export_folder, export_onnx

    loaded = load_backbone(backbone, device="cpu", precision="fp32")
    if output.suffix == ".onnx":
        difference = export_onnx(loaded, output, size=size, outputs=outputs.value, overwrite=overwrite)
        checked = "not compared: onnxruntime is absent" if difference is None else f"off PyTorch by {difference:.1e}"
        typer.echo(f"{output}: {loaded.name} for images of {size} pixels ({checked})")
    else:
        export_folder(loaded, output, overwrite=overwrite)
        typer.echo(f'{output}: {loaded.name}; load it with timm.create_model("local-dir:{output}", pretrained=True)')
