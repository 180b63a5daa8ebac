"""`geodino change`."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from geodino.cli.options import (
    LayersOption,
    OutputOption,
    SceneOptions,
    UpscaleOption,
    grouped,
    layer_numbers,
)
from geodino.jobs.run_options import RunOptions

if TYPE_CHECKING:
    from geodino.change_detection.method import Method


def register(cli: typer.Typer) -> None:
    """Add the command."""

    @cli.command("change")
    @grouped
    def change_command(
        scenes: Annotated[
            list[str],
            typer.Argument(
                metavar="BEFORE AFTER [LATER]...", help="Dates in order; the first one's pixel grid is kept."
            ),
        ],
        output: OutputOption,
        score: Annotated[
            Path | None, typer.Option(help="Keep the score; one of the same dates and settings is taken as it is.")
        ] = None,
        threshold: Annotated[
            str, typer.Option(help="auto, or a number of deviations above the stable background.")
        ] = "auto",
        method: Annotated[str, typer.Option(help="features, spectral, fused, or auto (fused).")] = "auto",
        objects: Annotated[bool, typer.Option("--objects", help="Pool the score over small image objects.")] = False,
        like: Annotated[
            Path | None,
            typer.Option(
                help="Examples of the wanted change and of others: two classes, the wanted one called 1 or yes."
            ),
        ] = None,
        field: Annotated[str | None, typer.Option(help="Attribute of the examples that holds the class.")] = None,
        model: Annotated[
            Path | None, typer.Option(help="What `segment --save-model` wrote: says from what to what places changed.")
        ] = None,
        vector: Annotated[
            Path | None, typer.Option(help="Also polygons: .gpkg, .geojson, .fgb, .shp, .parquet.")
        ] = None,
        min_area: Annotated[float, typer.Option(metavar="M2", min=0, help="Leave out smaller polygons.")] = 0,
        upscale: UpscaleOption = 1,
        layers: LayersOption = None,
        *,
        run: RunOptions,
        opening: SceneOptions,
    ) -> None:
        """Map what changed between two dates of one place; of three or more, the year of the first lasting change."""
        limit = _threshold(threshold)
        kind = _method(method)
        chosen = layer_numbers(layers)
        if len(scenes) < 2:
            raise typer.BadParameter("give two dates or more", param_hint="BEFORE AFTER")
        alone = {
            "--score": score,
            "--vector": vector,
            "--min-area": min_area or None,
            "--like": like,
            "--field": field,
            "--model": model,
            "--objects": objects or None,
        }
        given = [name for name, value in alone.items() if value is not None]
        if len(scenes) > 2 and given:
            raise typer.BadParameter(f"{', '.join(given)} go with two dates only")
        from tiles.progress import progress
        from tiles.writing.cog import check_output

        check_output(output, overwrite=run.overwrite)
        opened = [opening.open(scene, name_it=True) for scene in scenes]
        kind = kind.settled()
        if len(opened) > 2:
            from geodino.api import change_series

            with progress("change", 1) as report:
                series = change_series(
                    opened,
                    output,
                    threshold=limit,
                    method=kind,
                    upscale=upscale,
                    layers=chosen,
                    progress=report,
                    **run.keywords,
                )
            for note in series.notes:
                typer.echo(note)
            for value, share in zip(series.values, series.shares, strict=True):
                typer.echo(f"{share:7.2%}  {value}")
            typer.echo(f"wrote {output}")
            return
        from geodino.api import change

        with progress("change", 1) as report:
            result = change(
                opened[0],
                opened[1],
                output,
                score=score,
                threshold=limit,
                method=kind,
                objects=objects,
                like=like,
                field=field,
                model=model,
                vector=vector,
                min_area_m2=min_area,
                upscale=upscale,
                layers=chosen,
                progress=report,
                **run.keywords,
            )
        for note in result.notes:
            typer.echo(note)
        typer.echo(f"threshold {result.threshold.value:.2f}: {result.threshold.rule}")
        rate = result.threshold.false_alarm_rate
        expected = "unknown" if rate != rate else f"{rate:.2g} of the stable pixels"
        typer.echo(f"expected false-alarm rate: {expected}")
        typer.echo(f"{result.share:.2%} of the valid pixels changed")
        for line in result.transitions.describe() if result.transitions is not None else ():
            typer.echo(line)
        typer.echo("wrote " + ", ".join(str(path) for path in (output, score, vector) if path is not None))


def _threshold(text: str) -> float | None:
    """None for auto; anything but a finite number is refused."""
    if text == "auto":
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise typer.BadParameter(f"{text!r} is neither auto nor a number", param_hint="--threshold")
    return value


def _method(text: str) -> "Method":
    """The method of that name; unknown names are refused with the list."""
    from geodino.change_detection.method import Method
    from tiles.errors import InputError

    try:
        return Method.named(text)
    except InputError as error:
        raise typer.BadParameter(str(error), param_hint="--method") from None
