"""The calibrated comparison of two dates' tokens."""

from pathlib import Path

from geodino.backbone import Backbone
from geodino.change_detection.alignment import Pair
from geodino.change_detection.deep import fit_token_change
from geodino.change_detection.field import TokenHalf, token_half
from geodino.dense import DenseSettings, token_grid
from geodino.token_store import TokenStore


def compare_dates(
    pair: Pair, before: TokenStore, after: TokenStore, backbone: Backbone, settings: DenseSettings, folder: Path
) -> TokenHalf:
    """The calibrated comparison of two filled dates, its distances kept in ``folder``."""
    patch = token_grid(pair.before, backbone, settings).pixels
    change = fit_token_change(
        before, after, layers=max(1, len(settings.layers)), tolerance=pair.remaining_shift / patch
    )
    return token_half(before, after, change, patch, folder)
