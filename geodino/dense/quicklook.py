"""A feature cube as a picture: its first three principal components as red, green and blue.

The components are fitted once over the whole cube, on evenly spread tokens, and stretched by percentiles of those same
tokens; nothing depends on tiles. Signs are fixed, so that the same cube gives the same picture.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
from PIL import Image

from geodino.dense.cube_reader import CubeArray
from tiles.errors import InputError
from tiles.writing.cog import CogWriter, check_output, disk_errors, part_of

_SAMPLES = 20_000
_LARGEST = 4096  # pixels along a picture's longer side, above which tokens are skipped
_SMALLEST = 512  # below which each token becomes several pixels
_PERCENTILES = (1.0, 99.0)


@dataclass(frozen=True)
class PcaColours:
    """A linear map from features to colours.

    Attributes:
        mean: ``[D]``.
        components: ``[3, D]``, orthonormal, strongest first.
        low: ``[3]``, projected value that becomes the darkest.
        high: ``[3]``, projected value that becomes the brightest.
    """

    mean: npt.NDArray[np.float64]
    components: npt.NDArray[np.float64]
    low: npt.NDArray[np.float64]
    high: npt.NDArray[np.float64]

    @classmethod
    def fit(cls, samples: npt.NDArray[np.float32]) -> Self:
        """Fit on features ``[N, D]``."""
        mean = samples.mean(0, dtype=np.float64)
        centred = samples - mean
        _, vectors = np.linalg.eigh(centred.T @ centred)
        components = vectors[:, ::-1][:, :3].T
        # An eigenvector's sign is arbitrary: its largest entry is made positive.
        largest = np.abs(components).argmax(1)
        components = components * np.sign(components[np.arange(len(components)), largest])[:, None]
        low, high = np.percentile(centred @ components.T, _PERCENTILES, axis=0)
        return cls(mean, components, low, np.maximum(high, low + 1e-9))

    def paint(self, features: npt.NDArray[np.float32], valid: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
        """Colours ``[3, h, w]`` uint8 from 1 to 255 of features ``[D, h, w]``; 0 where not valid."""
        projected = np.einsum("kd,dhw->khw", self.components, features - self.mean[:, None, None])
        share = (projected - self.low[:, None, None]) / (self.high - self.low)[:, None, None]
        return np.where(valid, 1 + np.clip(share, 0, 1) * 254, 0).astype(np.uint8)


def quicklook(cube: CubeArray, output: Path, *, overwrite: bool = False) -> Path:
    """Draw a feature cube.

    Args:
        cube: What ``geodino.dense.cube_reader.cube_array`` gives; read twice, a few rows at a time.
        output: ``.png`` (a picture of at most 4,096 pixels) or ``.tif`` (a COG on the token grid, 0 = nodata).
        overwrite: Replace an existing file.

    Raises:
        InputError: The cube has no valid token, or the output's name is neither.
        OutputError: The output exists or cannot be written.
    """
    check_quicklook(output, overwrite=overwrite)
    height, width = cube.geobox.shape
    stride = max(1, height * width // _SAMPLES)
    samples = []
    for first, features, valid in _pieces(cube):
        number = first * width + np.arange(valid.size).reshape(valid.shape)
        samples.append(features[:, valid & (number % stride == 0)].T)
    chosen = np.concatenate(samples)
    if not len(chosen):
        raise InputError("the features hold no valid token, so there is nothing to draw")
    colours = PcaColours.fit(chosen)
    if output.suffix.lower() == ".png":
        _write_png(cube, colours, output)
    else:
        tags = {"GEODINO_QUICKLOOK": "three principal components of the features as red, green and blue"}
        with CogWriter(output, cube.geobox, dtype="uint8", nodata=0, count=3, tags=tags, overwrite=overwrite) as out:
            for first, features, valid in _pieces(cube):
                out.write(first, colours.paint(features, valid))
    return output


def check_quicklook(output: Path, *, overwrite: bool) -> None:
    """Refuse a picture that cannot be written, before any work."""
    if output.suffix.lower() not in (".png", ".tif", ".tiff"):
        raise InputError(f"a quicklook is a .png or a .tif, not {output.name}")
    check_output(output, overwrite=overwrite)


def _pieces(cube: CubeArray) -> Iterator[tuple[int, npt.NDArray[np.float32], npt.NDArray[np.bool_]]]:
    height = int(cube.geobox.shape[0])
    for first in range(0, height, cube.piece_rows):
        features = cube.rows(first, min(first + cube.piece_rows, height))
        valid = ~np.isnan(features[0])
        yield first, np.nan_to_num(features), valid


def _write_png(cube: CubeArray, colours: PcaColours, output: Path) -> None:
    step = -(-max(cube.geobox.shape) // _LARGEST)
    rows = []
    for first, features, valid in _pieces(cube):
        wanted = slice(-first % step, None, step)
        painted = colours.paint(features[:, wanted, ::step], valid[wanted, ::step])
        alpha = np.where(valid[wanted, ::step], 255, 0).astype(np.uint8)
        rows.append(np.concatenate([painted, alpha[None]]))
    picture = np.moveaxis(np.concatenate(rows, axis=1), 0, -1)
    enlarge = max(1, -(-_SMALLEST // max(picture.shape[:2])))
    picture = picture.repeat(enlarge, 0).repeat(enlarge, 1)
    part = part_of(output)
    try:
        with disk_errors(output):
            Image.fromarray(picture, "RGBA").save(part, format="PNG")
            part.replace(output)
    finally:
        part.unlink(missing_ok=True)
