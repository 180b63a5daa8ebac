"""torchgeo data sets by name: chips and rasters."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tiles.archive.dataset import TileDataset
from tiles.cutting.cut import cut
from tiles.cutting.plan import CutSettings, Request
from tiles.errors import InputError
from tiles.scenes.expand import expand

pytest.importorskip("torchgeo")


def test_chips_with_their_classes(tmp_path):
    generator = np.random.default_rng(0)
    for label in ("forest", "river"):
        (tmp_path / "chips" / label).mkdir(parents=True)
        for i in range(2):
            Image.fromarray(generator.integers(0, 256, (32, 32, 3), np.uint8)).save(
                tmp_path / "chips" / label / f"{i}.png"
            )
    source = f"torchgeo:NonGeoClassificationDataset:{tmp_path / 'chips'}"
    assert [found.source for found in expand(source)] == [source]
    report = cut([Request(source)], tmp_path / "T", CutSettings(size=32, gsd_m=2.0))
    assert report.tiles == 4 and any("divided by 255" in note for note in report.notes[0][1])
    tiles = TileDataset(tmp_path / "T")
    assert tiles.column("label").tolist() == ["forest", "forest", "river", "river"]
    expected = np.asarray(Image.open(tmp_path / "chips" / "river" / "1.png")).transpose(2, 0, 1)
    np.testing.assert_array_equal(tiles.read(3).values, expected)
    with pytest.raises(InputError, match="no band called nir"):
        cut([Request(source)], tmp_path / "U", CutSettings(size=32, gsd_m=2.0, bands=("nir",)))


def test_rasters_stand_for_their_files(write_raster, ramp, tmp_path):
    for name in ("a", "b"):
        write_raster(f"rasters/{name}.tif", ramp(3, 32, 32), photometric="RGB")
    found = [source.source for source in expand(f"torchgeo:RasterDataset:{tmp_path / 'rasters'}")]
    assert found == [str(tmp_path / "rasters" / "a.tif"), str(tmp_path / "rasters" / "b.tif")]


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("torchgeo:EuroSAT", "write torchgeo:NAME:FOLDER"),
        ("torchgeo:EuroSAT:/nosuch", "does not exist"),
        ("torchgeo:NoSuchSet:{folder}", "has no data set called NoSuchSet"),
        ("torchgeo:EuroSAT:{folder}", "cannot be opened"),
    ],
)
def test_what_cannot_be_opened_is_refused(tmp_path, source, sentence):
    with pytest.raises(InputError, match=sentence):
        list(expand(source.format(folder=tmp_path)))


def test_torch_is_not_imported_before_it_is_needed():
    code = "import sys, tiles.cutting.cut, tiles.scenes.expand; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
