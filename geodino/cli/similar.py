"""`geodino similar` and `geodino index`."""

from pathlib import Path
from typing import Annotated

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

UpscaleOption = Annotated[int, typer.Option(help="Tokens per patch side, 1, 2 or 4: finer and slower.")]


def register(cli: typer.Typer) -> None:
    """Add the commands."""

    @cli.command("similar")
    def similar(
        scene: Annotated[str, typer.Argument(help="A scene as for `features`, or a feature cube (no model needed).")],
        output: OutputOption,
        at: Annotated[
            list[str] | None, typer.Option("--at", metavar="X,Y", help="A place; several are averaged.")
        ] = None,
        polygons: Annotated[Path | None, typer.Option(help="Vector file of polygons to look for.")] = None,
        crs: Annotated[
            str | None, typer.Option(help="CRS of --at, such as EPSG:4326; the scene's own if not given.")
        ] = None,
        index: Annotated[
            Path | None,
            typer.Option(help="Search this index of `geodino index` instead: OUT is .gpkg, .geojson, .parquet, …"),
        ] = None,
        count: Annotated[int, typer.Option(min=1, help="Places of the index to keep.")] = 100,
        upscale: UpscaleOption = 1,
        backbone: BackboneOption = None,
        device: DeviceOption = Device.auto,
        precision: PrecisionOption = Precision.auto,
        sensor: SensorOption = None,
        band_names: BandNamesOption = None,
        gsd: GsdOption = None,
        overwrite: OverwriteOption = False,
    ) -> None:
        """Cosine similarity of every place to the chosen ones, as a map on the scene's pixels."""
        from geodino.api import similar as run
        from geodino.backbones.backbone import load_backbone
        from geodino.dense.stream import DenseSettings
        from geodino.products.vector import check_vector_path
        from geodino.retrieval.likeness import Query, parse_points
        from geodino.retrieval.similar import is_cube
        from tiles.progress import progress
        from tiles.scenes.opening import open_scene
        from tiles.writing.cog import check_output

        points = parse_points(at or [])
        Query(points, polygons, crs)
        (check_vector_path if index else check_output)(output, overwrite=overwrite)
        cube = is_cube(scene)
        opened = scene if cube else open_scene(scene, sensor=sensor, band_names=names(band_names), gsd_m=gsd)
        if not isinstance(opened, str):
            for note in opened.notes:
                typer.echo(note)
        with progress("similar", 1) as report:
            run(
                opened,
                output,
                at=points,
                polygons=polygons,
                crs=crs,
                index=index,
                count=count,
                backbone=None if cube else load_backbone(backbone, device=device, precision=precision),
                settings=DenseSettings(upscale=upscale),
                overwrite=overwrite,
                progress=report,
            )
        typer.echo(f"wrote {output}")

    @cli.command("index")
    def index_scenes(
        sources: Annotated[list[str], typer.Argument(help="Scenes or feature cubes.")],
        output: OutputOption,
        tokens: Annotated[int, typer.Option(min=1, max=64, help="Tokens along the side of an indexed block.")] = 8,
        backbone: BackboneOption = None,
        device: DeviceOption = Device.auto,
        precision: PrecisionOption = Precision.auto,
        sensor: SensorOption = None,
        band_names: BandNamesOption = None,
        gsd: GsdOption = None,
        overwrite: OverwriteOption = False,
    ) -> None:
        """Sparse embeddings of many scenes in one GeoParquet (Major TOM's columns), for `similar --index`.

        Exits with 0 when every scene is in it, with 1 when some could not be: each is named with its reason.
        """
        import shutil

        import geopandas as gpd
        from rasterio.errors import RasterioError

        from geodino.backbones.backbone import load_backbone
        from geodino.dense.stream import DenseSettings
        from geodino.retrieval.place_index import check_model, write_index
        from geodino.retrieval.similar import embed_source, is_cube, unfinished
        from tiles.errors import InputError
        from tiles.progress import progress
        from tiles.scenes.opening import open_scene
        from tiles.scenes.scene import Scene
        from tiles.writing.cog import DiskFullError, check_output

        check_output(output, overwrite=overwrite)
        model = None if all(map(is_cube, sources)) else load_backbone(backbone, device=device, precision=precision)
        frames: list[gpd.GeoDataFrame] = []
        indexed: list[Scene | Path] = []
        bands = names(band_names)
        with progress("index", len(sources)) as report:
            for number, source in enumerate(sources, 1):
                try:
                    known = is_cube(source)
                    scene = source if known else open_scene(source, sensor=sensor, band_names=bands, gsd_m=gsd)
                    frame = embed_source(scene, model, DenseSettings(), output.absolute(), tokens=tokens)
                    if frames:
                        check_model(frames[0].attrs, frame.attrs, "the index", source)
                    frames.append(frame)
                    indexed.append(Path(scene) if isinstance(scene, str) else scene)
                except DiskFullError:
                    raise
                except (InputError, OSError, RasterioError, MemoryError) as error:
                    typer.echo(f"FAILED  {source}: {' '.join(str(error).split()) or type(error).__name__}")
                    shutil.rmtree(unfinished(output.absolute()), ignore_errors=True)
                report.update(number)
        if not frames:
            raise InputError(f"none of the {len(sources)} sources can be indexed, so {output} is not made")
        rows = write_index(frames, output, sources=indexed, settings={"tokens": tokens}, overwrite=overwrite)
        typer.echo(f"wrote {output}: {rows} places of {len(frames)} scenes")
        if len(frames) < len(sources):
            raise typer.Exit(1)
