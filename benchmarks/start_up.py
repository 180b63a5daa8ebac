"""What a small picture costs from the prompt back to it, beside the import of torch, which each command needs.

    python benchmarks/start_up.py [--side 256] [--rounds 5]

`geodino features`, `geodino segment --clusters 4` and `geodino change` of made dates, RGB uint8, and `import torch`
alone, each in a process of its own and in turn; one round before them, which is not counted, writes bytecode and fills
the disk's cache. Aims: 2.1, 2.4 and 2.4.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from change_speed import write_dates  # the neighbour, when run as a script

AIMS = {"features": 2.1, "segment --clusters 4": 2.4, "change": 2.4}


def seconds(command: list[str]) -> float:
    """Wall time of one process, which must succeed."""
    # As installed: where a machine writes no bytecode, `make` has.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    started = time.perf_counter()
    done = subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True)
    took = time.perf_counter() - started
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed: {done.stderr.strip()}")
    return took


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        before, after = (str(path) for path in write_dates(folder, options.side))
        outputs = {job: str(folder / name) for job, name in zip(AIMS, ("f.zarr", "s.tif", "c.tif"), strict=True)}
        scenes = {job: [before, after] if job == "change" else [before] for job in AIMS}
        commands = {"import torch": ["-c", "import torch"]} | {
            job: ["-m", "geodino", *job.split(), *scenes[job], "-o", outputs[job], "--overwrite"] for job in AIMS
        }
        times: dict[str, list[float]] = {job: [] for job in commands}
        for turn in range(options.rounds + 1):
            for job, command in commands.items():
                took = seconds(command)
                if turn:
                    times[job].append(took)
    torch = statistics.median(times["import torch"])
    for job, aim in AIMS.items():
        ratios = [took / base for took, base in zip(times[job], times["import torch"], strict=True)]
        print(
            f"geodino {job}: {statistics.median(times[job]) / torch:.2f} × import torch, aim {aim} ("
            f"{', '.join(f'{ratio:.2f}' for ratio in ratios)}; {options.side} × {options.side} px, medians of "
            f"{options.rounds}: {statistics.median(times[job]):.2f} and {torch:.2f} s)"
        )


if __name__ == "__main__":
    main()
