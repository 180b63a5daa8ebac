"""Options that several commands share, so that they read and behave the same everywhere."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from tiles.errors import InputError
from tiles.scenes.sensor import SENSORS


class Device(StrEnum):
    """Where the model runs."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class Precision(StrEnum):
    """Arithmetic of the model; ``auto`` takes bf16 where the processor or the GPU computes in it."""

    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"


BackboneOption = Annotated[
    str | None,
    typer.Option(
        "--backbone",
        help="Nothing for the packaged one, a timm name, a folder or file that `geodino pretrain` wrote, or an "
        "original .pth checkpoint of dino, dinov2 or dinov3.",
    ),
]
DeviceOption = Annotated[Device, typer.Option("--device", help="Where the model runs.")]
PrecisionOption = Annotated[Precision, typer.Option("--precision", help="Arithmetic of the model.")]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace an existing output.")]
DaskOption = Annotated[
    str | None, typer.Option("--dask", metavar="ADDRESS", help="Scheduler of a running Dask cluster to spread over.")
]
SensorOption = Annotated[
    str | None,
    typer.Option("--sensor", help=f"Sensor, where names and tags of the files do not say it: {', '.join(SENSORS)}."),
]
BandNamesOption = Annotated[
    str | None,
    typer.Option(
        "--band-names", help="Names of the file's bands in order, where the file does not say them: swir1,nir,red,green"
    ),
]
GsdOption = Annotated[
    float | None,
    typer.Option("--gsd", metavar="METRES", help="Pixel size of a raster without a coordinate reference system."),
]
OutputOption = Annotated[Path, typer.Option("--output", "-o", help="Where to write.")]


LayersOption = Annotated[
    str | None, typer.Option("--layers", help="Layers to take instead of the last: 5,11 or -4,-1.")
]


def layer_numbers(value: str | None) -> tuple[int, ...]:
    """Split a comma-separated list of layers.

    Raises:
        InputError: One is no number.
    """
    try:
        return tuple(int(layer) for layer in names(value) or ())
    except ValueError:
        raise InputError(f"layers are numbers such as 5,11 or -4,-1, not '{value}'") from None


def names(value: str | None) -> tuple[str, ...] | None:
    """Split a comma-separated list of names."""
    return tuple(part.strip() for part in value.split(",") if part.strip()) if value else None
