"""Fixtures that every package's tests share."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

REPOSITORY = Path(__file__).resolve().parent.parent
# Where the real imagery lies: beside the checkout unless GEODINO_DATA says otherwise (see CONTRIBUTING.md).
REAL_DATA = Path(os.environ.get("GEODINO_DATA", REPOSITORY.parent / "shared" / "data"))

# An example may take long where other tests keep the processors busy: no test here is about time.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of the real imagery; the test skips, saying so, where it is absent."""
    if not REAL_DATA.is_dir():
        pytest.skip(f"the real imagery is absent: {REAL_DATA} is no folder (set GEODINO_DATA)")
    return REAL_DATA
