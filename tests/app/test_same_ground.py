"""The same ground gives the same values and validity however it is packaged: by every reader, `tile` and `features`.

Ground lies between 100 and 120, nodata far outside: a number beyond is nodata mixed into the ground.
"""

import math
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import morecantile
import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rasterio.enums import ColorInterp
from rasterio.warp import transform
from rasterio.windows import Window

import geodino
from app.map.render import read_point, read_tile
from app.map.source import open_source
from geodino.backbones.backbone import Backbone, untrained_backbone
from geodino.dense.settings import DenseSettings
from tiles.archive.dataset import TileDataset
from tiles.cutting.cut import cut
from tiles.cutting.plan import CutSettings, Request
from tiles.scenes.opening import open_scene
from tiles.scenes.reader import SceneReader

NAMES = ("red", "green", "blue")
LOW, HIGH = 100, 120
SIDE = 12
MERCATOR = morecantile.tms.get("WebMercatorQuad")
NODATA = {
    "uint8": (0, 255, 7),
    "uint16": (0, 65535, 9999),
    "int16": (-9999, 0, 32767),
    "float32": (-9999, 0, 3.4028234663852886e38),
}
PLACES = {
    "projected": ("EPSG:32633", Affine(10, 0, 400000, 0, -10, 5000000)),
    "geographic": ("EPSG:4326", Affine(1e-4, 0, 15, 0, -1e-4, 45)),
    "over 180": ("EPSG:4326", Affine(1e-4, 0, 180 - 5.5e-4, 0, -1e-4, -17)),
    "none": (None, Affine(10, 0, 1000, 0, -10, 2000)),
}
TURNS = {"north-up": Affine.identity(), "south-up": Affine.scale(1, -1), "rotated": Affine.rotation(30)}


@dataclass(frozen=True)
class Ground:
    """What was measured, and how its files say so."""

    values: np.ndarray  # [3, H, W] as stored
    shown: np.ndarray  # bool [H, W], by the mask
    nodata: tuple[float | None, ...]
    mask: str
    masked: str  # the band whose file alone has the mask in a folder, or "all"
    opacity: int  # of alpha where shown
    commands: bool  # whether it is cut into tiles and given to a backbone too
    scaled: bool
    crs: str | None
    place: Affine

    @property
    def one_nodata(self) -> bool:
        """Whether a single GeoTIFF can state it."""
        return len(set(self.nodata)) == 1

    def valid(self, bands: tuple[str, ...] = NAMES) -> np.ndarray:
        """Bool ``[H, W]``: the rule, written down once more."""
        missing = np.array(
            [~np.isfinite(plane) if plane.dtype.kind == "f" else np.zeros(plane.shape, bool) for plane in self.values]
        )
        for number, nodata in enumerate(self.nodata):
            if nodata is not None and not math.isnan(nodata):
                missing[number] |= self.values[number] == nodata
        if self.values.dtype == np.uint8:
            return self.shown & ~missing.all(axis=0)
        return self.shown & ~missing[[NAMES.index(name) for name in bands]].any(axis=0)


@st.composite
def grounds(draw: st.DrawFn) -> Ground:
    dtype = draw(st.sampled_from(sorted(NODATA)))
    kind = draw(st.sampled_from(["none", "value", "per band", "nan"]))
    if kind == "nan" and dtype != "float32":
        kind = "value"
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    values = rng.integers(LOW, HIGH + 1, (3, SIDE, SIDE)).astype(dtype)
    marks = NODATA[dtype]
    nodata: tuple[float | None, ...] = {
        "none": (None,) * 3,
        "value": (float(draw(st.sampled_from(marks))),) * 3,
        "per band": tuple(map(float, marks)),
        "nan": (math.nan,) * 3,
    }[kind]
    if kind != "none":
        for number, mark in enumerate(nodata):
            values[number, :3, :5] = mark  # of all bands
            values[number, rng.random((SIDE, SIDE)) < 0.1] = mark
    shown = rng.random((SIDE, SIDE)) < 0.9
    shown[8:, 9:] = False
    mask = draw(st.sampled_from(["none", "internal", "external", "alpha"]))
    if mask == "none":
        shown[:] = True
    crs, place = PLACES[draw(st.sampled_from(sorted(PLACES)))]
    turn = TURNS[draw(st.sampled_from(sorted(TURNS)))]
    return Ground(
        values=values,
        shown=shown,
        nodata=nodata,
        mask=mask,
        masked=draw(st.sampled_from(["all", *NAMES])),
        opacity=1 if dtype == "float32" else draw(st.sampled_from([1, int(np.iinfo(dtype).max)])),
        commands=draw(st.integers(0, 3)) == 3,
        scaled=draw(st.booleans()) and dtype != "uint8",
        crs=crs,
        place=place @ turn,
    )


def write(path: Path, ground: Ground, bands: tuple[int, ...]) -> Path:
    """A GeoTIFF of some bands, with the ground's mask."""
    mask = ground.mask if len(bands) > 1 or ground.masked in ("all", NAMES[bands[0]]) else "none"
    alpha = mask == "alpha"
    values = ground.values[list(bands)]
    colours = [ColorInterp.gray, ColorInterp.undefined, ColorInterp.undefined][: len(bands)]
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=mask == "internal"),
        rasterio.open(
            path,
            "w",
            driver="GTiff",
            count=len(bands) + alpha,
            height=SIDE,
            width=SIDE,
            dtype=values.dtype,
            crs=ground.crs,
            transform=ground.place,
            nodata=ground.nodata[bands[0]],
        ) as file,
    ):
        file.colorinterp = colours + [ColorInterp.alpha] * alpha
        file.write(values, list(range(1, len(bands) + 1)))
        if alpha:
            file.write((ground.shown * ground.opacity).astype(values.dtype), len(bands) + 1)
        elif mask != "none":
            file.write_mask(ground.shown)
        for number, band in enumerate(bands, 1):
            file.set_band_description(number, NAMES[band])
        if ground.scaled:
            file.scales, file.offsets = (2e-3,) * file.count, (0.01,) * file.count
    return path


def virtual(top: Path, ground: Ground) -> Path:
    """A VRT of single-band files, with nodata band by band."""
    kind = {"uint8": "Byte", "uint16": "UInt16", "int16": "Int16", "float32": "Float32"}[ground.values.dtype.name]
    rows = []
    for number, name in enumerate(NAMES, 1):
        nodata = ground.nodata[number - 1]
        stated = "" if nodata is None else f"<NoDataValue>{nodata!r}</NoDataValue>"
        scale = "<Offset>0.01</Offset><Scale>0.002</Scale>" if ground.scaled else ""
        rows.append(
            f'<VRTRasterBand dataType="{kind}" band="{number}"><Description>{name}</Description>{stated}{scale}'
            f'<SimpleSource><SourceFilename relativeToVRT="1">bands/{name}.tif</SourceFilename>'
            "<SourceBand>1</SourceBand></SimpleSource></VRTRasterBand>"
        )
    if ground.mask != "none":
        masked = "red" if ground.masked == "all" else ground.masked
        band = "2" if ground.mask == "alpha" else "mask,1"
        rows.append(
            '<MaskBand><VRTRasterBand dataType="Byte"><SimpleSource><SourceFilename relativeToVRT="1">'
            f"bands/{masked}.tif</SourceFilename><SourceBand>{band}</SourceBand></SimpleSource>"
            "</VRTRasterBand></MaskBand>"
        )
    place = ", ".join(repr(number) for number in ground.place.to_gdal())
    srs = f"<SRS>{ground.crs}</SRS>" if ground.crs else ""
    path = top / "s.vrt"
    path.write_text(
        f'<VRTDataset rasterXSize="{SIDE}" rasterYSize="{SIDE}">{srs}<GeoTransform>{place}</GeoTransform>'
        f"{''.join(rows)}</VRTDataset>"
    )
    return path


@contextmanager
def packaged(ground: Ground) -> Iterator[dict[str, Path]]:
    top = Path(tempfile.mkdtemp())
    try:
        (top / "bands").mkdir()
        for number, name in enumerate(NAMES):
            write(top / f"bands/{name}.tif", ground, (number,))
        found = {"folder": top / "bands", "virtual": virtual(top, ground)}
        if ground.one_nodata or all(math.isnan(value or 0) for value in ground.nodata):
            found["file"] = write(top / "s.tif", ground, (0, 1, 2))
        yield found
    finally:
        shutil.rmtree(top)


def whole(scene) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    with SceneReader(scene) as reader:
        window = Window(0, 0, scene.width, scene.height)
        dn, unit = reader.read_dn(window), reader.read(window)
    return np.where(dn.valid, dn.values, 0), unit.values, dn.valid


def check_scenes(ground: Ground, paths: dict[str, Path]) -> None:
    sensor = "8bit" if ground.values.dtype == np.uint8 else "reflectance"
    scenes = {name: open_scene(path, sensor=sensor).select(NAMES) for name, path in paths.items()}
    for name, scene in scenes.items():
        for bands in (NAMES, ("blue", "red"), ("green",)):
            values, _, valid = whole(scene.select(bands))
            np.testing.assert_array_equal(valid, ground.valid(bands), err_msg=f"{name} {bands}")
            truth = ground.values[[NAMES.index(band) for band in bands]]
            np.testing.assert_array_equal(values[:, valid], truth[:, valid], err_msg=f"{name} {bands}")
    for factor in (0.6, 1.7):
        seen = {name: whole(scene.at_gsd(scene.gsd_m * factor)) for name, scene in scenes.items()}
        first = seen["folder"]
        for name, found in seen.items():
            for one, other in zip(found, first, strict=True):
                np.testing.assert_array_equal(one, other, err_msg=f"{name} at {factor}")
        check_ground(ground, first[0][:, first[2]])


def check_ground(ground: Ground, values: np.ndarray) -> None:
    """Nothing but ground; in a picture one band may have its number where another has been measured."""
    if ground.values.dtype != np.uint8:
        assert ((values >= LOW) & (values <= HIGH)).all()


def check_map(ground: Ground, paths: dict[str, Path]) -> None:
    sources = {name: open_source(path) for name, path in paths.items()}
    order = {name: [source.channel_names.index(band) for band in NAMES] for name, source in sources.items()}
    east, north = ground.place @ (SIDE / 2, SIDE / 2)
    (lng,), (lat,) = transform(ground.crs, "EPSG:4326", [east], [north])
    lng = (lng + 180) % 360 - 180
    tiles = []
    for name, source in sources.items():
        at = MERCATOR.tile(lng, lat, source.max_zoom)
        found = read_tile(source, tuple(order[name]), at.z, at.x, at.y, smooth=True)
        tiles.append(None if found is None else (found.valid, np.where(found.valid, found.values, 0)))
        if found is not None:
            check_ground(ground, found.values[:, found.valid])
    for tile in tiles[1:]:
        assert (tile is None) == (tiles[0] is None)
        if tile is not None:
            np.testing.assert_array_equal(tile[0], tiles[0][0])
            np.testing.assert_array_equal(tile[1], tiles[0][1])
    valid = ground.valid()
    for row, column in ((0, 0), (1, 10), (5, 5), (7, 2), (9, 10), (11, 0)):
        east, north = ground.place @ (column + 0.5, row + 0.5)
        (lng,), (lat,) = transform(ground.crs, "EPSG:4326", [east], [north])
        for name, source in sources.items():
            found = {one.band: one.value for one in read_point(source, (lng + 180) % 360 - 180, lat)}
            expected = (
                dict(zip(NAMES, ground.values[:, row, column].tolist(), strict=True)) if valid[row, column] else {}
            )
            assert found == expected, f"{name} at {row}, {column}"


def check_tiles(ground: Ground, paths: dict[str, Path], top: Path) -> None:
    """What `geodino tile` cuts: four tiles of six pixels, natively and at a coarser GSD one of them."""
    sensor = "8bit" if ground.values.dtype == np.uint8 else "reflectance"
    gsd_m = open_scene(paths["folder"], sensor=sensor).gsd_m * 1.7
    for gsd in (None, gsd_m):
        cuts = []
        for name, path in paths.items():
            folder = top / f"{name}-{gsd}"
            cut([Request(str(path), sensor=sensor)], folder, CutSettings(size=6, min_valid=0, gsd_m=gsd))
            tiles = TileDataset(folder)
            records = [tiles.read(number) for number in range(len(tiles))]
            found = [(np.where(record.valid, record.values, 0), record.valid) for record in records]
            cuts.append({tuple(at): one for at, one in zip(tiles.column("transform").tolist(), found, strict=True)})
        for other in cuts[1:]:
            assert other.keys() == cuts[0].keys()
            for at, (values, valid) in other.items():
                np.testing.assert_array_equal(valid, cuts[0][at][1])
                np.testing.assert_array_equal(values, cuts[0][at][0])
        if gsd is None:
            truth = ground.valid()
            for row, column in np.ndindex(2, 2):
                place = ground.place @ Affine.translation(6 * column, 6 * row)
                values, valid = next(one for at, one in cuts[0].items() if np.allclose(at, place[:6], rtol=1e-12))
                window = np.s_[6 * row : 6 * row + 6, 6 * column : 6 * column + 6]
                np.testing.assert_array_equal(valid, truth[window])
                np.testing.assert_array_equal(values, np.where(truth[window], ground.values[:, *window], 0))


@cache
def tiny_backbone() -> Backbone:
    return untrained_backbone(
        "vit_tiny_patch16_dinov3_qkvb",
        device="cpu",
        precision="fp32",
        patch_size=4,
        depth=1,
        embed_dim=24,
        num_heads=2,
    )


def check_features(ground: Ground, paths: dict[str, Path], top: Path) -> None:
    """The cube of `geodino features`: three by three tokens, valid where half of their pixels are."""
    sensor = "8bit" if ground.values.dtype == np.uint8 else "reflectance"
    settings, cubes = DenseSettings(window=8, halo=1, batch_size=2), []
    for name, path in paths.items():
        made = geodino.features(
            open_scene(path, sensor=sensor), top / f"{name}.zarr", backbone=tiny_backbone(), settings=settings
        )
        cubes.append(made.values)
    share = ground.valid().reshape(3, 4, 3, 4).mean(axis=(1, 3))
    for cube in cubes:
        np.testing.assert_array_equal(np.isfinite(cube).all(axis=0), share >= 0.5)
        np.testing.assert_array_equal(cube, cubes[0])


def check(ground: Ground) -> None:
    with packaged(ground) as paths:
        check_scenes(ground, paths)
        if ground.commands:
            check_tiles(ground, paths, paths["folder"].parent)
            check_features(ground, paths, paths["folder"].parent)
        if ground.crs is not None:
            check_map(ground, paths)


@settings(max_examples=15, suppress_health_check=[HealthCheck.too_slow])
@given(grounds())
def test_the_same_ground_reads_the_same(ground: Ground) -> None:
    check(ground)


@pytest.mark.slow
@settings(max_examples=400, suppress_health_check=[HealthCheck.too_slow])
@given(grounds())
def test_the_same_ground_reads_the_same_in_many_cases(ground: Ground) -> None:
    check(ground)
