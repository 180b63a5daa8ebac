"""`geodino models`: every model of the DINO family, and which are on this machine."""

import json
from typing import Annotated

import typer


def register(cli: typer.Typer) -> None:
    """Add the command."""

    @cli.command()
    def models(
        as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    ) -> None:
        """List the models that --backbone takes by name, and whether their weights are on this machine."""
        from geodino.backbones.catalogue import catalogue

        rows = catalogue()
        if as_json:
            typer.echo(json.dumps([row.as_dict() for row in rows], indent=2))
            return
        from rich.console import Console
        from rich.table import Table

        table = Table(box=None, pad_edge=False)
        numbers = ("parameters", "bf16", "patch", "prefix")
        for heading in ("name", *numbers, "bands", "GSD", "normalisation", "licence", "here"):
            table.add_column(heading, justify="right" if heading in numbers else "left", no_wrap=True)
        for row in rows:
            table.add_row(
                row.name,
                f"{row.parameters / 1e6:,.1f} M",
                f"{row.weights_bytes_bf16 / 2**30:.2f} GiB",
                str(row.patch_size),
                str(row.prefix_tokens),
                ",".join(row.bands),
                "web images"
                if row.gsd_range_m is None
                else " to ".join(f"{g:.3g}" for g in sorted(set(row.gsd_range_m))) + " m",
                row.normalization,
                row.licence,
                "yes" if row.here else "no",
            )
        console = Console(width=max(Console().width, 160))  # a narrow terminal wraps lines rather than cut names
        console.print(table)
        typer.echo("\nAny other timm name, a folder or file of `geodino pretrain`, or an original .pth loads as well.")
