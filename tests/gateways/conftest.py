"""A whole hub in this process, on a free port, over its embedded server."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from house import House

from hub.app import Hub
from hub.settings import load
from hub.store.database import SQLITE_FILE

START_S = 60.0


def _put(empty_store: Path, data_dir: Path) -> Path:
    """The data directory, with a store in it that need not be migrated first."""
    data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not (data_dir / SQLITE_FILE).exists():
        shutil.copyfile(empty_store, data_dir / SQLITE_FILE)
    return data_dir


@pytest.fixture
def start(tmp_path: Path, empty_store: Path) -> Callable[..., Any]:
    """Start a hub with these settings; `async with`."""

    @asynccontextmanager
    async def begin(**settings: Any) -> AsyncIterator[House]:
        data_dir = _put(empty_store, settings.pop("data_dir", tmp_path / "hub"))
        async with Hub(load(data_dir=data_dir, port=0, **settings)) as hub:
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


@pytest.fixture(scope="module")
def standing_hub(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Iterator[Hub]:
    """A hub that goes on from test to test, in a thread: the tests' own loops end with each of them."""
    loop = asyncio.new_event_loop()
    thread = Thread(target=loop.run_forever, name="standing hub")
    thread.start()

    def there(what: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(what, loop).result(START_S)

    try:
        hub = Hub(load(data_dir=_put(empty_store, tmp_path_factory.mktemp("standing")), port=0))
        there(hub.__aenter__())
        try:
            yield hub
        finally:
            there(hub.__aexit__(None, None, None))
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest.fixture
async def standing(standing_hub: Hub) -> AsyncIterator[House]:
    """A hub with default settings that several tests share: for asking from outside what leaves it as it is."""
    house = House(standing_hub)
    yield house
    await house.http.aclose()
