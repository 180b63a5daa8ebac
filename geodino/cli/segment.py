"""`geodino segment`."""

from pathlib import Path
from typing import Annotated

import typer

from geodino.cli.options import SceneOptions, grouped
from geodino.jobs.run_options import RunOptions


def register(cli: typer.Typer) -> None:
    """Add the command."""

    @cli.command("segment")
    @grouped
    def segment_command(
        scene: Annotated[str, typer.Argument(help="Raster, VRT, URL, folder of single-band files or STAC item.")],
        output: Annotated[Path | None, typer.Option("--output", "-o", help="Where to write.")] = None,
        labels: Annotated[
            Path | None,
            typer.Option(
                help="Points, polygons, a table of points or a raster of classes; any coordinate reference system."
            ),
        ] = None,
        field: Annotated[str | None, typer.Option(help="Attribute of the labels that holds the class.")] = None,
        layer: Annotated[
            str | None, typer.Option(help="Layer of the labels' file; all of them together if not given.")
        ] = None,
        clusters: Annotated[int | None, typer.Option(metavar="K", help="Classes by k-means instead of labels.")] = None,
        model: Annotated[Path | None, typer.Option(help="What --save-model wrote for another scene.")] = None,
        save_model: Annotated[Path | None, typer.Option(help="Keep the trained classes for other scenes.")] = None,
        vector: Annotated[
            Path | None, typer.Option(help="Also polygons: .gpkg, .geojson, .fgb, .shp, .parquet.")
        ] = None,
        min_area: Annotated[
            float, typer.Option(metavar="M2", min=0, help="Smaller polygons join their largest neighbour.")
        ] = 0,
        confidence: Annotated[
            Path | None, typer.Option(help="Also the probability of the class in percent (uint8, 255 nodata).")
        ] = None,
        features: Annotated[
            Path | None,
            typer.Option(help="A cube that `geodino features` made of this scene: no backbone is run."),
        ] = None,
        validate: Annotated[
            bool,
            typer.Option(
                "--validate",
                help="Also test the labels' classes on places kept apart, beside a pixel forest; with --features and "
                "without -o, that alone.",
            ),
        ] = False,
        upscale: Annotated[
            int | None, typer.Option(help="Tokens per patch side, 1, 2 or 4: finer and slower; 1 if not given.")
        ] = None,
        *,
        run: RunOptions,
        opening: SceneOptions,
    ) -> None:
        """Land-cover map from a few labels, from clusters, or by a model trained on another scene."""
        from geodino.api import segment
        from geodino.api import validate as validate_alone
        from geodino.segmentation.training import UNTESTED
        from tiles.progress import progress
        from tiles.writing.outputs import check_output

        if output is None:
            if not validate or labels is None or features is None:
                raise typer.BadParameter("say where the map goes", param_hint="-o")
            tested = validate_alone(opening.open(scene), labels, features, field=field, layer=layer)
            for line in (UNTESTED,) if tested is None else tested.describe():
                typer.echo(line)
            return
        check_output(output, overwrite=run.overwrite)
        opened = opening.open(scene)
        with progress("segment", 1) as report:
            result = segment(
                opened,
                output,
                labels=labels,
                field=field,
                layer=layer,
                clusters=clusters,
                model=model,
                save_model=save_model,
                vector=vector,
                min_area_m2=min_area,
                confidence=confidence,
                validate=validate,
                features=features,
                upscale=upscale,
                progress=report,
                **run.keywords,
            )
        for note in result.notes:
            typer.echo(note)
        if result.validation is not None:
            for line in result.validation.describe():
                typer.echo(line)
        elif labels is not None and not validate:
            typer.echo("not validated; --validate tests the classes on places kept apart")
        for name, share in zip(result.legend.names, result.shares, strict=True):
            typer.echo(f"{share:7.1%}  {name}")
        written = [str(path) for path in (output, confidence, vector, save_model) if path is not None]
        typer.echo("wrote " + ", ".join(written))
