"""Data sets that are folders or zips: ``CLASS/IMAGE`` for classification, ``images/`` and ``labels/`` for masks."""

import hashlib
import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from io import BytesIO
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image, UnidentifiedImageError

from geodino.backbones.card import RGB
from geodino.evaluation.dataset import IGNORE, ImageSet, check_classes
from tiles.errors import InputError
from tiles.scenes.band import Pixels
from tiles.scenes.opening import open_scene
from tiles.scenes.reader import SceneReader

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
RASTERS = (".tif", ".tiff", ".jp2", ".vrt")
MASK_FOLDERS = ("labels", "masks", "annotations")
MAX_CLASSES = 64


@dataclass(frozen=True)
class Reading:
    """How rasters of a data set are read; pictures are red, green, blue and need none of it.

    Attributes:
        bands: Common names of the bands to read, in order.
        sensor: Sensor where the files do not say it.
        band_names: Names of the files' bands where the files do not say them.
        gsd_m: Pixel size in metres of rasters without a coordinate reference system.
    """

    bands: tuple[str, ...] = RGB
    sensor: str | None = None
    band_names: tuple[str, ...] | None = None
    gsd_m: float | None = None


class Tree:
    """The files of a folder or of a zip, by their path in it."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @cached_property
    def _zip(self) -> zipfile.ZipFile | None:
        if os.path.isdir(self.root):
            return None
        try:
            return zipfile.ZipFile(self.root)
        except (zipfile.BadZipFile, OSError) as error:
            raise InputError(f"{self.root} is neither a folder nor a zip that can be read ({error})") from None

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Bytes of every file by its path, sorted; hidden files and macOS leftovers are not among them."""
        if self._zip is not None:
            found = {info.filename: info.file_size for info in self._zip.infolist() if not info.is_dir()}
        else:
            files = (path for path in self.root.rglob("*") if path.is_file())
            found = {path.relative_to(self.root).as_posix(): path.stat().st_size for path in files}
        hidden = (".", "__MACOSX")
        return {
            name: found[name]
            for name in sorted(found)
            if not any(part.startswith(hidden) for part in PurePosixPath(name).parts)
        }

    @cached_property
    def folders(self) -> set[str]:
        """Every folder, empty ones included."""
        if self._zip is not None:
            named = {info.filename.rstrip("/") for info in self._zip.infolist() if info.is_dir()}
        else:
            named = {path.relative_to(self.root).as_posix() for path in self.root.rglob("*") if path.is_dir()}
        return named | {str(PurePosixPath(name).parent) for name in self.sizes}

    def bytes_of(self, name: str) -> bytes:
        """Contents of a file; safe in threads."""
        return (self.root / name).read_bytes() if self._zip is None else self._zip.read(name)

    def gdal_path(self, name: str) -> str:
        """A path that GDAL opens."""
        return str(self.root / name) if self._zip is None else f"/vsizip/{self.root.resolve()}/{name}"

    def digest(self, names: Sequence[str]) -> str:
        """Hex digest of names and sizes: what can be known without reading everything."""
        text = "\n".join(f"{name} {self.sizes[name]}" for name in names)
        return hashlib.sha256(text.encode()).hexdigest()

    def read_picture(self, name: str) -> np.ndarray:
        """Decode a picture to ``[H, W, 3]`` uint8 (or ``[H, W]`` for masks, as stored)."""
        try:
            with Image.open(BytesIO(self.bytes_of(name))) as picture:
                return np.asarray(picture.convert("RGB"))
        except (UnidentifiedImageError, OSError) as error:
            raise InputError(f"{self.root / name} cannot be read as an image ({error}); remove or replace it") from None


def open_folder(path: Path, reading: Reading) -> ImageSet:
    """Open a folder or zip as classes or as masks, whichever it holds.

    Raises:
        InputError: When it holds neither, one class, or an empty class.
    """
    tree = Tree(path)
    images = [name for name in tree.sizes if name.lower().endswith(PICTURES + RASTERS)]
    if not images:
        raise InputError(f"{path} holds no images; give a folder or zip of CLASS/IMAGE, or of images/ and labels/")
    top = _common_folder(images)
    named = {PurePosixPath(name).relative_to(top).parts[0] for name in images}
    masks = next((folder for folder in MASK_FOLDERS if folder in named), None)
    if "images" in named and masks:
        return _open_masks(tree, top / "images", top / masks, reading)
    return _open_classes(tree, images, top, reading)


def _common_folder(names: list[str]) -> PurePosixPath:
    """Deepest folder that holds every image, but no deeper than one class folder for each leaves room for."""
    parents = [PurePosixPath(name).parent.parts for name in names]
    shared = 0
    while all(len(parts) > shared for parts in parents) and len({parts[shared] for parts in parents}) == 1:
        shared += 1
    if all(len(parts) == shared for parts in parents):  # a single folder of images: that folder is the one class
        shared = max(0, shared - 1)
    return PurePosixPath(*parents[0][:shared])


def _open_classes(tree: Tree, images: list[str], top: PurePosixPath, reading: Reading) -> ImageSet:
    below = [PurePosixPath(name).relative_to(top).parts for name in images]
    loose = [name for name, parts in zip(images, below, strict=True) if len(parts) == 1]
    if loose:
        raise InputError(f"{tree.root / loose[0]} lies in no class folder; a data set is CLASS/IMAGE")
    inside = {PurePosixPath(folder) for folder in tree.folders if PurePosixPath(folder) != top}
    empty = {folder.name for folder in inside if folder.parent == top}
    classes = tuple(sorted({parts[0] for parts in below} | empty))
    number = {name: i for i, name in enumerate(classes)}
    labels = np.array([number[parts[0]] for parts in below], np.int64)
    check_classes(str(tree.root), classes, labels)
    return ImageSet(
        name=tree.root.stem,
        keys=tuple(images),
        classes=classes,
        read=partial(_read, tree, images, reading),
        fingerprint=tree.digest(images),
        labels=labels,
        positions=_positions(tree, images),
    )


def _open_masks(tree: Tree, image_folder: PurePosixPath, mask_folder: PurePosixPath, reading: Reading) -> ImageSet:
    by_stem: dict[PurePosixPath, dict[str, str]] = {image_folder: {}, mask_folder: {}}
    for name in tree.sizes:
        path = PurePosixPath(name)
        if path.suffix.lower() in PICTURES + RASTERS:
            for folder, found in by_stem.items():
                if path.is_relative_to(folder):
                    found[str(path.relative_to(folder).with_suffix(""))] = name
    images, masks = by_stem.values()
    if lonely := sorted(images.keys() ^ masks.keys()):
        raise InputError(f"{tree.root}: '{lonely[0]}' has no partner among {image_folder.name} and {mask_folder.name}")
    if len(images) < 5:
        raise InputError(f"{tree.root} has {len(images)} images with masks; it needs 5 to be split")
    stems = sorted(images)
    files = [masks[stem] for stem in stems]
    codes = _mask_codes(tree, files)
    names = [images[stem] for stem in stems]
    return ImageSet(
        name=tree.root.name,
        keys=tuple(stems),
        classes=tuple(codes.names),
        read=partial(_read, tree, names, reading),
        fingerprint=tree.digest(names + files),
        read_mask=partial(_read_mask, tree, files, codes),
        positions=_positions(tree, names),
        notes=codes.notes,
    )


@dataclass(frozen=True)
class MaskCodes:
    """What the pixels of masks mean.

    Attributes:
        values: Packed colour (24 bits) of each class; empty when grey masks are cut at 127.
        names: Names of the classes.
        notes: What was decided.
    """

    values: tuple[int, ...]
    names: tuple[str, ...]
    notes: tuple[str, ...] = ()


def _mask_codes(tree: Tree, files: list[str]) -> MaskCodes:
    """Find the classes of masks: every colour is one, 255 beside 0, 1, 2, ... means no label."""
    colours: set[int] = set()
    for file in files:
        colours.update(np.unique(_packed(tree, file)).tolist())
    grey = sorted(c & 255 for c in colours) if all(c == (c & 255) * 0x010101 for c in colours) else None
    if grey is None and len(colours) > MAX_CLASSES:
        raise InputError(
            f"masks of {tree.root} have {len(colours)} colours; save class numbers or plain colours as PNG"
        )
    if grey and len(grey) > MAX_CLASSES:
        note = "grey masks with many values are cut at 127: class 0 up to it, class 1 above"
        return MaskCodes((), ("0", "1"), (note,))
    notes: tuple[str, ...] = ()
    if grey and len(grey) > 2 and grey[-1] == 255:
        grey, notes = grey[:-1], ("mask value 255 is taken as no label",)
    values = tuple(g * 0x010101 for g in grey) if grey else tuple(sorted(colours))
    if len(values) < 2:
        raise InputError(f"masks of {tree.root} have one class only; a data set needs at least two")
    names = tuple(str(g) for g in grey) if grey else tuple(f"#{v:06x}" for v in values)
    return MaskCodes(values, names, notes)


def _packed(tree: Tree, file: str) -> np.ndarray:
    if file.lower().endswith(RASTERS):
        import rasterio

        with rasterio.open(tree.gdal_path(file)) as source:
            return source.read(1).astype(np.uint8).astype(np.uint32) * np.uint32(0x010101)
    picture = tree.read_picture(file).astype(np.uint32)
    return (picture[..., 0] << 16) | (picture[..., 1] << 8) | picture[..., 2]


def _read_mask(tree: Tree, files: list[str], codes: MaskCodes, i: int) -> np.ndarray:
    packed = _packed(tree, files[i])
    if not codes.values:
        return ((packed & 255) > 127).astype(np.int64)
    values = np.array(codes.values)
    place = np.searchsorted(values, packed).clip(max=len(values) - 1)
    return np.where(values[place] == packed, place, IGNORE)


def _read(tree: Tree, names: list[str], reading: Reading, i: int) -> Pixels:
    name = names[i]
    if name.lower().endswith(PICTURES):
        if missing := [band for band in reading.bands if band not in RGB]:
            raise InputError(f"{tree.root / name} is red, green, blue; the backbone also wants {', '.join(missing)}")
        picture = tree.read_picture(name)
        order = [RGB.index(band) for band in reading.bands]
        values = picture.transpose(2, 0, 1)[order].astype(np.float32) / np.float32(255)
        return Pixels(values, np.ones(picture.shape[:2], bool))
    import rasterio.windows

    scene = open_scene(tree.gdal_path(name), **vars(reading))
    if scene.sensor == "stretch":  # each small image stretched by itself would erase what tells them apart
        raise InputError(f"{tree.root / name} does not say its units; name the sensor with --sensor")
    with SceneReader(scene) as reader:
        return reader.read(rasterio.windows.Window(0, 0, scene.width, scene.height))


def _positions(tree: Tree, names: list[str]) -> np.ndarray | None:
    """Centres of georeferenced rasters in degrees, for spatial splits."""
    if not any(name.lower().endswith(RASTERS) for name in names):
        return None
    import rasterio
    from pyproj import Transformer

    centres = np.full((len(names), 2), np.nan)
    for i, name in enumerate(names):
        if not name.lower().endswith(RASTERS):
            continue
        with rasterio.open(tree.gdal_path(name)) as source:
            if source.crs is not None:
                x, y = (source.bounds.left + source.bounds.right) / 2, (source.bounds.bottom + source.bounds.top) / 2
                centres[i] = Transformer.from_crs(source.crs, 4326, always_xy=True).transform(x, y)
    return None if np.isnan(centres).all() else centres
