"""`geodino change`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from geodino.cli.options import (
    BackboneOption,
    BandNamesOption,
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

if TYPE_CHECKING:
    from geodino.change_detection.method import Method


def register(cli: typer.Typer) -> None:
    """Add the command."""

    @cli.command("change")
    def change(
        before: Annotated[str, typer.Argument(help="First date; the map has its pixel grid.")],
        after: Annotated[str, typer.Argument(help="Second date, on any grid that overlaps.")],
        output: OutputOption,
        score: Annotated[
            Path | None, typer.Option(help="Keep the score; one of the same dates and settings is taken as it is.")
        ] = None,
        threshold: Annotated[
            str, typer.Option(help="auto, or a number of deviations above the stable background.")
        ] = "auto",
        method: Annotated[
            str, typer.Option(help="features, spectral, fused, or auto: features below 3 m pixels, else fused.")
        ] = "auto",
        vector: Annotated[
            Path | None, typer.Option(help="Also polygons: .gpkg, .geojson, .fgb, .shp, .parquet.")
        ] = None,
        min_area: Annotated[float, typer.Option(metavar="M2", min=0, help="Leave out smaller polygons.")] = 0,
        upscale: Annotated[int, typer.Option(help="Tokens per patch side, 1, 2 or 4: finer and slower.")] = 1,
        backbone: BackboneOption = None,
        device: DeviceOption = Device.auto,
        precision: PrecisionOption = Precision.auto,
        sensor: SensorOption = None,
        band_names: BandNamesOption = None,
        gsd: GsdOption = None,
        overwrite: OverwriteOption = False,
    ) -> None:
        """Map of what changed between two dates of one place."""
        limit = _threshold(threshold)
        kind = _method(method)
        from geodino.api import change as run
        from geodino.backbone import load_backbone
        from tiles.cog import check_output
        from tiles.progress import progress
        from tiles.scene import open_scene

        check_output(output, overwrite=overwrite)
        scenes = []
        for source in (before, after):
            scenes.append(open_scene(source, sensor=sensor, band_names=names(band_names), gsd_m=gsd))
            for note in scenes[-1].notes:
                typer.echo(f"{scenes[-1].name}: {note}")
        kind = kind.settled(scenes[0].gsd_m)
        model = load_backbone(backbone, device=device, precision=precision) if kind.reads_features else None
        with progress("change", 1) as report:
            result = run(
                scenes[0],
                scenes[1],
                output,
                score=score,
                threshold=limit,
                method=kind,
                vector=vector,
                min_area_m2=min_area,
                upscale=upscale,
                backbone=model,
                overwrite=overwrite,
                progress=report,
            )
        for note in result.notes:
            typer.echo(note)
        typer.echo(f"threshold {result.threshold.value:.2f}: {result.threshold.rule}")
        rate = result.threshold.false_alarm_rate
        expected = "unknown" if rate != rate else f"{rate:.2g} of the stable pixels"
        typer.echo(f"expected false-alarm rate: {expected}")
        typer.echo(f"{result.share:.2%} of the valid pixels changed")
        typer.echo("wrote " + ", ".join(str(path) for path in (output, score, vector) if path is not None))


def _threshold(text: str) -> float | None:
    """None for auto; anything but a number is refused."""
    if text == "auto":
        return None
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is neither auto nor a number", param_hint="--threshold") from None


def _method(text: str) -> "Method":
    """The method of that name; unknown names are refused with the list."""
    from geodino.change_detection.method import Method

    try:
        return Method(text)
    except ValueError:
        known = ", ".join(Method)
        raise typer.BadParameter(f"{text!r} is none of {known}", param_hint="--method") from None
