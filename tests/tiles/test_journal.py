"""The journal: survives a kill at any byte, and never mixes two jobs."""

import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiles.errors import InputError
from tiles.writing.journal import Journal, RowParts


def test_finished_items_are_found_again(tmp_path):
    journal = Journal(tmp_path / "j.jsonl", {"input": "a", "window": 3})
    journal.mark("one", seconds=2)
    journal.mark("two")
    assert Journal(tmp_path / "j.jsonl", {"window": 3, "input": "a"}).done == {"one": {"seconds": 2}, "two": {}}


@given(st.integers(0, 200))
def test_a_kill_at_any_byte_loses_at_most_the_item_being_written(tmp_path_factory, cut):
    path = tmp_path_factory.mktemp("j") / "j.jsonl"
    journal = Journal(path, {"input": "a"})
    for item in ("one", "two", "three"):
        journal.mark(item)
    whole = path.read_bytes()
    path.write_bytes(whole[:cut])
    again = Journal(path, {"input": "a"})
    assert list(again.done) == ["one", "two", "three"][: len(again.done)]
    complete = [line for line in whole[:cut].split(b"\n")[1:-1] if line]
    assert len(again.done) >= len(complete)
    again.mark("four")
    assert list(Journal(path, {"input": "a"}).done)[-1] == "four"


def test_another_job_is_refused_by_what_differs(tmp_path):
    Journal(tmp_path / "j.jsonl", {"input": "a", "window": 3}).mark("one")
    with pytest.raises(InputError, match=r"window \(was 3, is 4\)") as error:
        Journal(tmp_path / "j.jsonl", {"input": "a", "window": 4})
    assert "input" not in str(error.value)
    assert Journal(tmp_path / "j.jsonl", {"input": "a", "window": 3}).done == {"one": {}}


def test_restart_forgets_the_other_job(tmp_path):
    Journal(tmp_path / "j.jsonl", {"window": 3}).mark("one")
    again = Journal(tmp_path / "j.jsonl", {"window": 4}, restart=True)
    assert again.restarted and not again.done
    # The same job is continued, restart or not.
    again.mark("one")
    assert Journal(tmp_path / "j.jsonl", {"window": 4}, restart=True).done


def test_missing_rows_are_joined_and_pieces_read_back(tmp_path):
    parts = RowParts(tmp_path / "p", {"a": 1}, rows=100, step=16)
    assert parts.missing() == [range(0, 100)]
    array = np.arange(48, dtype=np.float32).reshape(1, 16, 3)
    parts.save(range(32, 48), scores=array)
    parts.save(range(96, 100), scores=array[:, :4])
    again = RowParts(tmp_path / "p", {"a": 1}, rows=100, step=16)
    assert again.missing() == [range(0, 32), range(48, 96)]
    np.testing.assert_array_equal(again.read("scores", range(32, 48)), array)


def test_pieces_of_another_job_are_removed_on_restart(tmp_path):
    RowParts(tmp_path / "p", {"a": 1}, rows=20, step=16).save(range(0, 16), x=np.zeros(3))
    (tmp_path / "p" / "x-000000016.npy.77.part").write_bytes(b"torn")
    RowParts(tmp_path / "p", {"a": 2}, rows=20, step=16, restart=True)
    assert os.listdir(tmp_path / "p") == ["journal.jsonl"]
