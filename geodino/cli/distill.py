"""`geodino distill`: one frozen teacher in, several small backbones out."""

import os
from pathlib import Path
from typing import Annotated

import typer

from geodino.cli.options import Device, DeviceOption, OutputOption


def register(cli: typer.Typer) -> None:
    """Add the command."""
    cli.command("distill")(distill)


def distill(
    tiles: Annotated[Path, typer.Argument(metavar="TILES", help="Tile set that `geodino tile` cut.")],
    output: OutputOption,
    teacher: Annotated[str, typer.Option("--teacher", metavar="BACKBONE", help="Whom the students learn from.")],
    student: Annotated[
        list[str] | None,
        typer.Option("--student", metavar="ARCH", help="timm name of a ViT or ConvNeXt; several may be given."),
    ] = None,
    recipe: Annotated[
        Path | None, typer.Option("--recipe", metavar="FILE", help="YAML with students, ranks, crops, optimiser.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one key, such as max_steps=200.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the last checkpoints; from step 0 where there are none.")
    ] = False,
    device: DeviceOption = Device.auto,
) -> None:
    """Train small backbones to give the tokens of a large frozen one.

    Writes OUTPUT/STUDENT/backbone.safetensors and backbone.json for every student. All students of a run share the
    teacher's forward pass. Under torchrun each student gets processes of its own: `ranks` in the recipe, or by size.
    """
    from geodino.process import settle_process

    settle_process()
    from pretrain.distill.recipe import load_distill_recipe
    from pretrain.distill.run import Distillation
    from pretrain.distill.run import distill as train
    from tiles.archive.dataset import TileDataset

    resolved = load_distill_recipe(recipe, teacher, student or [], settings or [])
    run = Distillation(TileDataset(tiles), str(tiles), output, resolved, device.value)
    train(run, resume=resume, show=True)
    if os.environ.get("RANK", "0") == "0":
        typer.echo(f"{output}: {', '.join(resolved.names())} after {resolved.max_steps} steps")
