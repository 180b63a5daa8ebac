"""A scene's tokens on disk, made here or by a Dask cluster, from where an interrupted run stopped."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from geodino.backbones.backbone import Backbone
from geodino.dense.extraction import arithmetic_of
from geodino.dense.store import TokenStore
from geodino.dense.stream import DenseSettings, feature_dim, stream_tokens, token_grid
from tiles.progress import Progress
from tiles.scenes.scene import Scene

if TYPE_CHECKING:
    from geodino.jobs.cluster import Cluster

Rows = tuple[int, NDArray[np.float32], NDArray[np.bool_]]


def fill_tokens(
    scene: Scene,
    backbone: Backbone,
    settings: DenseSettings,
    folder: Path,
    progress: Progress,
    *,
    span: tuple[float, float],
    restart: bool,
    cluster: "Cluster | None" = None,
) -> TokenStore:
    """Run the backbone over a scene, or over the rows that an interrupted run has left.

    Args:
        scene: the scene.
        backbone: the model; with a cluster, its local copy, which computes nothing.
        settings: how windows are laid.
        folder: where the tokens are kept.
        progress: reporter.
        span: share done before and after.
        restart: throw away what an interrupted run has left.
        cluster: workers that compute instead of this machine.
    """
    chosen = scene.select(backbone.bands)
    grid = token_grid(chosen, backbone, settings)
    arithmetic = arithmetic_of(backbone) if cluster is None else cluster.describe(settings)[0]
    store = TokenStore.open(
        folder,
        {
            "scene": chosen.fingerprint(),
            "backbone": backbone.hash,
            "arithmetic": arithmetic,
            "settings": settings.identity(),
        },
        rows=grid.rows,
        columns=grid.columns,
        channels=feature_dim(backbone, settings),
        restart=restart,
    )
    if store.done < grid.rows:
        rows = _here(chosen, backbone, settings, range(store.done, grid.rows))
        if cluster is not None:
            rows = _there(chosen, cluster, settings, store)
        for row, features, valid in rows:
            store.write(row, features, valid)
            progress.update(span[0] + (span[1] - span[0]) * store.done / grid.rows, f"features of {scene.name}")
    return store


def _here(scene: Scene, backbone: Backbone, settings: DenseSettings, rows: range) -> Iterator[Rows]:
    for piece in stream_tokens(scene, backbone, settings, rows=rows):
        yield piece.row, piece.features, piece.valid


def _there(scene: Scene, cluster: "Cluster", settings: DenseSettings, store: TokenStore) -> Iterator[Rows]:
    """Rows of a cube that the workers make inside the store's folder; its own journal lets it go on when interrupted.

    The cube holds the numbers the store would hold, in the same precision.
    """
    import zarr

    from geodino.dense.cube import PIECE_ROWS, VARIABLE

    cube = store.folder / "cluster.zarr"
    if not cube.exists():
        cluster.extract(scene, cube, settings, "float16")
    array = zarr.open_group(cube, mode="r")[VARIABLE]
    for start in range(store.done, store.valid.shape[0], PIECE_ROWS):
        features = np.asarray(array[:, start : start + PIECE_ROWS], dtype=np.float32)
        valid = ~np.isnan(features[0])
        yield start, np.where(valid, features, np.float32(0)), valid
