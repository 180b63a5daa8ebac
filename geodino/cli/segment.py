"""`geodino segment`."""

import typer


def register(cli: typer.Typer) -> None:
    """Add the command."""
