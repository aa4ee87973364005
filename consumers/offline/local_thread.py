"""The local database on a thread of its own: what is done there keeps its order, and never holds up the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Self, TypeVar

from consumers.errors import ClientClosed
from consumers.offline.database import LocalDatabase

T = TypeVar("T")


class LocalThread:
    """Owns one `LocalDatabase`. Work is done one after the other, as it was called for."""

    def __init__(self, opened: Callable[[], LocalDatabase]) -> None:
        """Use `open`."""
        self._open = opened
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="local-database")
        self._database: LocalDatabase | None = None
        self._closed = False

    @classmethod
    async def open(cls, opened: Callable[[], LocalDatabase]) -> Self:
        """Open the database, on its thread, by `opened`; raises what that raises."""
        thread = cls(opened)
        try:
            await thread._run(thread._reopen)
        except BaseException:
            # Nobody will close it. Where it was cancelled, the file may have been opened all the same.
            await asyncio.shield(thread.close())
            raise
        return thread

    async def call(self, work: Callable[[LocalDatabase], T]) -> T:
        """Run `work` on the database and return what it returns. Keep it short: the desk's operations wait behind it.

        Cancelled: `work` may still be carried out.

        Raises:
            ClientClosed: it was closed.
        """

        def carried_out() -> T:
            # Where a rebuild failed there is none: opened again, or told why not.
            return work(self._database or self._reopen())

        return await self._run(carried_out)

    async def exchange(self, work: Callable[[], T]) -> T:
        """Close the database, run `work`, which may put another file in its place, and open what is there then."""

        def carried_out() -> T:
            self._let_go()
            result = work()
            self._reopen()
            return result

        return await self._run(carried_out)

    async def close(self) -> None:
        """Let what was called for be done, then close the database. May be called twice."""
        if not self._closed:
            self._closed = True
            try:
                await asyncio.get_running_loop().run_in_executor(self._executor, self._let_go)
            finally:
                self._executor.shutdown(wait=False)

    def _reopen(self) -> LocalDatabase:
        self._database = self._open()
        return self._database

    def _let_go(self) -> None:
        database, self._database = self._database, None
        if database is not None:
            database.close()

    async def _run(self, work: Callable[[], T]) -> T:
        if self._closed:
            raise ClientClosed("the desk was closed")
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)
