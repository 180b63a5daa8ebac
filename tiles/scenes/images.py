"""Image folders and zips without georeference, in EuroSAT's layout: ``CLASS/NAME.jpg``."""

import hashlib
import os
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import IO, Self

import numpy as np
from PIL import Image, UnidentifiedImageError

from tiles.errors import InputError
from tiles.scenes.band import Band
from tiles.scenes.raster import open_raster
from tiles.scenes.validity import opaque

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
_CHANNELS = {"L": ("gray",), "RGB": ("red", "green", "blue"), "RGBA": ("red", "green", "blue")}


@dataclass(frozen=True)
class DecodedImage:
    """One image: digital numbers ``[C, H, W]``, validity ``[H, W]`` (None: every pixel) and class (None: unknown)."""

    values: np.ndarray
    valid: np.ndarray | None
    label: str | None


@dataclass(frozen=True)
class ImageSet:
    """Images of one kind, without georeference.

    Attributes:
        source: Folder or zip file.
        members: Paths within it, sorted.
        gsd_m: Ground sample distance, as given.
        bands: Bands to keep, each with its place in the image and the map to [0, 1].
        notes: What was decided.
        sensor: Row of the sensor table.
        dtype: NumPy name of the digital numbers' type.
    """

    source: str
    members: tuple[str, ...]
    gsd_m: float
    bands: tuple[Band, ...]
    notes: tuple[str, ...]
    sensor: str = "8bit"
    dtype: str = "uint8"

    @property
    def name(self) -> str:
        """Name for people."""
        return Path(self.source).stem

    @property
    def band_names(self) -> tuple[str, ...]:
        """Names of the bands kept."""
        return tuple(band.name for band in self.bands)

    def state(self) -> list[object]:
        """What tells whether the images are still the same, without reading them."""
        top = Path(self.source)
        digest = hashlib.sha256()
        for file in (top / member for member in self.members) if top.is_dir() else (top,):
            found = file.stat()
            digest.update(f"{file}:{found.st_size}:{found.st_mtime_ns}".encode())
        return [self.source, digest.hexdigest()]

    def open(self) -> "ImageReader":
        """Open for reading in one thread, as a context manager."""
        return ImageReader(self)

    def subset(self, first: int, last: int) -> Self:
        """The images ``first`` up to but not including ``last``."""
        return replace(self, members=self.members[first:last])


class ImageReader:
    """Decodes the images of a set."""

    def __init__(self, images: ImageSet) -> None:
        self.images = images
        self._stack = ExitStack()
        self._zip: zipfile.ZipFile | None = None
        if not os.path.isdir(images.source):
            self._zip = self._stack.enter_context(zipfile.ZipFile(images.source))

    def read(self, member: str) -> DecodedImage:
        """Decode one image: uint8 of the set's bands, validity from alpha, class from the folder it lies in.

        Raises:
            InputError: Where it is damaged or of another kind than the set; the sentence names it.
        """
        name = f"{self.images.source}:{member}" if self._zip else str(Path(self.images.source) / member)
        try:
            with self._raw(member) as raw, Image.open(raw) as image:
                if image.mode not in _CHANNELS:
                    raise InputError(
                        f"{name} is an image of kind {image.mode}; only 8-bit gray, RGB and RGBA are read."
                    )
                pixels = np.asarray(image)
        except (
            UnidentifiedImageError,
            OSError,
            ValueError,
            SyntaxError,
            zipfile.BadZipFile,
            Image.DecompressionBombError,
        ) as error:
            raise InputError(f"{name} cannot be read as an image ({error}).") from error
        if pixels.ndim == 2:
            pixels = pixels[:, :, None]
        if max(band.index for band in self.images.bands) > len(_CHANNELS[image.mode]):
            raise InputError(f"{name} has {image.mode} channels, the other images of its set have more.")
        chosen = np.ascontiguousarray(pixels.transpose(2, 0, 1)[[band.index - 1 for band in self.images.bands]])
        valid = opaque(pixels[:, :, 3]) if image.mode == "RGBA" else None
        return DecodedImage(chosen, valid, PurePosixPath(member).parent.name or None)

    def _raw(self, member: str) -> IO[bytes]:
        if self._zip:
            return self._zip.open(member)
        return (Path(self.images.source) / member).open("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


def open_images(source: str, gsd_m: float | None, bands: tuple[str, ...] | None) -> ImageSet:
    """Find the images of a folder or a zip file.

    Raises:
        InputError: Without images, without a pixel size, or without the bands asked for.
    """
    members = tuple(sorted(_members(source)))
    if not members:
        raise InputError(f"{source} holds no images ({', '.join(IMAGE_SUFFIXES)}).")
    if gsd_m is None:
        raise InputError(f"The images of {source} have no georeference; give their pixel size in metres with --gsd.")
    with ExitStack() as stack:
        try:
            archive = None if os.path.isdir(source) else stack.enter_context(zipfile.ZipFile(source))
            raw = stack.enter_context(archive.open(members[0]) if archive else (Path(source) / members[0]).open("rb"))
            mode = stack.enter_context(Image.open(raw)).mode
        except (UnidentifiedImageError, OSError, zipfile.BadZipFile) as error:
            raise InputError(f"{source}:{members[0]} cannot be read as an image ({error}).") from error
    if mode not in _CHANNELS:
        raise InputError(f"{source}:{members[0]} is an image of kind {mode}; only 8-bit gray, RGB and RGBA are read.")
    channels = _CHANNELS[mode]
    missing = [name for name in bands or () if name not in channels]
    if missing:
        raise InputError(f"{source} has no band called {', '.join(missing)}; its images have {', '.join(channels)}.")
    chosen = tuple(Band(n, source, channels.index(n) + 1, "uint8", None, 1 / 255, 0.0) for n in bands or channels)
    note = (
        f"{len(members)} images without georeference: pixels taken as squares of {gsd_m:g} m, classes from folder names"
    )
    return ImageSet(source, members, gsd_m, chosen, (note, "sensor 8bit: since its values have 8 bits"))


def _members(source: str) -> Iterator[str]:
    if os.path.isdir(source):
        for path in Path(source).rglob("*"):
            if path.suffix.lower() in IMAGE_SUFFIXES and os.path.isfile(path):
                yield path.relative_to(source).as_posix()
        return
    try:
        with zipfile.ZipFile(source) as archive:
            yield from (name for name in archive.namelist() if PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES)
    except (OSError, zipfile.BadZipFile) as error:
        raise InputError(f"{source} cannot be read as a zip file ({error}).") from error


def is_image_set(source: str) -> bool:
    """Whether a source is a zip, or a folder of (class folders of) images without georeference."""
    path = Path(source)
    if path.suffix.lower() == ".zip" and os.path.isfile(path):
        return True
    if not os.path.isdir(path):
        return False
    first = next(_members(source), None)
    if first is None or any(p.suffix.lower() in (".tif", ".tiff", ".jp2") for p in path.iterdir()):
        return False
    try:
        with open_raster(str(path / first)) as raster:
            return raster.crs is None
    except InputError:
        return True  # a damaged image among images: the cut names it
