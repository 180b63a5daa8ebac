"""`geodino segment`."""

from pathlib import Path
from typing import Annotated

import typer

from geodino.cli.features import absolute
from geodino.cli.options import (
    BackboneOption,
    BandNamesOption,
    DaskOption,
    Device,
    DeviceOption,
    GsdOption,
    OutputOption,
    OverwriteOption,
    Precision,
    PrecisionOption,
    SensorOption,
    names,
)


def register(cli: typer.Typer) -> None:
    """Add the command."""

    @cli.command("segment")
    def segment(
        scene: Annotated[str, typer.Argument(help="Raster, VRT, URL, folder of single-band files or STAC item.")],
        output: OutputOption,
        labels: Annotated[
            Path | None,
            typer.Option(help="Points, polygons or a raster of classes; any format, any coordinate reference system."),
        ] = None,
        field: Annotated[str | None, typer.Option(help="Attribute of the labels that holds the class.")] = None,
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
            typer.Option(help="A cube that `geodino features` made of this scene: a quick map, no backbone is run."),
        ] = None,
        upscale: Annotated[int, typer.Option(help="Tokens per patch side, 1, 2 or 4: finer and slower.")] = 1,
        backbone: BackboneOption = None,
        device: DeviceOption = Device.auto,
        precision: PrecisionOption = Precision.auto,
        dask: DaskOption = None,
        sensor: SensorOption = None,
        band_names: BandNamesOption = None,
        gsd: GsdOption = None,
        overwrite: OverwriteOption = False,
    ) -> None:
        """Land-cover map from a few labels, from clusters, or by a model trained on another scene."""
        from geodino.api import segment as run
        from tiles.progress import progress
        from tiles.scenes.opening import open_scene
        from tiles.writing.outputs import check_output

        check_output(output, overwrite=overwrite)
        opened = open_scene(absolute(scene), sensor=sensor, band_names=names(band_names), gsd_m=gsd)
        for note in opened.notes:
            typer.echo(note)
        with progress("segment", 1) as report:
            result = run(
                opened,
                output,
                labels=labels,
                field=field,
                clusters=clusters,
                model=model,
                save_model=save_model,
                vector=vector,
                min_area_m2=min_area,
                confidence=confidence,
                cube=features,
                upscale=upscale,
                backbone=backbone,
                device=device,
                precision=precision,
                dask=dask,
                overwrite=overwrite,
                progress=report,
            )
        for note in result.notes:
            typer.echo(note)
        if result.validation is not None:
            for line in result.validation.describe():
                typer.echo(line)
        for name, share in zip(result.legend.names, result.shares, strict=True):
            typer.echo(f"{share:7.1%}  {name}")
        written = [str(path) for path in (output, confidence, vector, save_model) if path is not None]
        typer.echo("wrote " + ", ".join(written))
