"""A whole hub in this process, on a free port, over its embedded server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from house import House

from hub.app import Hub
from hub.settings import load


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., Any]:
    """Start a hub with these settings; `async with`."""

    @asynccontextmanager
    async def begin(**settings: Any) -> AsyncIterator[House]:
        async with Hub(load(data_dir=settings.pop("data_dir", tmp_path / "hub"), port=0, **settings)) as hub:
            house = House(hub)
            try:
                yield house
            finally:
                await house.http.aclose()

    return begin


@pytest.fixture
async def house(start: Callable[..., Any]) -> AsyncIterator[House]:
    """A hub with default settings."""
    async with start() as found:
        yield found
