"""The calibrated comparison of two dates' tokens."""

from pathlib import Path

from geodino.backbones.backbone import Backbone
from geodino.change_detection.alignment import Pair
from geodino.change_detection.score import TokenHalf, token_half
from geodino.change_detection.token_distance import fit_token_change
from geodino.dense.store import TokenStore
from geodino.dense.stream import DenseSettings, token_grid


def compare_dates(
    pair: Pair, before: TokenStore, after: TokenStore, backbone: Backbone, settings: DenseSettings, folder: Path
) -> TokenHalf:
    """The calibrated comparison of two filled dates, its distances kept in ``folder``."""
    patch = token_grid(pair.before, backbone, settings).pixels
    change = fit_token_change(
        before, after, layers=max(1, len(settings.layers)), tolerance=pair.remaining_shift / patch
    )
    return token_half(before, after, change, patch, folder)
