"""`geodino pretrain`: a tile set and a recipe in, a backbone out."""

import os
from pathlib import Path
from typing import Annotated

import typer

from geodino.cli.options import Device, DeviceOption, OutputOption


def register(cli: typer.Typer) -> None:
    """Add the command."""
    cli.command("pretrain")(pretrain)


def pretrain(
    tiles: Annotated[Path, typer.Argument(metavar="TILES", help="Tile set that `geodino tile` cut.")],
    output: OutputOption,
    recipe: Annotated[
        str | None,
        typer.Option(
            "--recipe",
            help="Packaged recipe (tiny, chips, sentinel, sentinel_hires, sentinel_adapt, small, base, large, adapt, "
            "dino, dinov2, dinov3) or a YAML file; tiny by default, and with --resume the run's own.",
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change one key, such as max_steps=60 or optimizer.lr=1e-3."),
    ] = None,
    init: Annotated[
        str | None, typer.Option("--init", metavar="BACKBONE", help="Start from these weights; take the recipe adapt.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the last checkpoint; from step 0 where there is none.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the resolved recipe, memory and time per step, and stop.")
    ] = False,
    device: DeviceOption = Device.auto,
) -> None:
    """Train a DINO, DINOv2 or DINOv3 backbone on satellite tiles.

    Writes OUTPUT/backbone.safetensors and backbone.json, checkpoints/, metrics.csv and recipe.yaml. On several GPUs
    start it with torchrun; batch_size counts the images of all of them.
    """
    from geodino.process import settle_process

    settle_process()
    from pretrain.engine.run import Run, describe
    from pretrain.engine.run import pretrain as train
    from pretrain.engine.run_folder import RECIPE_FILE
    from pretrain.recipes.loading import load_recipe
    from tiles.archive.dataset import TileDataset

    own = output / RECIPE_FILE
    chosen = recipe or (str(own) if resume and own.exists() else "tiny")
    resolved = load_recipe(chosen, settings or [])
    run = Run(TileDataset(tiles, resolved.split), str(tiles), output, resolved, init, device.value)
    main = os.environ.get("RANK", "0") == "0"
    if dry_run:
        text = describe(run)
        if main:
            typer.echo(text)
        return
    train(run, resume=resume, show=True)
    if main:
        typer.echo(f"{output}: backbone of {run.recipe.max_steps} steps; look at it with `geodino eval {output} DATA`")
