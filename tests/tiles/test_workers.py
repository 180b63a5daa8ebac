"""Sharing work out among processes: everything once, errors where they belong, no waiting for late starters."""

import os
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest

from tiles.errors import InputError
from tiles.workers import cores, share_out, use_cores


def squared(number: int) -> tuple[int, int]:
    return number**2, os.getpid()


def failing(number: int) -> tuple[int, int]:
    if number == 7:
        raise InputError("seven.tif cannot be read.")
    return squared(number)


def fail(sign: Path, number: int) -> tuple[int, int]:
    sign.touch()
    return failing(7)


def unsendable(number: int) -> object:
    return threading.Lock()


def slowly(number: int) -> tuple[int, int]:
    time.sleep(0.1)
    return squared(number)


@pytest.mark.parametrize("helpers", [0, 1, 3])
def test_every_work_is_done_once(helpers):
    results = {}
    joined = threading.Event()

    def here(number):
        """Wait until a helper has joined, where there is one."""
        assert not helpers or joined.wait(120)
        return squared(number)

    def done(number, result):
        results[number] = result
        if result[1] != os.getpid():
            joined.set()

    share_out(range(60), squared, here, done, helpers)
    assert {number: result for number, (result, _) in results.items()} == {i: i**2 for i in range(60)}
    processes = {process for _, process in results.values()}
    assert os.getpid() in processes and (len(processes) > 1) == (helpers > 0)


def test_threads_take_their_share_and_pass_errors_on():
    names = []

    def here(number):
        names.append(threading.current_thread().name)
        time.sleep(0.002)
        return failing(number)

    results = {}
    with pytest.raises(InputError, match=r"seven\.tif"):
        share_out(range(1000), failing, here, results.__setitem__, 0, 2)
    assert len(results) < 1000
    results.clear()
    share_out(range(8, 60), failing, here, results.__setitem__, 0, 2)
    assert sorted(results) == list(range(8, 60)) and "own" in names and threading.current_thread().name in names


def test_small_work_does_not_wait_for_helpers_to_start():
    results = {}
    share_out(range(3), squared, squared, results.__setitem__, 2)
    assert [process for _, process in results.values()] == [os.getpid()] * 3


def test_an_error_is_raised_where_the_work_came_from(tmp_path):
    results = {}

    def here(number):
        """Wait until a helper has met its error."""
        while not (tmp_path / "failed").exists():
            time.sleep(0.01)
        return slowly(number)

    with pytest.raises(InputError, match=r"seven\.tif") as caught:
        share_out(range(1000), partial(fail, tmp_path / "failed"), here, results.__setitem__, 1)
    assert "in fail" in str(caught.value.__cause__)
    assert 0 < len(results) < 999
    with pytest.raises(InputError, match=r"seven\.tif"):
        share_out(range(1000), squared, failing, results.__setitem__, 1)


def test_what_cannot_be_sent_back_is_an_error():
    with pytest.raises(Exception, match="pickle"):
        share_out(range(1000), unsendable, slowly, lambda *_: None, 1)


def test_a_program_without_a_guard_may_use_helpers(tmp_path):
    """Helpers do not run the caller's program, as multiprocessing's would."""
    script = tmp_path / "script.py"
    script.write_text(
        "import math, time\nfrom tiles.workers import share_out\nprint('once')\n"
        "def here(x):\n    time.sleep(0.1)\n    return math.sqrt(x)\n"
        "found = {}\nshare_out(range(40), math.sqrt, here, found.__setitem__, 2)\nprint(sum(found.values()))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, check=True)
    once, total = done.stdout.split()
    assert once == "once" and float(total) == pytest.approx(sum(i**0.5 for i in range(40)))


def test_a_share_of_the_machine_is_all_that_is_counted(monkeypatch):
    monkeypatch.setattr("tiles.workers._most_cores", None)
    all_of_them = cores()
    use_cores(all_of_them + 1)
    assert cores() == all_of_them
    use_cores(1)
    assert cores() == 1
