"""`geodino app`."""

import os
from pathlib import Path
from typing import Annotated

import typer

from geodino.cli.options import BackboneOption, DaskOption


def register(cli: typer.Typer) -> None:
    """Add the command."""

    @cli.command("app")
    def app(
        scenes: Annotated[
            list[str] | None,
            typer.Argument(metavar="[SCENE]...", help="Rasters, folders of single bands or maps to begin with."),
        ] = None,
        port: Annotated[int, typer.Option("--port", min=1, max=65535, help="Port of the one server.")] = 8501,
        address: Annotated[
            str, typer.Option("--address", help="Address to listen on; the default serves this machine alone.")
        ] = "127.0.0.1",
        work: Annotated[
            Path, typer.Option("--work", metavar="FOLDER", help="Where projects, jobs, uploads and results are kept.")
        ] = Path("geodino-work"),
        allow: Annotated[
            list[Path] | None,
            typer.Option(
                "--allow", metavar="FOLDER", help="Folder whose rasters analysts may open by path; repeatable."
            ),
        ] = None,
        backbone: BackboneOption = None,
        dask: DaskOption = None,
    ) -> None:
        """Open the web map: look at scenes, segment from examples, find changes, follow a training run."""
        from tiles.errors import InputError

        try:
            from app.server import prepare, serve
        except ModuleNotFoundError as error:
            raise InputError(f"the web map needs {error.name}; run: pip install 'geodino[app]'") from error

        for folder in allow or ():
            if not os.path.isdir(folder):
                raise InputError(f"--allow {folder} is no folder.")
        workspace = prepare(scenes or [], work, allow=allow or (), backbone=backbone, dask=dask)
        shown = "localhost" if address in {"127.0.0.1", "::1"} else address
        typer.echo(
            f"The web map is at http://{shown}:{port} (Ctrl-C ends it; everything is kept in {workspace.folder})."
        )
        serve(workspace, port=port, address=address)
