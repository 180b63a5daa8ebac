"""How a process holds threads and memory; imports nothing that computes."""

import atexit
import ctypes
import gc
import os
import sys

# Of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def share_cores() -> None:
    """Let threads sleep while they wait; call it before PyTorch is imported.

    Threads that spin while others use their core cost more than the wake-up they save: on two cores that training
    shared, a training step and a pass of the packaged backbone took a quarter of the time without spinning; on idle
    cores the pass took the same. ``OMP_WAIT_POLICY`` is read once, when the maths library loads; one that is set
    already stays.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def collect_rarely() -> None:
    """Let the search for garbage in circles wait; call it first in a command.

    Importing a scientific stack makes a million objects that stay. Python searches them for garbage again and again
    while they come, and twice more when the process ends: together two fifths of ``import torch``.
    """
    gc.set_threshold(50_000, 20, 50)
    atexit.register(gc.freeze)


def settle_process() -> None:
    """Set up a training process; call it before PyTorch is imported.

    - Threads sleep while they wait: :func:`share_cores`.
    - Freed memory stays with the process. glibc gives large blocks back at once and asks for the same again in the
      next operation, and the kernel clears each page anew: a fifth of a step with 65,536 prototypes.
    """
    share_cores()
    if sys.platform != "linux":
        return
    library = ctypes.CDLL(None)
    if hasattr(library, "gnu_get_libc_version"):
        for parameter in (_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD):
            library.mallopt(parameter, 2**31 - 1)
