"""kNN over a million training features: memory beside the features themselves, and time over the bare matrix product.

The product alone (queries × training features, nothing kept) is what no exact search can avoid. Prints the ratio of the
times, and the memory that the search added to that of the features, over what all similarities at once would take.
"""

import argparse
import os
import resource
import sys
import threading
import time

import _share_cores  # noqa: F401 - before torch
import torch

from geodino.evaluation.knn import QUERY_ROWS, TRAIN_ROWS, neighbours


def resident() -> int:
    """Bytes of this process in memory now (Linux), or at its largest where /proc is absent."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


class Peak(threading.Thread):
    """Watches the largest resident size of a stretch of work."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.largest, self.done = resident(), threading.Event()

    def run(self) -> None:
        """Look fifty times a second until done."""
        while not self.done.wait(0.02):
            self.largest = max(self.largest, resident())


def main() -> None:
    """Measure on random features."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--train", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--k", type=int, default=20)
    options = parser.parse_args()
    generator = torch.Generator().manual_seed(0)
    train = torch.randn(options.train, options.width, generator=generator)
    queries = torch.randn(options.queries, options.width, generator=generator)
    neighbours(train[:TRAIN_ROWS], queries[:QUERY_ROWS], options.k)  # warm

    start = time.perf_counter()
    for first in range(0, options.train, TRAIN_ROWS):
        block = train[first : first + TRAIN_ROWS].T
        for row in range(0, options.queries, QUERY_ROWS):
            queries[row : row + QUERY_ROWS] @ block
    product = time.perf_counter() - start

    before, watch = resident(), Peak()
    watch.start()
    start = time.perf_counter()
    neighbours(train, queries, options.k)
    search = time.perf_counter() - start
    watch.done.set()
    watch.join()
    added, dense = watch.largest - before, 4 * options.train * options.queries
    print(
        f"{options.train:,} × {options.width} features, {options.queries:,} queries, k = {options.k}, "
        f"{torch.get_num_threads()} threads: search / bare product = {search / product:.2f} in time; memory added "
        f"{added / 2**20:.0f} MiB beside {4 * options.train * options.width / 2**20:.0f} MiB of features, "
        f"{added / dense:.4f} of all similarities at once"
    )


if __name__ == "__main__":
    main()
