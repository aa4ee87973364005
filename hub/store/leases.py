"""Leases: one hub at a time does what only one may do, and a writer that was superseded is turned away.

Nobody's clock is compared with anybody's: a holder shows that it lives by counting `beat` up, and whoever wants the
lease takes it when the count has stood still for long enough by its own clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy import select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from hub.store.database import Database
from hub.store.outward_tables import leases


class LeaseLost(Exception):
    """Another hub holds the lease now: nothing was stored."""


class Fence(NamedTuple):
    """A lease as a writer shows it with what it writes."""

    name: str
    number: int

    async def check(self, connection: AsyncConnection) -> None:
        """Within the transaction that writes, before it writes.

        Raises:
            LeaseLost: the lease is another's.
        """
        held = select(leases.c.fence).where(leases.c.name == self.name).with_for_update(read=True)
        if await connection.scalar(held) != self.number:
            raise LeaseLost(self.name)


@dataclass(frozen=True, slots=True)
class Lease:
    """A lease as it stands."""

    name: str
    holder: str
    fence: int
    beat: int


class Leases:
    """Reads and writes leases. Every method raises `StoreUnavailable` when the database does not answer."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._add = (sqlite if database.sqlite else postgresql).insert

    async def look(self, name: str) -> Lease | None:
        """The lease as it stands; None when nobody ever held it."""
        async with self._database.reading() as connection:
            row = (await connection.execute(select(leases).where(leases.c.name == name))).first()
        return None if row is None else Lease(row.name, row.holder, row.fence, row.beat)

    async def take(self, name: str, holder: str, seen: Lease | None) -> Lease | None:
        """Take it from where it was seen to stand; None when somebody else was faster."""
        if seen is None:
            first = self._add(leases).values(name=name, holder=holder, fence=1, beat=0).on_conflict_do_nothing()
            async with self._database.writing() as connection:
                done = await connection.execute(first)
            return Lease(name, holder, 1, 0) if done.rowcount == 1 else None
        taken = Lease(name, holder, seen.fence + 1, seen.beat + 1)
        return taken if await self._move(seen, taken) else None

    async def beat(self, held: Lease) -> Lease:
        """Show that its holder lives.

        Raises:
            LeaseLost: it is another's.
        """
        now = Lease(held.name, held.holder, held.fence, held.beat + 1)
        if not await self._move(held, now):
            raise LeaseLost(held.name)
        return now

    async def release(self, held: Lease) -> None:
        """Let the next one have it at once; of no effect when it is another's already."""
        mine = (leases.c.name == held.name, leases.c.fence == held.fence)
        async with self._database.writing() as connection:
            # Whatever its beat: one may be stored whose answer nobody waited for.
            await connection.execute(update(leases).where(*mine).values(holder="", beat=leases.c.beat + 1))

    async def _move(self, before: Lease, now: Lease) -> bool:
        same = (leases.c.name == before.name, leases.c.fence == before.fence, leases.c.beat == before.beat)
        moved = update(leases).where(*same).values(holder=now.holder, fence=now.fence, beat=now.beat)
        async with self._database.writing() as connection:
            return (await connection.execute(moved)).rowcount == 1
