"""Run the tests as `make test` does: in parallel, a file at a time in each worker."""

import argparse
import os
import signal
import subprocess
import sys


def main() -> int:
    """Run pytest and give back its exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--all", action="store_true", help="also the tests marked slow")
    selection = "" if parser.parse_args().all else "not slow"
    workers = max(1, min(8, os.cpu_count() or 1))
    # One thread a worker: two workers with all cores each fight for them.
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-n", str(workers), "--dist", "loadfile", "--durations", "15"]
    # In the order of folders: the browser's files, which take longest, come first instead of last.
    command += ["--no-loadscope-reorder"]
    # A worker that dies ends the run: with another in its place, xdist may wait for ever.
    command += ["--max-worker-restart", "0"]
    # Some tests press Ctrl-C; a script that starts this in the background has it ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    return subprocess.call([*command, "-m", selection], env=environment)


if __name__ == "__main__":
    sys.exit(main())
