"""`geodino tile`: scenes into a tile set; `geodino tiles …`: looking after one."""

from pathlib import Path
from typing import Annotated

import typer

from geodino.cli import curate, tileset
from geodino.cli.options import BandNamesOption, DaskOption, OutputOption, OverwriteOption, names


def register(cli: typer.Typer) -> None:
    """Add the command and those beside it: `tiles …` and `curate`."""
    cli.command("tile")(tile)
    tileset.register(cli)
    curate.register(cli)


def tile(
    scenes: Annotated[
        list[str],
        typer.Argument(
            metavar="SCENE...",
            help="Rasters, URLs, folders of single-band files, STAC items, image folders or zips (CLASS/NAME.jpg).",
        ),
    ],
    output: OutputOption,
    size: Annotated[int, typer.Option("--size", min=8, help="Side of a tile in pixels.")] = 256,
    gsd: Annotated[
        float | None,
        typer.Option(
            "--gsd",
            metavar="METRES",
            min=1e-6,
            help="Bring every scene to this pixel size; for rasters without georeference, say their pixel size.",
        ),
    ] = None,
    sensor: Annotated[
        str | None, typer.Option("--sensor", help="Sensor of the scenes, where names and tags do not tell it.")
    ] = None,
    bands: Annotated[str, typer.Option("--bands", help="Bands to keep, in order.")] = "red,green,blue",
    band_names: BandNamesOption = None,
    min_valid: Annotated[
        float, typer.Option("--min-valid", min=0, max=1, help="Least share of valid pixels in a tile.")
    ] = 0.9,
    max_cloud: Annotated[
        float, typer.Option("--max-cloud", min=0, max=1, help="Largest share of cloud, where a mask tells.")
    ] = 1.0,
    min_std: Annotated[
        float, typer.Option("--min-std", min=0, max=1, help="Leave out tiles flatter than this (standard deviation).")
    ] = 0.0,
    mask: Annotated[
        Path | None, typer.Option("--mask", help="Raster that is 0 where the scenes are not to be used.")
    ] = None,
    workers: Annotated[
        int, typer.Option("--workers", min=0, help="Processes; 0 takes one a core where it is worth it.")
    ] = 0,
    overwrite: OverwriteOption = False,
    dask: DaskOption = None,
) -> None:
    """Cut scenes into a tile set of memory-mapped shards with a GeoParquet index.

    Running it again on the same folder finishes an interrupted cut, or adds scenes to a finished one.
    """
    from tiles.cut import cut
    from tiles.errors import InputError
    from tiles.expand import expand
    from tiles.plan import CutSettings, Request
    from tiles.preview import write_previews
    from tiles.progress import progress

    kept = names(bands)
    if not kept:
        raise InputError("--bands names no band.")
    settings = CutSettings(size, kept, gsd, min_valid, max_cloud, min_std)
    requests = [
        Request(found.source, sensor, names(band_names), None if mask is None else str(mask), found.label)
        for scene in scenes
        for found in expand(scene)
    ]
    with progress("cutting", 1.0) as bar:
        report = cut(requests, output, settings, workers=workers, dask=dask, overwrite=overwrite, progress=bar)
    write_previews(output)
    for source, notes in report.notes:
        typer.echo(source)
        for note in notes:
            typer.echo(f"  {note}")
    for text in report.repeated:
        typer.echo(f"{text}: not cut again")
    typer.echo(f"{report.added} tiles added ({report.seen} looked at); {report.tiles} tiles in {output}")
    if report.failures:
        for failure in report.failures:
            typer.echo(f"failed: {failure.reason}", err=True)
        raise InputError(
            f"{len(report.failures)} of the sources could not be cut (listed in {output / 'failures.csv'}); "
            "the others are in the tile set."
        )
