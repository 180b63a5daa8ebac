"""`geodino change`."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from geodino.change_detection.score_method import Method
from geodino.cli.options import LayersOption, OutputOption, SceneOptions, grouped, layer_numbers
from geodino.jobs.run_options import RunOptions

if TYPE_CHECKING:
    from geodino.change_detection.pipeline import ChangeResult
    from geodino.change_detection.series import SeriesResult


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
        method: Annotated[Method, typer.Option(help="What is compared; auto is fused.")] = Method.auto,
        objects: Annotated[bool, typer.Option("--objects", help="Pool the score over small image objects.")] = False,
        like: Annotated[
            Path | None,
            typer.Option(
                help="Examples of the wanted change and of others: two classes, the wanted one called 1 or yes."
            ),
        ] = None,
        field: Annotated[str | None, typer.Option(help="Attribute of the examples that holds the class.")] = None,
        layer: Annotated[
            str | None, typer.Option(help="Layer of the examples' file; all of them together if not given.")
        ] = None,
        model: Annotated[
            Path | None, typer.Option(help="What `segment --save-model` wrote: says from what to what places changed.")
        ] = None,
        vector: Annotated[
            Path | None, typer.Option(help="Also polygons: .gpkg, .geojson, .fgb, .shp, .parquet.")
        ] = None,
        min_area: Annotated[float, typer.Option(metavar="M2", min=0, help="Leave out smaller polygons.")] = 0,
        features: Annotated[
            list[Path] | None,
            typer.Option(
                metavar="CUBE", help="A cube that `geodino features` made, once for each date: no backbone is run."
            ),
        ] = None,
        upscale: Annotated[
            int | None, typer.Option(help="Tokens per patch side, 1, 2 or 4: finer and slower; 1 if not given.")
        ] = None,
        layers: LayersOption = None,
        *,
        run: RunOptions,
        opening: SceneOptions,
    ) -> None:
        """Map what changed between two dates of one place; of three or more, the year of the first lasting change."""
        asked: dict[str, Any] = {
            "threshold": _threshold(threshold),
            "method": method,
            "features": features or (),
            "upscale": upscale,
            "layers": layer_numbers(layers),
            **run.keywords,
        }
        if len(scenes) < 2:
            raise typer.BadParameter("give two dates or more", param_hint="BEFORE AFTER")
        of_pairs: dict[str, Any] = {
            "score": score,
            "vector": vector,
            "like": like,
            "field": field,
            "layer": layer,
            "model": model,
            "objects": objects or None,
        }
        given = [
            f"--{name}" for name, value in ({"min-area": min_area or None} | of_pairs).items() if value is not None
        ]
        if len(scenes) > 2 and given:
            raise typer.BadParameter(f"{', '.join(given)} go with two dates only")
        from geodino import api
        from tiles.progress import progress
        from tiles.writing.outputs import check_output

        check_output(output, overwrite=run.overwrite)
        opened = [opening.open(scene, name_it=True) for scene in scenes]
        with progress("change", 1) as report:
            if len(opened) > 2:
                lines = _of_series(api.change_series(opened, output, progress=report, **asked))
            else:
                asked |= of_pairs | {"objects": objects, "min_area_m2": min_area}
                lines = _of_pair(api.change(opened[0], opened[1], output, progress=report, **asked))
        for line in lines:
            typer.echo(line)
        typer.echo("wrote " + ", ".join(str(path) for path in (output, score, vector) if path is not None))


def _of_series(result: "SeriesResult") -> list[str]:
    shares = (f"{share:7.2%}  {value}" for value, share in zip(result.values, result.shares, strict=True))
    return [*result.notes, *shares]


def _of_pair(result: "ChangeResult") -> list[str]:
    rate = result.threshold.false_alarm_rate
    return [
        *result.notes,
        f"threshold {result.threshold.value:.2f}: {result.threshold.rule}",
        f"expected false-alarm rate: {'unknown' if math.isnan(rate) else f'{rate:.2g} of the stable pixels'}",
        f"{result.share:.2%} of the valid pixels changed",
        *(() if result.transitions is None else result.transitions.describe()),
    ]


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
