"""`geodino features`."""

from pathlib import Path
from typing import Annotated

import typer

from geodino.cli.options import LayersOption, OutputOption, SceneOptions, UpscaleOption, grouped, layer_numbers
from geodino.jobs.run_options import RunOptions


def register(cli: typer.Typer) -> None:
    """Add the command."""

    @cli.command("features")
    @grouped
    def features(
        scene: Annotated[str, typer.Argument(help="Raster, VRT, URL, folder of single-band files or STAC item.")],
        output: OutputOption,
        upscale: UpscaleOption = 1,
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
        *,
        run: RunOptions,
        opening: SceneOptions,
    ) -> None:
        """Dense features of a scene of any size: a cube on the grid of the backbone's tokens.

        Each token covers patch / upscale pixels of the scene. OUT.zarr opens with xarray.open_zarr, OUT.tif with
        rioxarray.open_rasterio. An interrupted run started again goes on where it stopped.
        """
        from geodino.dense.cube_reader import cube_array
        from geodino.dense.extraction import check_outputs
        from geodino.dense.settings import DenseSettings
        from geodino.jobs.features import make_features
        from tiles.progress import progress

        chosen = layer_numbers(layers)
        settings = DenseSettings(window=window, halo=halo, upscale=upscale, layers=chosen, batch_size=batch_size)
        check_outputs(output, dtype=dtype, quicklook=quicklook, overwrite=run.overwrite)
        opened = opening.open(scene)
        with progress("features", 1) as report:
            make_features(opened, output, run, settings=settings, dtype=dtype, quicklook=quicklook, progress=report)
        cube = cube_array(output)
        shape = (cube.channels, *cube.geobox.shape)
        typer.echo(f"wrote {output}: {' × '.join(str(n) for n in shape)} (features × rows × columns)")
        if quicklook:
            typer.echo(f"wrote {quicklook}")
