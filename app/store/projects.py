"""Projects: what an analyst works on, kept in a folder that can be copied, shared and read by other programs.

``projects/NAME/`` holds ``project.yaml`` (layers, classes, settings), ``examples.gpkg`` (what was drawn), ``models/``
(trained classes, which other scenes can be mapped by) and ``versions/`` with every earlier state of the first two.
Scenes are named by path, not copied; those inside the project's folder by relative path, so that a copied folder
still opens.
"""

import io
import re
import shutil
import time
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import geopandas
import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from app.map.layers import Layer
from app.map.source import ClassColor, open_source
from app.map.style import Paint, Style, default_style
from app.store.access import SCENES, Access
from tiles.errors import InputError
from tiles.writing.outputs import replacing

FORMAT = 1
EXAMPLES = "examples.gpkg"
RECORD = "project.yaml"
MODEL = "model.safetensors"  # beside the map that it was trained for


class StyleRecord(BaseModel):
    """A style as it stands in the file; what is left out is as `app.map.style.default_style` has it."""

    model_config = ConfigDict(extra="forbid", from_attributes=True)
    paint: Paint
    channels: tuple[int, ...]
    stretch: tuple[tuple[float, float], ...] = ()
    ramp: str = "viridis"
    threshold: float | None = None


class LayerRecord(BaseModel):
    """A layer as it stands in the file."""

    model_config = ConfigDict(extra="forbid")
    name: str
    path: str
    visible: bool = True
    opacity: float = 1.0
    style: StyleRecord | None = None


class ProjectRecord(BaseModel):
    """The whole of ``project.yaml``."""

    model_config = ConfigDict(extra="forbid")
    format: int = FORMAT
    saved: str = ""
    layers: list[LayerRecord] = []
    classes: list[ClassColor] = []
    settings: dict[str, Any] = {}


@dataclass
class Project:
    """A project in memory.

    Attributes:
        layers: Layers, top first.
        classes: Classes that examples are drawn of.
        examples: Drawn features in EPSG:4326 with a column ``class`` (a name).
        settings: What else the pages remember: plain YAML.
        models: Trained classes to be kept with it; each lies in a folder that names it.
        missing: Layers of the file that cannot be opened here, with the reason.
    """

    layers: list[Layer] = field(default_factory=list)
    classes: list[ClassColor] = field(default_factory=list)
    examples: geopandas.GeoDataFrame | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    models: list[Path] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


def check_name(name: str) -> str:
    """A project's name, if it can be a folder's.

    Raises:
        InputError: Where it is empty, too long, or more than letters, digits, spaces, dots, dashes and underscores.
    """
    cleaned = " ".join(name.split())
    if not re.fullmatch(r"[\w][\w .\-]{0,79}", cleaned) or cleaned.endswith("."):
        raise InputError("A project's name has letters, digits, spaces, dots, dashes and underscores, 80 at most.")
    return cleaned


def listed(folder: Path) -> list[str]:
    """Names of the projects in a folder, the newest first."""
    found = [child for child in folder.iterdir() if (child / RECORD).exists()]
    return [child.name for child in sorted(found, key=lambda child: -(child / RECORD).stat().st_mtime)]


def save(folder: Path, name: str, project: Project) -> Path:
    """Write a project; the state that it replaces is kept among its versions."""
    home = folder / check_name(name)
    home.mkdir(parents=True, exist_ok=True)
    _keep_version(home)
    record = ProjectRecord(
        saved=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        layers=[_layer_record(layer, home) for layer in project.layers],
        classes=project.classes,
        settings=project.settings,
    )
    if project.examples is not None and len(project.examples):
        part = home / f".{EXAMPLES}.part.gpkg"
        part.unlink(missing_ok=True)
        project.examples.to_file(part, layer="examples", driver="GPKG")
        part.replace(home / EXAMPLES)
    else:
        (home / EXAMPLES).unlink(missing_ok=True)
    for model in project.models:
        _keep_model(model, home / "models" / f"{model.parent.name}.safetensors")
    with replacing(home / RECORD) as part:
        part.write_text(yaml.safe_dump(record.model_dump(mode="json"), sort_keys=False, allow_unicode=True))
    return home


def _keep_model(model: Path, kept: Path) -> None:
    if not kept.exists():
        kept.parent.mkdir(exist_ok=True)
        with replacing(kept) as part:
            shutil.copy2(model, part)


def trained_models(results: Path, projects: Path) -> dict[Path, str]:
    """Trained classes in the server's results and in its projects, the newest first, each with a name for people."""
    found = {path: path.parent.name for path in results.glob(f"*/{MODEL}")}
    known = set(found.values())
    for path in projects.glob("*/models/[!.]*.safetensors"):
        if path.stem not in known:  # else it is a copy of one that is here
            found[path] = f"{path.stem} ({path.parent.parent.name})"
    return dict(sorted(found.items(), key=lambda entry: -entry[0].stat().st_mtime))


def _keep_version(home: Path) -> None:
    if not (home / RECORD).exists():
        return
    number = 1 + max((int(child.name) for child in (home / "versions").glob("[0-9]*")), default=0)
    version = home / "versions" / f"{number:04d}"
    version.mkdir(parents=True)
    for file in (RECORD, EXAMPLES):
        if (home / file).exists():
            shutil.copy2(home / file, version / file)


def versions(folder: Path, name: str) -> list[str]:
    """Names of the earlier states of a project, the newest first."""
    return sorted((child.name for child in (folder / check_name(name) / "versions").glob("[0-9]*")), reverse=True)


def load(folder: Path, name: str, access: Access, statistics: Path, version: str | None = None) -> Project:
    """Read a project; layers that cannot be opened are named in ``missing``.

    Raises:
        InputError: Where the project itself cannot be read.
    """
    home = folder / check_name(name)
    state = home / "versions" / Path(version).name if version else home
    try:
        record = ProjectRecord.model_validate(yaml.safe_load((state / RECORD).read_text()))
    except FileNotFoundError as error:
        raise InputError(f"There is no project called {name!r}.") from error
    except (yaml.YAMLError, ValidationError) as error:
        raise InputError(
            f"{state / RECORD} is no project that this version reads ({str(error).splitlines()[0]})."
        ) from error
    project = Project(classes=record.classes, settings=record.settings)
    for number, one in enumerate(record.layers):
        try:
            project.layers.append(_layer(one, f"p{number}-{home.name}-{record.saved}", home, access, statistics))
        except InputError as error:
            project.missing.append(str(error))
    if (state / EXAMPLES).exists():
        project.examples = geopandas.read_file(state / EXAMPLES).to_crs(4326)
    return project


def _layer_record(layer: Layer, home: Path) -> LayerRecord:
    path = Path(layer.source.address)
    inside = path.is_absolute() and home in path.parents
    return LayerRecord(
        name=layer.name,
        path=str(path.relative_to(home)) if inside else layer.source.address,
        visible=layer.visible,
        opacity=layer.opacity,
        style=StyleRecord.model_validate(layer.style),
    )


def _layer(record: LayerRecord, key: str, home: Path, access: Access, statistics: Path) -> Layer:
    typed = record.path if Path(record.path).is_absolute() else str(home / record.path)
    source = open_source(access.resolve(typed, SCENES))
    style = default_style(source, statistics)
    stored = record.style
    if stored and all(0 <= channel < len(source.channel_names) for channel in stored.channels):
        style = Style(**stored.model_dump(), classes=source.classes)
    return Layer(key, source, style, record.name, record.visible, record.opacity)


def packed(folder: Path, name: str) -> bytes:
    """The project's own files (no scenes) as a zip archive, to be sent to somebody."""
    home = folder / check_name(name)
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(home.rglob("*")):
            if file.is_file() and not file.name.startswith(".") and file.suffix != ".part":
                archive.write(file, f"{home.name}/{file.relative_to(home)}")
    return target.getvalue()
