"""Options that several commands share, so that they read and behave the same everywhere.

A command that takes ``RunOptions`` or ``SceneOptions`` writes one parameter of that type and is wrapped by ``grouped``,
which gives the command line the options and the command the frozen type.
"""

import functools
import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from geodino.jobs.run_options import RunOptions
from tiles.errors import InputError
from tiles.scenes.sensor import SENSORS

if TYPE_CHECKING:
    from tiles.scenes.scene import Scene


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
OverwriteOption = Annotated[
    bool,
    typer.Option(
        "--overwrite",
        help="Replace existing outputs, and an unfinished run with other inputs or settings; an unfinished run of the "
        "same inputs and settings goes on.",
    ),
]
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
UpscaleOption = Annotated[int, typer.Option("--upscale", help="Tokens per patch side, 1, 2 or 4: finer and slower.")]
LayersOption = Annotated[
    str | None, typer.Option("--layers", help="Layers to take instead of the last: 5,11 or -4,-1.")
]


@dataclass(frozen=True)
class SceneOptions:
    """What the command line says of scenes, where their files do not.

    Attributes:
        sensor: Row of the sensor table.
        band_names: Names of the bands in order, with commas between them.
        gsd: Pixel size in metres.
    """

    sensor: str | None = None
    band_names: str | None = None
    gsd: float | None = None

    def open(self, source: str, *, name_it: bool = False) -> "Scene":
        """Open a scene and print its notes; ``name_it`` puts the scene's name before each.

        Raises:
            InputError: It cannot be opened.
        """
        from tiles.scenes.opening import open_scene

        scene = open_scene(absolute(source), sensor=self.sensor, band_names=names(self.band_names), gsd_m=self.gsd)
        for note in scene.notes:
            typer.echo(f"{scene.name}: {note}" if name_it else note)
        return scene


# Options of each frozen type: a field's annotation and what it is when not given.
_GROUPS: dict[type, dict[str, tuple[Any, Any]]] = {
    RunOptions: {
        "backbone": (BackboneOption, None),
        "device": (DeviceOption, Device.auto),
        "precision": (PrecisionOption, Precision.auto),
        "dask": (DaskOption, None),
        "overwrite": (OverwriteOption, False),
    },
    SceneOptions: {
        "sensor": (SensorOption, None),
        "band_names": (BandNamesOption, None),
        "gsd": (GsdOption, None),
    },
}


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of each ``RunOptions`` and ``SceneOptions`` among its parameters.

    Typer reads the signature; the command is called with the frozen types that the options make.
    """
    signature = inspect.signature(command, eval_str=True)
    groups = {name: p.annotation for name, p in signature.parameters.items() if p.annotation in _GROUPS}
    parameters: list[inspect.Parameter] = []
    for name, parameter in signature.parameters.items():
        if name not in groups:
            parameters.append(parameter.replace(kind=parameter.KEYWORD_ONLY))
            continue
        for option, (annotation, default) in _GROUPS[groups[name]].items():
            parameters.append(inspect.Parameter(option, parameter.KEYWORD_ONLY, annotation=annotation, default=default))

    @functools.wraps(command)
    def called(**given: Any) -> None:
        for name, kind in groups.items():
            given[name] = kind(**{option: given.pop(option) for option in _GROUPS[kind]})
        command(**given)

    called.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    called.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return called


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


def absolute(source: str) -> str:
    """A path that means the same in every folder and on every machine that sees it; URLs stay as they are."""
    return str(Path(source).resolve()) if os.path.exists(source) else source
