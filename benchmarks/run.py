"""Run the benchmarks, each in a process of its own: `python benchmarks/run.py [NAME...]`.

Each script prints ratios of two things that it measured in the same run, with the setting they were measured in;
a lone time says more about the machine than about the code.
"""

import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent


def main(names: list[str]) -> int:
    """Run the named benchmarks, or all; the status is the number that failed."""
    scripts = {path.stem: path for path in sorted(FOLDER.glob("*.py")) if path.stem != "run" and path.stem[0] != "_"}
    if unknown := [name for name in names if name not in scripts]:
        print(f"no benchmark {', '.join(unknown)}; there are: {', '.join(scripts)}", file=sys.stderr)
        return 2
    failed = []
    for name in names or scripts:
        print(f"== {name}", flush=True)
        if subprocess.call([sys.executable, str(scripts[name])]):
            failed.append(name)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return len(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
