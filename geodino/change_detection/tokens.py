"""Both dates' tokens on disk, and the calibrated comparison of them."""

from pathlib import Path

from geodino.backbone import Backbone
from geodino.change_detection.alignment import Pair
from geodino.change_detection.deep import fit_token_change
from geodino.change_detection.field import TokenHalf, token_half
from geodino.dense import DenseSettings, feature_dim, stream_tokens, token_grid
from geodino.extraction import arithmetic_of
from geodino.token_store import TokenStore
from tiles.progress import Progress
from tiles.scene import Scene


def fill_date(
    scene: Scene,
    backbone: Backbone,
    settings: DenseSettings,
    folder: Path,
    progress: Progress,
    *,
    span: tuple[float, float],
    restart: bool,
) -> TokenStore:
    """Run the backbone over one date, or over what an interrupted run has left.

    Args:
        scene: the date on the common grid.
        backbone: the model.
        settings: how windows are laid; the batch size is filled in.
        folder: where the tokens are kept.
        progress: reporter.
        span: share done before and after this date.
        restart: throw away what an interrupted run has left.
    """
    chosen = scene.select(backbone.bands)
    grid = token_grid(chosen, backbone, settings)
    store = TokenStore.open(
        folder,
        {
            "scene": chosen.fingerprint(),
            "backbone": backbone.hash,
            "arithmetic": arithmetic_of(backbone),
            "settings": settings.identity(),
        },
        rows=grid.rows,
        columns=grid.columns,
        channels=feature_dim(backbone, settings),
        restart=restart,
    )
    if store.done < grid.rows:
        for piece in stream_tokens(chosen, backbone, settings, rows=range(store.done, grid.rows)):
            store.write(piece.row, piece.features, piece.valid)
            progress.update(span[0] + (span[1] - span[0]) * store.done / grid.rows, f"features of {scene.name}")
    return store


def compare_dates(
    pair: Pair, before: TokenStore, after: TokenStore, backbone: Backbone, settings: DenseSettings
) -> TokenHalf:
    """The calibrated comparison of two filled dates."""
    patch = token_grid(pair.before, backbone, settings).pixels
    change = fit_token_change(
        before, after, layers=max(1, len(settings.layers)), tolerance=pair.remaining_shift / patch
    )
    return token_half(before, after, change, patch)
