"""The calibrated comparison of two dates' tokens."""

from pathlib import Path

from geodino.change_detection.alignment import Pair
from geodino.change_detection.score import TokenHalf, token_half
from geodino.change_detection.token_distance import fit_token_change
from geodino.dense.tokens import SceneTokens


def compare_dates(pair: Pair, before: SceneTokens, after: SceneTokens, folder: Path) -> TokenHalf:
    """The calibrated comparison of two dates' tokens, its distances kept in ``folder``."""
    change = fit_token_change(
        before, after, layers=max(1, len(before.origin.layers)), tolerance=pair.remaining_shift / before.pixels
    )
    return token_half(before, after, change, folder)
