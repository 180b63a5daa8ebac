"""`geodino eval`."""

from pathlib import Path
from typing import Annotated

import typer

from geodino.cli.options import (
    BandNamesOption,
    Device,
    DeviceOption,
    GsdOption,
    Precision,
    PrecisionOption,
    SensorOption,
    names,
)


def register(cli: typer.Typer) -> None:
    """Add the command."""

    @cli.command("eval")
    def evaluate(
        backbone: Annotated[
            str,
            typer.Argument(help="'packaged', a timm name, a folder or file of `geodino pretrain`, an original .pth."),
        ],
        data: Annotated[
            list[str],
            typer.Argument(
                help="Folders or zips of CLASS/IMAGE or of images/ and labels/, or names of torchgeo data sets as "
                "NAME=FOLDER (EuroSAT=data/eurosat). Several make one table."
            ),
        ],
        protocol: Annotated[
            list[str] | None,
            typer.Option("--protocol", help="knn, linear or segmentation; repeatable. All that fit when left out."),
        ] = None,
        json_file: Annotated[
            Path | None, typer.Option("--json", metavar="FILE", help="Also write results here.")
        ] = None,
        output: Annotated[
            Path, typer.Option("--output", "-o", help="Folder of results, pictures and what a later run goes on from.")
        ] = Path("evaluation"),
        size: Annotated[
            int | None,
            typer.Option(
                help="Side in pixels that images are brought to. Left out: the image's own, but at least 8 patches "
                "(64 px become 128 at patch 16), and 32 patches for segmentation."
            ),
        ] = None,
        seed: Annotated[int, typer.Option(help="Seed of splits, samples and intervals.")] = 0,
        floors: Annotated[bool, typer.Option(help="Measure the three floors as well.")] = True,
        pictures: Annotated[int, typer.Option(min=0, help="Images to draw attention maps and PCA colours of.")] = 0,
        sensor: SensorOption = None,
        band_names: BandNamesOption = None,
        gsd: GsdOption = None,
        device: DeviceOption = Device.auto,
        precision: PrecisionOption = Precision.auto,
    ) -> None:
        """Measure a frozen backbone beside its floors: kNN, linear and segmentation probes with 95 % intervals."""
        from geodino.backbones.backbone import load_backbone
        from geodino.evaluation.folders import Reading
        from geodino.evaluation.open import open_data
        from geodino.evaluation.results import Result, to_csv, to_json, to_markdown, write
        from geodino.evaluation.run import EvaluationSettings, Protocol, evaluate
        from tiles.errors import InputError
        from tiles.writing.outputs import check_output, locked, locked_folder

        unknown = [name for name in protocol or () if name not in list(Protocol)]
        if unknown:
            raise InputError(f"--protocol {unknown[0]} is not one of {', '.join(Protocol)}")
        loaded = load_backbone(backbone, device=device, precision=precision)
        settings = EvaluationSettings(
            protocols=tuple(Protocol(name) for name in protocol) if protocol else None,
            size=size,
            seed=seed,
            with_floors=floors,
            show_progress=True,
        )
        sets = [open_data(name, Reading(loaded.bands, sensor, names(band_names), gsd)) for name in data]
        results: list[Result] = []
        for place in filter(None, (output, json_file)):
            place.parent.mkdir(parents=True, exist_ok=True)
            check_output(place, overwrite=True)
        output.mkdir(exist_ok=True)
        with locked_folder(output), locked(json_file):
            for images in sets:
                for note in images.notes:
                    typer.echo(f"{images.name}: {note}", err=True)
                for result in evaluate(loaded, images, settings, output):
                    results.append(result)
                    for path, text in (
                        (output / "results.json", to_json(results)),
                        (output / "results.csv", to_csv(results)),
                        (output / "results.md", to_markdown(results)),
                        (json_file, to_json(results)),
                    ):
                        if path:
                            write(path, text)
                if pictures:
                    from geodino.evaluation.pictures import draw

                    for path in draw(loaded, images, output / "pictures", count=pictures, size=size, seed=seed):
                        typer.echo(f"drew {path}", err=True)
        typer.echo(to_markdown(results))
