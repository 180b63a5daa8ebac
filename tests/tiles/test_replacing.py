"""A tile set goes only when its successor is whole, and what is not the set's stays."""

import errno

import pytest

from tiles.archive.dataset import TileDataset
from tiles.cutting import work
from tiles.cutting.cut import cut
from tiles.cutting.plan import CutSettings, Request
from tiles.errors import InputError, OutputError
from tiles.writing.outputs import locked_folder


def requests(*paths) -> list[Request]:
    return [Request(str(path)) for path in paths]


def whole(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_set_stays_where_its_successor_cannot_be_cut(write_raster, ramp, tmp_path):
    path = write_raster("a.tif", ramp(3, 32, 32))
    cut(requests(path), tmp_path / "T", CutSettings(size=16))
    before = whole(tmp_path)
    with pytest.raises(InputError, match=r"typo\.tif"):
        cut(requests(tmp_path / "typo.tif"), tmp_path / "T", CutSettings(size=16), overwrite=True)
    with pytest.raises(InputError, match="passed the filters"):
        cut(requests(path), tmp_path / "T", CutSettings(size=16, min_std=0.9), overwrite=True)
    assert whole(tmp_path) == before
    with locked_folder(tmp_path / "T"), pytest.raises(OutputError, match="Another process is writing"):
        cut(requests(path), tmp_path / "T", CutSettings(size=16), overwrite=True)
    assert whole(tmp_path) == before


def test_what_is_not_the_sets_outlives_it(write_raster, ramp, tmp_path):
    path = write_raster("a.tif", ramp(3, 32, 32))
    cut(requests(path), tmp_path / "T", CutSettings(size=16))
    (tmp_path / "T" / "notes.txt").write_text("mine")
    (tmp_path / "T" / "statistics.json").write_text("of the old set")
    cut(requests(path), tmp_path / "T", CutSettings(size=8), overwrite=True)
    assert TileDataset(tmp_path / "T").size == 8
    assert (tmp_path / "T" / "notes.txt").read_text() == "mine"
    assert not (tmp_path / "T" / "statistics.json").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["T", "a.tif"]


def test_an_interrupted_replacement_goes_on(write_raster, ramp, tmp_path, monkeypatch):
    """Where it is of the same sources and settings; another one begins anew, and the old set is there all the time."""
    paths = [write_raster(f"{i}.tif", ramp(3, 64, 64) // (i + 1)) for i in range(2)]
    monkeypatch.setattr("tiles.cutting.plan._SMALLEST_SHARD", 4096)
    cut(requests(*paths), tmp_path / "whole", CutSettings(size=16))
    cut(requests(paths[0]), tmp_path / "T", CutSettings(size=16))
    before, expected = whole(tmp_path / "T"), whole(tmp_path / "whole")
    calls, original = [], work.cut_unit

    def third_fails(folder, settings, unit, *rest):
        calls.append(unit.number)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(folder, settings, unit, *rest)

    monkeypatch.setattr(work, "cut_unit", third_fails)
    with pytest.raises(OSError):
        cut(requests(*paths), tmp_path / "T", CutSettings(size=16), overwrite=True)
    assert whole(tmp_path / "T") == before
    done, calls[:] = len(list((tmp_path / "T.part" / "parts").glob("*.parquet"))), [0] * 3
    assert done > 0
    cut(requests(*paths), tmp_path / "T", CutSettings(size=16), overwrite=True)
    assert whole(tmp_path / "T") == expected
    assert len(calls) - 3 == len(list((tmp_path / "T" / "parts").glob("*.parquet"))) - done
