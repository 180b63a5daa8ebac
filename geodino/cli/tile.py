"""`geodino tile`: scenes into a tile set; `geodino tiles …`: looking after one."""

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from geodino.cli import curate, tileset
from geodino.cli.options import BandNamesOption, DaskOption, OutputOption, OverwriteOption, SensorOption, names

if TYPE_CHECKING:
    from tiles.scenes.expand import Found


def register(cli: typer.Typer) -> None:
    """Add the command and those beside it: `tiles …` and `curate`."""
    cli.command("tile")(tile)
    tileset.register(cli)
    curate.register(cli)


def tile(
    output: OutputOption,
    scenes: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="SCENE...",
            help="Rasters, URLs, folders of single-band files, STAC items, image folders or zips (CLASS/NAME.jpg), "
            "torchgeo:NAME:FOLDER.",
        ),
    ] = None,
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
    sensor: SensorOption = None,
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
    stac: Annotated[str | None, typer.Option("--stac", metavar="URL", help="Search a STAC API for scenes.")] = None,
    collection: Annotated[str | None, typer.Option("--collection", help="STAC collections to search.")] = None,
    bbox: Annotated[str | None, typer.Option("--bbox", metavar="W,S,E,N", help="Where to search, in degrees.")] = None,
    datetime: Annotated[
        str | None,
        typer.Option("--datetime", help="When: 2024-06-01/2024-06-30. Items of a solar day become one scene."),
    ] = None,
    max_items: Annotated[int, typer.Option("--max-items", min=1, help="Most STAC items to take.")] = 100,
    overwrite: OverwriteOption = False,
    dask: DaskOption = None,
) -> None:
    """Cut scenes into a tile set of memory-mapped shards with a GeoParquet index.

    Running it again on the same folder finishes an interrupted cut, or adds scenes to a finished one.
    """
    from tiles.archive.preview import write_previews
    from tiles.cutting.cut import cut
    from tiles.cutting.plan import CutSettings, Request
    from tiles.errors import InputError
    from tiles.progress import progress
    from tiles.scenes.expand import expand

    kept = names(bands)
    if not kept:
        raise InputError("--bands names no band.")
    settings = CutSettings(size, kept, gsd, min_valid, max_cloud, min_std)
    given = list(scenes or ())
    if stac is not None:
        given += _search(stac, collection, bbox, datetime, max_items, output, overwrite)
    if not given:
        raise InputError("Nothing to cut was given: name scenes, or search with --stac.")
    requests = [
        Request(found.source, sensor, names(band_names), None if mask is None else str(mask), found.label)
        for scene in given
        for found in _expand(expand, scene)
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


def _expand(expand: Callable[[str], Iterable["Found"]], scene: str) -> list["Found"]:
    """What an argument stands for; one that cannot be looked into is left for the cut to name among the failures."""
    from tiles.errors import InputError
    from tiles.scenes.expand import Found

    try:
        return list(expand(scene))
    except InputError:
        return [Found(scene)]


def _search(
    url: str, collection: str | None, bbox: str | None, datetime: str | None, limit: int, output: Path, overwrite: bool
) -> list[str]:
    from tiles.errors import InputError

    box = names(bbox)
    try:
        corners = None if box is None else [float(value) for value in box]
    except ValueError:
        corners = []
    if collection is None or (corners is not None and len(corners) != 4):
        raise InputError("--stac needs --collection, and --bbox four numbers: west,south,east,north in degrees.")
    from tiles.scenes.stac import load_items, search  # seconds of imports, which a slip of the pen need not wait for
    from tiles.writing.outputs import check_name

    # Beside the tile set, since the search is an input of the cut: the same command asks the file, not the world. The
    # name tells searches apart, so that another one adds its scenes.
    asked = hashlib.sha256(repr((url, names(collection), corners, datetime, limit)).encode()).hexdigest()[:8]
    check_name(output)
    target = output.resolve().with_name(f"{output.resolve().name}.{asked}.items.json")
    found = search(url, names(collection) or (), corners, datetime, limit, target, again=overwrite)
    if len(load_items(str(target))) >= limit:
        typer.echo(f"The search ended at its limit of {limit}, and there may be more items: raise --max-items.")
    return found
