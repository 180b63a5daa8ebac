"""Projects: saved, opened, copied, kept in versions."""

import shutil
from pathlib import Path

import geopandas
import pytest
from app_testing import landscape, write_raster
from shapely.geometry import Point

from app.map.layers import LayerList
from app.map.source import ClassColor, open_source
from app.map.style import Paint, Style
from app.store.projects import Project, check_name, listed, load, packed, save, trained_models, versions
from app.store.workspace import Workspace
from tiles.errors import InputError


def project_in(workspace: Workspace, tmp_path: Path) -> Project:
    layers = LayerList()
    source = open_source(write_raster(tmp_path / "scene.tif", landscape(size=64)))
    layers.add(source, style=Style(Paint.ramp, (1,), ((3.0, 200.0),), "magma"), name='a "<b>" ä', opacity=0.4)
    frame = geopandas.GeoDataFrame({"class": ["water"]}, geometry=[Point(3, 45)], crs=4326)
    settings = {"least_pixels": 4, "more_like": [[3.0, 45.0]]}
    model = workspace.new_result("scene", "segmentation") / "model.safetensors"
    model.write_bytes(b"weights")
    return Project(layers.layers, [ClassColor(1, "water", (1, 2, 3))], frame, settings, [model])


def test_a_project_comes_back_as_it_was_saved(workspace: Workspace, tmp_path: Path) -> None:
    project = project_in(workspace, tmp_path)
    save(workspace.projects, "my project", project)
    assert listed(workspace.projects) == ["my project"]
    again = load(workspace.projects, "my project", workspace.access, workspace.statistics)
    (layer,) = again.layers
    assert (layer.name, layer.opacity, layer.style) == (project.layers[0].name, 0.4, project.layers[0].style)
    assert again.classes == project.classes
    assert again.settings == project.settings
    assert again.examples is not None
    assert again.examples.geometry.iloc[0] == Point(3, 45)


def test_a_copied_project_brings_its_models_along(workspace: Workspace, tmp_path: Path) -> None:
    project = project_in(workspace, tmp_path)
    home = save(workspace.projects, "p", project)
    save(workspace.projects, "p", project)
    (name,) = trained_models(workspace.results, workspace.projects).values()  # the copy is not listed beside it
    other = Workspace.at(tmp_path / "other", allow=(tmp_path,))
    shutil.copytree(home, other.projects / "theirs")
    found = trained_models(other.results, other.projects)
    assert list(found.values()) == [f"{name} (theirs)"]
    assert next(iter(found)).read_bytes() == b"weights"


def test_every_save_keeps_the_state_before(workspace: Workspace, tmp_path: Path) -> None:
    project = project_in(workspace, tmp_path)
    save(workspace.projects, "p", project)
    save(workspace.projects, "p", Project(classes=[ClassColor(1, "other", (0, 0, 0))]))
    assert versions(workspace.projects, "p") == ["0001"]
    older = load(workspace.projects, "p", workspace.access, workspace.statistics, "0001")
    assert older.classes[0].name == "water"
    assert load(workspace.projects, "p", workspace.access, workspace.statistics).examples is None
    assert len(packed(workspace.projects, "p")) > 100


def test_a_project_may_name_allowed_files_only(workspace: Workspace, tmp_path: Path) -> None:
    home = save(workspace.projects, "p", project_in(workspace, tmp_path))
    record = (home / "project.yaml").read_text()
    (home / "project.yaml").write_text(record.replace(str(tmp_path / "scene.tif"), "/etc/passwd"))
    loaded = load(workspace.projects, "p", workspace.access, workspace.statistics)
    assert loaded.layers == []
    assert "outside" in loaded.missing[0]
    (home / "project.yaml").write_text("layers: !!python/object/apply:os.system ['true']")
    with pytest.raises(InputError, match="no project"):
        load(workspace.projects, "p", workspace.access, workspace.statistics)
    with pytest.raises(InputError, match="no project called"):
        load(workspace.projects, "absent", workspace.access, workspace.statistics)


@pytest.mark.parametrize("name", ["", "..", "a/b", "../x", ".hidden", "x" * 100, "a\nb\x00"])
def test_a_project_name_is_a_plain_folder_name(name: str) -> None:
    if name == "a\nb\x00":
        name = "a\x00b"
    with pytest.raises(InputError):
        check_name(name)
