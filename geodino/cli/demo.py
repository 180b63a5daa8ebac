"""`geodino demo`: the whole main job on scenes that come with installed packages, or on the user's own."""

from pathlib import Path
from typing import Annotated

import typer

from geodino.cli.options import OverwriteOption


def register(cli: typer.Typer) -> None:
    """Add the command."""
    cli.command("demo")(run)


def run(
    scenes: Annotated[
        list[str] | None, typer.Argument(metavar="[SCENE...]", help="Your own scenes; none takes the packaged ones.")
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the results.")] = Path("demo"),
    steps: Annotated[
        int,
        typer.Option(
            "--steps", min=2, help="Training steps from the packaged backbone on; more take longer and learn more."
        ),
    ] = 60,
    overwrite: OverwriteOption = False,
) -> None:
    """Cut tiles, go on with the packaged backbone's pretraining on them, and make maps.

    Takes a few minutes. Everything is written under the output folder, maps as Cloud-Optimized GeoTIFFs; open
    index.html there in a browser.
    """
    from geodino.demo.flow import make_demo

    make_demo(scenes or [], output, steps=steps, overwrite=overwrite, say=typer.echo)
