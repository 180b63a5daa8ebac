"""Maps whose backbone runs on a Dask cluster are the maps of one machine, byte for byte."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from scipy.ndimage import gaussian_filter

import geodino
from geodino.backbones.backbone import save_backbone, untrained_backbone
from tiles.errors import InputError
from tiles.scenes.opening import open_scene

SETTINGS = {"device": "cpu", "precision": "fp32"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backbone folder and two dates."""
    folder = tmp_path_factory.mktemp("cluster")
    backbone = untrained_backbone(
        "vit_tiny_patch16_dinov3_qkvb", device="cpu", precision="fp32", depth=1, embed_dim=24, num_heads=2
    )
    save_backbone(backbone.module, backbone.card, folder / "model")
    rng = np.random.default_rng(0)
    ground = 100 + 300 * np.stack([gaussian_filter(rng.normal(size=(1200, 96)), 4) for _ in range(3)])
    for name in ("before", "after"):
        values = ground + rng.normal(0, 2, ground.shape)
        if name == "after":
            values[:, 300:340, 20:60] = 240 - values[:, 300:340, 20:60]
        with rasterio.open(
            folder / f"{name}.tif", "w", driver="GTiff", height=1200, width=96, count=3, dtype="uint8",
            crs="EPSG:32618", transform=Affine(10, 0, 500_000, 0, -10, 4_000_000), photometric="RGB",
        ) as out:  # fmt: skip
            out.write(values.clip(1, 255).astype(np.uint8))
    return folder


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster:
        yield cluster.scheduler_address


def same(one: Path, other: Path) -> bool:
    with rasterio.open(one) as first, rasterio.open(other) as second:
        return np.array_equal(first.read(), second.read()) and first.tags() == second.tags()


@pytest.mark.slow
def test_segmentation_and_change_on_a_cluster_are_those_of_one_machine(folder: Path, address: str) -> None:
    dates = [str(folder / "before.tif"), str(folder / "after.tif")]
    model = folder / "model"
    for name, dask in (("here", None), ("there", address)):
        geodino.segment(dates[0], folder / f"{name}.tif", clusters=3, backbone=model, dask=dask, **SETTINGS)
        geodino.change(*dates, folder / f"{name}_change.tif", backbone=model, dask=dask, **SETTINGS)
    assert same(folder / "here.tif", folder / "there.tif")
    assert same(folder / "here_change.tif", folder / "there_change.tif")
    assert not [path.name for path in folder.iterdir() if "part" in path.name]


def test_a_loaded_backbone_cannot_go_to_a_cluster(folder: Path, tmp_path: Path) -> None:
    backbone = untrained_backbone(
        "vit_tiny_patch16_dinov3_qkvb", device="cpu", precision="fp32", depth=1, embed_dim=24, num_heads=2
    )
    scene = open_scene(folder / "before.tif")
    with pytest.raises(InputError, match="give its name or folder"):
        geodino.segment(scene, tmp_path / "o.tif", clusters=3, backbone=backbone, dask="tcp://127.0.0.1:1")
