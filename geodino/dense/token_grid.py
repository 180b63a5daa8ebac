"""The grid of tokens over a scene: where each patch token lies, and which pixels make it valid.

Token (0, 0) covers the scene's first ``pixels`` × ``pixels`` pixels. The last row and column may reach beyond the
scene; they are judged by the pixels that lie inside.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from affine import Affine
from odc.geo.geobox import GeoBox


@dataclass(frozen=True)
class TokenGrid:
    """Tokens of a scene.

    Attributes:
        height: Pixel rows of the scene.
        width: Pixel columns of the scene.
        pixels: Scene pixels along a token's side.
    """

    height: int
    width: int
    pixels: int

    @property
    def rows(self) -> int:
        """Token rows, ``ceil(height / pixels)``."""
        return -(-self.height // self.pixels)

    @property
    def columns(self) -> int:
        """Token columns, ``ceil(width / pixels)``."""
        return -(-self.width // self.pixels)

    def geobox(self, scene: GeoBox) -> GeoBox:
        """Grid of the tokens in the scene's CRS: same origin, pixels ``pixels`` times as large."""
        a, b, c, d, e, f = tuple(scene.affine)[:6]
        n = self.pixels
        return GeoBox((self.rows, self.columns), Affine(a * n, b * n, c, d * n, e * n, f), scene.crs)

    def pixel_rows(self, start: int, stop: int) -> tuple[int, int]:
        """First pixel row of token row ``start`` and the one after the last of token row ``stop - 1``."""
        return start * self.pixels, min(stop * self.pixels, self.height)

    def valid_tokens(
        self, valid: npt.NDArray[np.bool_], row: int, column: int, min_valid: float
    ) -> npt.NDArray[np.bool_]:
        """Tell which tokens of a window have enough valid pixels.

        Args:
            valid: Pixel validity ``[h, w]`` from token (``row``, ``column``) on, cut at the scene's edge.
            row: First token row.
            column: First token column.
            min_valid: Share of a token's pixels inside the scene, in [0, 1], that must be valid; one must be always.

        Returns:
            bool ``[ceil(h / pixels), ceil(w / pixels)]``.
        """
        n = self.pixels
        down, across = -(-valid.shape[0] // n), -(-valid.shape[1] // n)
        if valid.all():
            return np.ones((down, across), np.bool_)
        padded = np.zeros((down * n, across * n), np.bool_)
        padded[: valid.shape[0], : valid.shape[1]] = valid
        count = padded.reshape(down, n, across, n).sum((1, 3))
        inside_rows = np.minimum(n, self.height - (row + np.arange(down)) * n)
        inside_columns = np.minimum(n, self.width - (column + np.arange(across)) * n)
        enough = count >= min_valid * np.outer(inside_rows, inside_columns)
        return np.asarray(enough & (count > 0), np.bool_)
