"""Fixtures of the desk's tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from desk_rig import DeskRig

from consumers.offline.database import LocalDatabase


@pytest.fixture
def rig(tmp_path: Path) -> DeskRig:
    return DeskRig(tmp_path / "desk.db")


@pytest.fixture
def local(rig: DeskRig) -> Iterator[LocalDatabase]:
    """A fresh local database; it is closed in the end."""
    database = rig.open()
    yield database
    database.close()
