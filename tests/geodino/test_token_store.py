"""The store of tokens: exact, resumed where it stopped, and refused in one sentence where a disk has no room."""

import errno
import os
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geodino.dense.store import TokenStore
from tiles.errors import InputError
from tiles.writing.outputs import DiskFullError

SHAPE = {"rows": 10, "columns": 4, "channels": 3}


def rows_of(start, stop, dtype=np.float32):
    values = np.arange(start, stop, dtype=dtype)[None, :, None] + np.zeros((3, 1, 4), dtype)
    return values, np.arange(start, stop)[:, None] % 2 == np.zeros(4, int)


@given(cuts=st.lists(st.integers(1, 9), max_size=4), reopen=st.booleans())
def test_what_is_written_is_read_back_however_it_is_cut(tmp_path_factory, cuts, reopen):
    folder = tmp_path_factory.mktemp("store") / "tokens"
    store = TokenStore.open(folder, {"a": 1}, **SHAPE)
    edges = [0, *sorted(set(cuts)), 10]
    for start, stop in pairwise(edges):
        store.write(start, *rows_of(start, stop))
        if reopen:
            store = TokenStore.open(folder, {"a": 1}, **SHAPE)
            assert store.done == stop
    values, valid = store.read(2, 7)
    np.testing.assert_array_equal(values, rows_of(2, 7)[0])
    np.testing.assert_array_equal(valid, rows_of(2, 7)[1])
    np.testing.assert_array_equal(store.at(np.array([1, 8]), np.array([3, 0])), [[1, 1, 1], [8, 8, 8]])
    assert (folder / "values.raw").stat().st_size == 10 * 4 * 3 * np.dtype(np.float16).itemsize
    store.remove()
    assert not folder.exists()


def test_another_identity_is_refused_unless_it_starts_anew(tmp_path):
    TokenStore.open(tmp_path / "t", {"scene": 1}, **SHAPE).write(0, *rows_of(0, 5))
    with pytest.raises(InputError, match="scene"):
        TokenStore.open(tmp_path / "t", {"scene": 2}, **SHAPE)
    assert TokenStore.open(tmp_path / "t", {"scene": 2}, **SHAPE, restart=True).done == 0


def test_rows_that_do_not_follow_are_an_error(tmp_path):
    with pytest.raises(ValueError, match="does not follow"):
        TokenStore.open(tmp_path / "t", {}, **SHAPE).write(3, *rows_of(3, 5))


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="this system cannot reserve room on a disk")
def test_a_disk_without_room_refuses_before_any_work(tmp_path, monkeypatch):
    def full(descriptor, start, size):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(DiskFullError, match="no space left"):
        TokenStore.open(tmp_path / "t", {}, **SHAPE)


def test_a_disk_that_fills_up_on_the_way_loses_no_row(tmp_path, monkeypatch):
    store = TokenStore.open(tmp_path / "t", {}, **SHAPE)
    store.write(0, *rows_of(0, 4))

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(DiskFullError, match="no space left"):
            store.write(4, *rows_of(4, 10))
    store = TokenStore.open(tmp_path / "t", {}, **SHAPE)
    assert store.done == 4
    store.write(4, *rows_of(4, 10))
    np.testing.assert_array_equal(store.read(0, 10)[0], rows_of(0, 10)[0])
