"""`geodino features`."""

from pathlib import Path
from typing import Annotated

import typer

from geodino.cli.options import (
    BackboneOption,
    BandNamesOption,
    DaskOption,
    Device,
    DeviceOption,
    GsdOption,
    LayersOption,
    OutputOption,
    OverwriteOption,
    Precision,
    PrecisionOption,
    SensorOption,
    layer_numbers,
    names,
)


def register(cli: typer.Typer) -> None:
    """Add the command."""

    @cli.command("features")
    def features(
        scene: Annotated[str, typer.Argument(help="Raster, VRT, URL, folder of single-band files or STAC item.")],
        output: OutputOption,
        backbone: BackboneOption = None,
        upscale: Annotated[int, typer.Option(help="Tokens per patch side, 1, 2 or 4: finer and slower.")] = 1,
        layers: LayersOption = None,
        dtype: Annotated[
            str,
            typer.Option(help="auto: float16 in .zarr, one-byte code in .tif. float32 is exact in either."),
        ] = "auto",
        quicklook: Annotated[
            Path | None, typer.Option(help="Also a picture of the three main components: .png or .tif.")
        ] = None,
        window: Annotated[
            int | None,
            typer.Option(help="Tokens along a window's side; chosen by the backbone's training crops if not given."),
        ] = None,
        halo: Annotated[
            int | None, typer.Option(help="Tokens of context on each side, over which windows blend; as the window.")
        ] = None,
        batch_size: Annotated[int | None, typer.Option(help="Windows a pass; chosen by memory if not given.")] = None,
        device: DeviceOption = Device.auto,
        precision: PrecisionOption = Precision.auto,
        sensor: SensorOption = None,
        band_names: BandNamesOption = None,
        gsd: GsdOption = None,
        dask: DaskOption = None,
        overwrite: OverwriteOption = False,
    ) -> None:
        """Dense features of a scene of any size: a cube on the grid of the backbone's tokens.

        Each token covers patch / upscale pixels of the scene. OUT.zarr opens with xarray.open_zarr, OUT.tif with
        rioxarray.open_rasterio. An interrupted run started again goes on where it stopped.
        """
        from geodino.api import features as run
        from geodino.dense.extraction import check_outputs
        from geodino.dense.stream import DenseSettings
        from tiles.progress import progress
        from tiles.scenes.opening import open_scene

        chosen = layer_numbers(layers)
        settings = DenseSettings(window=window, halo=halo, upscale=upscale, layers=chosen, batch_size=batch_size)
        check_outputs(output, dtype=dtype, quicklook=quicklook, overwrite=overwrite)
        opened = open_scene(absolute(scene), sensor=sensor, band_names=names(band_names), gsd_m=gsd)
        for note in opened.notes:
            typer.echo(note)
        with progress("features", 1) as report:
            cube = run(
                opened,
                output,
                backbone=backbone,
                settings=settings,
                dtype=dtype,
                quicklook=quicklook,
                device=device,
                precision=precision,
                dask=dask,
                overwrite=overwrite,
                progress=report,
            )
        typer.echo(f"wrote {output}: {' × '.join(str(n) for n in cube.shape)} (features × rows × columns)")
        if quicklook:
            typer.echo(f"wrote {quicklook}")


def absolute(source: str) -> str:
    """A path that means the same in every folder and on every machine that sees it; URLs stay as they are."""
    return str(Path(source).resolve()) if Path(source).exists() else source
