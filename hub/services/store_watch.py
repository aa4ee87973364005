"""Looks whether the store answers, and opens one that was away when the hub started."""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from hub.services.ending import end
from hub.store.database import StoreUnavailable, StoreVersionError
from hub.store.store import Store

EVERY_S: Final = 5.0

log = structlog.get_logger("hub.store")


class StoreWatch:
    """One in every process, whatever its roles: `/readyz` says what it found. Its owner awaits `stop`."""

    def __init__(self, store: Store, *, every_s: float = EVERY_S) -> None:
        self._store = store
        self._every_s = every_s
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin."""
        self._task = asyncio.create_task(self._run(), name="store-watch")

    async def stop(self) -> None:
        """End."""
        await end(self._task)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._every_s)
            try:
                await self._store.open()
                await self._store.database.answers()
                self._store.works()
            except StoreUnavailable as error:
                self._store.failed(error)
            except StoreVersionError as error:
                log.error("store_not_usable", error=str(error))
            except Exception:  # the watch goes on while the hub runs
                log.exception("store_watch_failed")
