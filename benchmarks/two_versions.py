"""This checkout's commands beside another's, in turn: what a change of the code costs or saves.

    python benchmarks/two_versions.py OTHER_CHECKOUT [--data FOLDER] [--rounds 3] [NAME...]

`features`, `segment`, `change` and `tile` of real scenes, each a process of its own as a user would start it, with the
order of the two turned round every time; one round before them is not counted. Needs the real imagery named in
CONTRIBUTING.md, and both checkouts built for the Python that runs this.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent


def jobs(data: Path) -> dict[str, list[str]]:
    """Commands by name, without ``-o``."""
    sentinel, landsat = (str(data / "scenes" / name) for name in ("sentinel2_l1c_rcr", "landsat_pucallpa_1985_2020"))
    naip = [str(path) for path in sorted((data / "scenes" / "naip_2009_2020").glob("*.tif"))]
    return {
        "features": ["features", sentinel, "-o", "f.zarr"],
        "segment": ["segment", sentinel, "--clusters", "8", "-o", "s.tif"],
        "change": ["change", naip[0], naip[3], "-o", "c.tif"],
        "tile": ["tile", sentinel, naip[0], landsat, "--size", "64", "--bands", "red,green,blue", "-o", "T"],
    }


def seconds(checkout: Path, arguments: list[str]) -> float:
    """Wall time of a command of a checkout, in a fresh folder."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    folder = Path(tempfile.mkdtemp())
    try:
        started = time.perf_counter()
        command = [sys.executable, "-m", "geodino", *arguments]
        done = subprocess.run(
            command, cwd=folder, env=environment | {"PYTHONPATH": str(checkout)}, capture_output=True, text=True
        )
        took = time.perf_counter() - started
    finally:
        shutil.rmtree(folder)
    if done.returncode:
        raise SystemExit(f"{checkout}: geodino {' '.join(arguments)} failed: {done.stderr.strip()}")
    return took


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path, nargs="?")
    parser.add_argument("names", nargs="*")
    default = os.environ.get("GEODINO_DATA", HERE.parent / "shared" / "data")
    parser.add_argument("--data", type=Path, default=Path(default))
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if options.other is None:
        print("give another checkout to compare with")
        return
    for name, arguments in jobs(options.data).items():
        if options.names and name not in options.names:
            continue
        times: dict[Path, list[float]] = {HERE: [], options.other.resolve(): []}
        for turn in range(options.rounds + 1):
            for checkout in sorted(times, reverse=bool(turn % 2)):
                took = seconds(checkout, arguments)
                if turn:
                    times[checkout].append(took)
        here, other = (statistics.median(found) for found in times.values())
        print(
            f"{name}: {here:.2f} s here, {other:.2f} s there, {here / other:.3f} (medians of {options.rounds})",
            flush=True,
        )


if __name__ == "__main__":
    main()
