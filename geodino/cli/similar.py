"""`geodino similar` and `geodino index`."""

from pathlib import Path
from typing import Annotated

import typer

from geodino.cli.options import OutputOption, SceneOptions, UpscaleOption, grouped
from geodino.jobs.run_options import RunOptions


def register(cli: typer.Typer) -> None:
    """Add the commands."""

    @cli.command("similar")
    @grouped
    def similar_command(
        scene: Annotated[str, typer.Argument(help="A scene as for `features`, or a feature cube (no model needed).")],
        output: OutputOption,
        at: Annotated[
            list[str] | None, typer.Option("--at", metavar="X,Y", help="A place; several are averaged.")
        ] = None,
        polygons: Annotated[Path | None, typer.Option(help="Vector file of polygons to look for.")] = None,
        crs: Annotated[
            str | None, typer.Option(help="CRS of --at, such as EPSG:4326; the scene's own if not given.")
        ] = None,
        layer: Annotated[
            str | None, typer.Option(help="Layer of the polygons' file; all of them together if not given.")
        ] = None,
        index: Annotated[
            Path | None,
            typer.Option(help="Search this index of `geodino index` instead: OUT is .gpkg, .geojson, .parquet, …"),
        ] = None,
        count: Annotated[int, typer.Option(min=1, help="Places of the index to keep.")] = 100,
        features: Annotated[
            Path | None, typer.Option(help="A cube that `geodino features` made of this scene: no backbone is run.")
        ] = None,
        upscale: UpscaleOption = 1,
        *,
        run: RunOptions,
        opening: SceneOptions,
    ) -> None:
        """Cosine similarity of every place to the chosen ones, as a map on the scene's pixels."""
        from geodino.api import similar
        from geodino.dense.settings import DenseSettings
        from geodino.products.vector import check_vector_path
        from geodino.retrieval.likeness import Query, parse_points
        from geodino.retrieval.similar import is_cube
        from tiles.progress import progress
        from tiles.writing.outputs import check_output

        points = parse_points(at or [])
        Query(points, polygons, crs, layer)
        (check_vector_path if index else check_output)(output, overwrite=run.overwrite)
        with progress("similar", 1) as report:
            similar(
                scene if is_cube(scene) else opening.open(scene),
                output,
                at=points,
                polygons=polygons,
                crs=crs,
                layer=layer,
                index=index,
                count=count,
                features=features,
                settings=DenseSettings(upscale=upscale),
                progress=report,
                say=typer.echo,
                **run.keywords,
            )
        typer.echo(f"wrote {output}")

    @cli.command("index")
    @grouped
    def index_scenes(
        sources: Annotated[list[str], typer.Argument(help="Scenes or feature cubes.")],
        output: OutputOption,
        tokens: Annotated[int, typer.Option(min=1, max=64, help="Tokens along the side of an indexed block.")] = 8,
        *,
        run: RunOptions,
        opening: SceneOptions,
    ) -> None:
        """Sparse embeddings of many scenes in one GeoParquet (Major TOM's columns), for `similar --index`.

        Exits with 0 when every scene is in it, with 1 when some could not be: each is named with its reason.
        """
        import shutil
        from dataclasses import replace

        import geopandas as gpd

        from geodino.jobs.batch import sentence, stop_if_hopeless
        from geodino.retrieval.place_index import check_index_path, check_model, write_index
        from geodino.retrieval.similar import embed_source, is_cube
        from tiles.errors import InputError
        from tiles.progress import progress
        from tiles.scenes.scene import Scene
        from tiles.writing.outputs import check_not_input, locked, part_of

        check_index_path(output, overwrite=run.overwrite)
        check_not_input((output,), *sources)
        # Loaded once; and what a cut-off run left lies under one name whatever scene it was of.
        backbone = run.backbone if run.dask or all(map(is_cube, sources)) else run.load()
        loaded = replace(run, backbone=backbone, overwrite=True)
        frames: list[gpd.GeoDataFrame] = []
        indexed: list[Scene | Path] = []
        with locked(output), progress("index", len(sources)) as report:
            for number, source in enumerate(sources, 1):
                try:
                    cube = Path(source) if is_cube(source) else None
                    scene = None if cube else opening.open(source)
                    options = RunOptions() if cube else loaded
                    with options.tokens(scene, output.absolute(), features=cube) as made:
                        frame = embed_source(made, scene, side=tokens)
                    if frames:
                        check_model(frames[0].attrs, frame.attrs, "the index", source)
                    frames.append(frame)
                    indexed.append(scene or Path(source))
                except Exception as error:  # whatever it is, it is this source's, unless it stops all
                    stop_if_hopeless(error)
                    typer.echo(f"FAILED  {source}: {sentence(error)}")
                    shutil.rmtree(part_of(output.absolute(), ".tokens"), ignore_errors=True)
                report.update(number)
            if not frames:
                raise InputError(f"none of the {len(sources)} sources can be indexed, so {output} is not made")
            rows = write_index(frames, output, sources=indexed, settings={"tokens": tokens}, overwrite=run.overwrite)
        typer.echo(f"wrote {output}: {rows} places of {len(frames)} scenes")
        if len(frames) < len(sources):
            raise typer.Exit(1)
