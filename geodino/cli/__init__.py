"""The command line: one module a command, each importing what it needs only when it runs.

``geodino --help`` must stay fast: nothing here or at the top of a command's module may import torch, GDAL or
another heavy library.
"""

import errno
import os
import sys
from importlib import import_module

import typer

from geodino.process import collect_rarely, share_cores
from tiles.errors import InputError

# Typer brings a click of its own in newer releases; its public exception leads to the base class in both.
ClickException: type[Exception] = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException")

COMMAND_MODULES = (
    "tile",
    "pretrain",
    "distill",
    "export",
    "models",
    "evaluate",
    "features",
    "segment",
    "change",
    "similar",
    "batch",
    "app",
    "demo",
)


def build() -> typer.Typer:
    """Assemble the command line; each module of ``COMMAND_MODULES`` adds its own commands."""
    cli = typer.Typer(
        name="geodino",
        help="Satellite rasters in, your own DINOv3-style backbone out; any backbone in, maps out.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        add_completion=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    @cli.callback(invoke_without_command=True)
    def root(version: bool = typer.Option(False, "--version", help="Print the version and exit.")) -> None:
        if version:
            from geodino import __version__

            typer.echo(__version__)
            raise typer.Exit

    for name in COMMAND_MODULES:
        import_module(f"geodino.cli.{name}").register(cli)
    return cli


def main() -> None:
    """Run the command line; bad input prints one sentence and exits with 2, never a traceback."""
    # Large reads come row by row in both directions of the cache; the default 5 % of memory is kept in bounds.
    os.environ.setdefault("GDAL_CACHEMAX", "512")
    collect_rarely()
    share_cores()
    command = typer.main.get_command(build())
    try:
        status = command(prog_name="geodino", standalone_mode=False)
    except ClickException as error:
        error.show()  # type: ignore[attr-defined]
        sys.exit(2)
    except (KeyboardInterrupt, typer.Abort):
        fail("interrupted; nothing is left half-written, and the same command goes on from here", 130)
    except InputError as error:
        fail(str(error))
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        fail(
            f"no space left on the disk for {error.filename or 'the output'}; free some and run the same command again"
        )
    else:
        sys.exit(status if isinstance(status, int) else 0)


def fail(message: str, status: int = 2) -> None:
    """Print one sentence on standard error and leave with ``status``."""
    typer.echo(f"geodino: {message}", err=True)
    sys.exit(status)
