"""`geodino batch`."""

from pathlib import Path
from typing import Annotated

import typer

from geodino.cli.options import grouped
from geodino.jobs.run_options import RunOptions


def register(cli: typer.Typer) -> None:
    """Add the command."""

    @cli.command("batch")
    @grouped
    def batch(
        sources: Annotated[list[str], typer.Argument(help="A job file (.yaml), or scenes and quoted globs.")],
        output: Annotated[
            str | None,
            typer.Option("--output", "-o", help="Without a job file: where results go, such as 'out/{name}.zarr'."),
        ] = None,
        journal: Annotated[
            Path | None, typer.Option(help="Record of finished scenes; in the folder of the outputs if not given.")
        ] = None,
        quicklook: Annotated[bool, typer.Option("--quicklook", help="Also draw each feature cube (.png).")] = False,
        *,
        run: RunOptions,
    ) -> None:
        """Features, land-cover or change maps of many scenes; run again, it does what is left.

        Exits with 0 when every scene is done, with 1 when some could not be: each is named with its reason.
        """
        from geodino.jobs.batch import run_batch, template
        from geodino.jobs.batch_job import make_job, read_job
        from tiles.errors import InputError
        from tiles.progress import progress

        if len(sources) == 1 and sources[0].lower().endswith((".yaml", ".yml")):
            if output or quicklook or run != RunOptions(dask=run.dask, overwrite=run.overwrite):
                raise InputError(
                    f"{sources[0]} says itself where results go and how they are made: write output, backbone, device, "
                    "precision and quicklook into it"
                )
            job = read_job(Path(sources[0]))
        elif output is None:
            raise InputError("say where results go: -o 'out/{name}.zarr'")
        else:
            words = {"backbone": run.backbone, "device": run.device, "precision": run.precision}
            job = make_job(scenes=sources, output=template(output), quicklook=quicklook, **words)
        with progress("batch", 1) as report:
            result = run_batch(
                job, journal=journal, dask=run.dask, overwrite=run.overwrite, progress=report, say=typer.echo
            )
        for label, where in result.tracebacks.items():
            typer.echo(f"{label} failed as it should not; please report this:\n{where}", err=True)
        typer.echo(f"{len(result.made)} made, {len(result.kept)} kept from before, {len(result.failed)} failed")
        if result.failed:
            raise typer.Exit(1)
