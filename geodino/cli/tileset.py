"""`geodino tiles`: look after a tile set."""

from pathlib import Path
from typing import Annotated

import typer

from geodino.cli.options import OverwriteOption

TilesArgument = Annotated[Path, typer.Argument(metavar="TILES", help="Folder that `geodino tile` wrote.")]
WorkersOption = Annotated[int, typer.Option("--workers", min=1, help="Processes.")]


def register(cli: typer.Typer) -> None:
    """Add the group of commands."""
    group = typer.Typer(help="Look after a tile set.", no_args_is_help=True)
    group.command("verify")(verify)
    group.command("stats")(stats)
    group.command("split")(split)
    group.command("export-webdataset")(export_webdataset)
    cli.add_typer(group, name="tiles")


def verify(tiles: TilesArgument, workers: WorkersOption = 1) -> None:
    """Check every tile against the checksum it was cut with."""
    from tiles.archive.verify import verify as check
    from tiles.errors import InputError
    from tiles.progress import progress

    with progress("verifying", 1.0) as bar:
        damages = check(tiles, workers, bar)
    for damage in damages:
        typer.echo(f"{damage.where}: {damage.what}")
    if damages:
        raise InputError(f"{tiles} is damaged in {len(damages)} places; cut it again with --overwrite.")
    typer.echo(f"{tiles} is whole.")


def stats(tiles: TilesArgument, workers: WorkersOption = 1) -> None:
    """Compute exact statistics of the valid pixels and write them to statistics.json."""
    from tiles.archive.histogram import STATISTICS_FILE, describe

    found = describe(tiles, workers)
    typer.echo(f"{found['tiles']} tiles, {found['valid_pixels']} valid pixels")
    typer.echo(f"{'band':<12}{'mean':>9}{'std':>9}{'p2':>9}{'median':>9}{'p98':>9}")
    for name, band in found["bands"].items():
        shown = [band["mean"], band["std"], *(band["percentiles"][q] for q in ("2", "50", "98"))]
        typer.echo(f"{name:<12}" + "".join(f"{value:>9.4f}" for value in shown))
    typer.echo(f"all of it: {tiles / STATISTICS_FILE}")


def split(
    tiles: TilesArgument,
    shares: Annotated[
        str, typer.Option("--shares", help="Share of the Major-TOM cells of each split.")
    ] = "train=0.8,val=0.1,test=0.1",
    seed: Annotated[int, typer.Option("--seed", help="Another seed puts other cells into the splits.")] = 0,
) -> None:
    """Split by place: no spot on Earth lies in two splits; scenes added later fall in line."""
    from collections import Counter

    from tiles.archive.dataset import TileDataset
    from tiles.archive.split import BORDER, settings
    from tiles.cutting.cut import set_split
    from tiles.errors import InputError

    try:
        wanted = {name.strip(): float(share) for name, share in (part.split("=") for part in shares.split(","))}
        chosen = settings(wanted, seed)
    except ValueError as error:
        raise InputError(f"--shares {shares} cannot be used ({error}); write train=0.8,val=0.1,test=0.1.") from error
    set_split(tiles, chosen)
    for name, count in sorted(Counter(TileDataset(tiles).column("split").tolist()).items()):
        note = " (touches cells of two splits, so it belongs to none)" if name == BORDER else ""
        typer.echo(f"{name}: {count} tiles{note}")


def export_webdataset(
    tiles: TilesArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the tar files.")],
    only: Annotated[str | None, typer.Option("--split", help="Only tiles of this split.")] = None,
    tiles_per_file: Annotated[int, typer.Option("--tiles-per-file", min=1, help="Tiles in each tar file.")] = 1000,
    overwrite: OverwriteOption = False,
) -> None:
    """Write a tile set as WebDataset tar files, to publish or to stream."""
    from tiles.archive.webdataset import export_webdataset as export
    from tiles.progress import progress

    with progress("exporting", 1.0) as bar:
        count = export(tiles, output, tiles_per_file=tiles_per_file, split=only, overwrite=overwrite, progress=bar)
    typer.echo(f"{count} tiles in {output}")
