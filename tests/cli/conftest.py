"""Fixtures of the command line's tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_process import HubProcess, running_hub


@pytest.fixture(scope="session")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    """One hub for the commands that leave it as it is; each test takes a tenant of its own."""
    with running_hub(tmp_path_factory.mktemp("hub")) as started:
        yield started


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A directory to work in, without any setting of a hub."""

    for name in list(os.environ):
        if name.startswith(("HUB_", "HOTEL_BOOKINGS")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path
