"""Writes down attempts at webhooks before they are made, and how they ended, many in one transaction.

While one transaction is under way the next one gathers; nobody waits for more than two. What an attempt came to is kept
until the store takes it, for the endpoint will not be asked again.
"""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from hub.core.webhooks import Key
from hub.store.database import StoreUnavailable
from hub.store.leases import Fence
from hub.store.webhook_queue import Noted, Page, WebhookQueue

RETRY_S: Final = 0.5

log = structlog.get_logger("hub.webhooks")


class Journal:
    """One hub's, as long as it holds the lease. Its owner runs `run`."""

    def __init__(self, queue: WebhookQueue, fence: Fence) -> None:
        self._queue = queue
        self._fence = fence
        self._page = Page()
        self._begun: list[asyncio.Future[None]] = []
        self._ended: list[asyncio.Future[None]] = []
        self._news = asyncio.Event()

    async def begun(self, key: Key, attempt: int, now_ms: int) -> None:
        """Write down that an attempt is about to be made.

        Raises:
            StoreUnavailable: it is not written down, and must not be made.
        """
        self._page.begun[key] = (attempt, now_ms)
        await self._written(self._begun)

    async def settled(self, key: Key, endpoint_id: str, noted: Noted | None = None) -> None:
        """Write down that a delivery is over. Returns when it is stored, however long the store is away."""
        self._page.settled.add(key)
        await self._end(endpoint_id, noted)

    async def again(self, key: Key, due_ms: int, why: str | None, endpoint_id: str, noted: Noted | None = None) -> None:
        """Write down that an attempt failed, and when the next one is due; otherwise as `settled`."""
        self._page.again[key] = (due_ms, why)
        await self._end(endpoint_id, noted)

    async def _end(self, endpoint_id: str, noted: Noted | None) -> None:
        if noted is not None:
            self._page.noted[endpoint_id] = noted
        await self._written(self._ended)

    async def _written(self, waiters: list[asyncio.Future[None]]) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiters.append(future)
        self._news.set()
        await future

    async def run(self) -> None:
        """Write until cancelled.

        Raises:
            LeaseLost: it is another hub's turn; whoever waits, waits in vain and is to be cancelled.
        """
        while True:
            await self._news.wait()
            self._news.clear()
            await self._write()

    async def _write(self) -> None:
        page, self._page = self._page, Page()
        begun, self._begun = self._begun, []
        ended, self._ended = self._ended, []
        try:
            await self._queue.write(self._fence, page)
        except StoreUnavailable as error:
            _fail(begun, error)
            self._keep(page, ended)
            log.warning("webhooks_wait_for_store", error=str(error))
            await asyncio.sleep(RETRY_S)
            self._news.set()
            return
        except BaseException:
            for future in (*begun, *ended):
                future.cancel()
            raise
        for future in (*begun, *ended):
            if not future.done():
                future.set_result(None)

    def _keep(self, page: Page, ended: list[asyncio.Future[None]]) -> None:
        self._page.again = page.again | self._page.again
        self._page.settled |= page.settled
        self._page.noted = page.noted | self._page.noted
        self._ended = ended + self._ended


def _fail(futures: list[asyncio.Future[None]], error: StoreUnavailable) -> None:
    for future in futures:
        if not future.done():
            future.set_exception(error)
