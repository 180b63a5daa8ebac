"""`geodino curate`: choose the tiles to train on."""

from pathlib import Path
from typing import Annotated

import typer

from geodino.cli.options import BackboneOption, Device, DeviceOption, Precision, PrecisionOption


def register(cli: typer.Typer) -> None:
    """Add the command."""
    cli.command("curate")(curate)


def curate(
    tiles: Annotated[Path, typer.Argument(metavar="TILES", help="Folder that `geodino tile` wrote.")],
    keep: Annotated[float, typer.Option("--keep", min=0.001, max=1, help="Share of the tiles to keep.")] = 0.5,
    backbone: BackboneOption = None,
    duplicates: Annotated[
        float,
        typer.Option(
            "--duplicates", min=0, max=1, help="Cosine of centred embeddings above which like layouts repeat."
        ),
    ] = 0.9,
    seed: Annotated[int, typer.Option("--seed", help="Of clusters and draws.")] = 0,
    device: DeviceOption = Device.auto,
    precision: PrecisionOption = Precision.auto,
) -> None:
    """Leave out near-duplicate tiles, then draw evenly from hierarchical clusters of the rest.

    Nothing is removed: the choice is written to TILES/curated.parquet, which `geodino pretrain` takes in the place of
    TILES.
    """
    from geodino.backbones.backbone import load_backbone
    from geodino.retrieval.tile_embedding import embed_tiles
    from tiles.archive.curate import centred, choose
    from tiles.archive.dataset import TileDataset
    from tiles.archive.selection import REPORT_FILE, Selection
    from tiles.progress import progress
    from tiles.writing.outputs import locked_folder

    dataset = TileDataset(tiles)
    model = load_backbone(backbone, device=device.value, precision=precision.value)
    with locked_folder(tiles):
        with progress("embedding", 1.0) as bar:
            embeddings, layouts = embed_tiles(dataset, model, progress=bar)
        choice = choose(centred(embeddings), keep, duplicates, seed, layouts)
        repeated = int((choice.duplicate_of != range(len(dataset))).sum())
        report = {
            "backbone": model.name,
            "backbone_hash": model.hash,
            "tiles": len(dataset),
            "duplicates": repeated,
            "kept": int(choice.kept.sum()),
            "clusters": choice.clusters,
            "balance_before": choice.balance_before,
            "balance_after": choice.balance_after,
            "settings": {"keep": keep, "duplicates": duplicates, "seed": seed},
        }
        selection = Selection(choice.kept, choice.duplicate_of, choice.cluster)
        path = selection.save(tiles, dataset.column("tile_id"), report)
    typer.echo(f"{repeated} near-duplicates of {len(dataset)} tiles left out")
    typer.echo(f"{report['kept']} tiles kept out of {', '.join(map(str, choice.clusters))} clusters")
    for name, before, after in zip(("finest", "top"), choice.balance_before, choice.balance_after, strict=True):
        typer.echo(f"evenness over the {name} clusters: {before:.2f} before, {after:.2f} after")
    typer.echo(f"train on them with `geodino pretrain {path}`; the report is {tiles / REPORT_FILE}")
