"""Uploads: judged by what they are, kept under a harmless name."""

import os
import pickle
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from app_testing import write_raster
from hypothesis import given
from hypothesis import strategies as st

from app.store.uploads import safe_name, store
from tiles.errors import InputError


@given(st.text(min_size=1, max_size=60))
def test_a_safe_name_never_leads_elsewhere(name: str) -> None:
    try:
        safe = safe_name(name)
    except InputError:
        return
    assert os.path.basename(safe) == safe
    assert not safe.startswith(".")


def test_an_upload_is_kept_and_never_replaces_another(tmp_path: Path) -> None:
    source = write_raster(tmp_path / "a.tif", np.ones((1, 8, 8), np.uint8))
    first = store("../../a b.tif", BytesIO(source.read_bytes()), tmp_path / "up")
    second = store("a b.tif", BytesIO(source.read_bytes()), tmp_path / "up")
    assert (first.name, second.name) == ("a_b.tif", "a_b_2.tif")
    assert first.parent == tmp_path / "up"
    assert first.read_bytes() == source.read_bytes()


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("x.exe", b"MZ", "kind"),
        ("x.pkl", pickle.dumps([1]), "kind"),
        ("x.tif", pickle.dumps([1]), "no tif"),
        ("x.tif", b"<VRTDataset/>", "no tif"),
        ("x.png", b"II*\0", "no png"),
        ("x.zip", b"PK\x03\x04", "kind"),
        ("x.tif", b"PK\x03\x04", "no tif"),
    ],
)
def test_an_upload_that_is_not_what_it_says_is_refused(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        store(name, BytesIO(content), tmp_path)
    assert list(tmp_path.iterdir()) == []
