"""How a process holds threads and memory."""

import ctypes
import os
import subprocess
import sys

import pytest

CODE = """
import sys
from geodino.process import settle_process
settle_process()
assert "torch" not in sys.modules
import ctypes, os, torch
class Counts(ctypes.Structure):  # of malloc.h
    names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in names.split()]
library = ctypes.CDLL(None)
library.mallinfo2.restype = Counts
before = library.mallinfo2().hblks
large = torch.ones(16 * 2**20)
print(os.environ["OMP_WAIT_POLICY"], library.mallinfo2().hblks - before)
"""


@pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="the memory of glibc 2.33 or newer"
)
@pytest.mark.parametrize("policy", [None, "ACTIVE"])
def test_threads_sleep_unless_told_otherwise_and_large_blocks_come_from_memory_that_stays(policy: str | None) -> None:
    given = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    given |= {} if policy is None else {"OMP_WAIT_POLICY": policy}
    done = subprocess.run([sys.executable, "-c", CODE], env=given, capture_output=True, text=True, check=True)
    found, mapped = done.stdout.split()
    assert found == (policy or "PASSIVE")
    assert int(mapped) == 0  # blocks that freeing would give back to the system


def test_every_command_lets_its_threads_sleep() -> None:
    code = """
import os, sys
from geodino.cli import main
sys.argv = ["geodino", "--version"]
try:
    main()
except SystemExit:
    print(os.environ["OMP_WAIT_POLICY"], "torch" in sys.modules)
"""
    given = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    done = subprocess.run([sys.executable, "-c", code], env=given, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "PASSIVE False"
