"""What webhook endpoints are owed: written down before it is sent, until it is delivered or given up.

How far the streams were looked through moves in the same transaction, and only from where the writer knew it to be:
nothing is passed over, and nothing written down twice. Whoever writes shows the lease it works under.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from sqlalchemy import and_, bindparam, delete, func, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from hub.core.webhooks import Delivery, Key
from hub.store.database import Database
from hub.store.leases import Fence
from hub.store.outward_tables import webhook_deliveries, webhook_endpoints, webhook_places, webhook_replays
from hub.store.places import Fenced, Place
from schemas.cursor import ZERO, StreamId

REPLAY_ID_LENGTH: Final = 36
"""Of a replay that somebody asked for: its id is a UUID."""
_columns = webhook_deliveries.c
_KEY: Final = ("endpoint_id", "replay_id", "id_ms", "id_n", "epoch")
_this = and_(*(_columns[name] == bindparam(f"at_{name}") for name in _KEY))


class Looked(NamedTuple):
    """How far a partition was looked through: before, and now."""

    partition: int
    before: Place | None
    now: Place


class Noted(NamedTuple):
    """How an endpoint fares, as its row says it."""

    failing_ms: int | None
    last_error: str | None
    succeeded_ms: int | None


@dataclass(slots=True)
class Page:
    """What is written in one transaction."""

    begun: dict[Key, tuple[int, int]] = field(default_factory=dict)
    """Attempts that begin: which one it is, and when, Unix ms."""
    again: dict[Key, tuple[int, str | None]] = field(default_factory=dict)
    """What failed: when it is due again, Unix ms, and why."""
    settled: set[Key] = field(default_factory=set)
    noted: dict[str, Noted] = field(default_factory=dict)
    """By endpoint."""

    def __bool__(self) -> bool:
        return bool(self.begun or self.again or self.settled or self.noted)


class WebhookQueue:
    """Every method raises `StoreUnavailable` when the database does not answer, and those that are given a fence
    `LeaseLost` when it is another hub's turn; then nothing was stored."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._insert = (sqlite if database.sqlite else postgresql).insert
        self._add = self._insert(webhook_deliveries).on_conflict_do_nothing()

    # -- filling --------------------------------------------------------------------------------------------------

    async def places(self) -> dict[int, Place]:
        """How far each partition was looked through."""
        async with self._database.reading() as connection:
            return {
                row.partition: Place(row.epoch, StreamId(row.id_ms, row.id_n))
                for row in await connection.execute(select(webhook_places))
            }

    async def add(self, fence: Fence, looked: Sequence[Looked], deliveries: Sequence[Delivery]) -> None:
        """Write down what is owed of what was looked through.

        Raises:
            Fenced: a partition was looked through by somebody else.
        """
        async with self._database.writing() as connection:
            await fence.check(connection)
            for one in looked:
                await self._move(connection, one)
            await self._owe(connection, deliveries)

    async def _move(self, connection: AsyncConnection, one: Looked) -> None:
        values = {"epoch": one.now.epoch, "id_ms": one.now.id.ms, "id_n": one.now.id.n}
        if one.before is None:
            first = self._insert(webhook_places).values(partition=one.partition, **values).on_conflict_do_nothing()
            moved = await connection.execute(first)
        else:
            moved = await connection.execute(
                update(webhook_places)
                .where(
                    webhook_places.c.partition == one.partition,
                    webhook_places.c.epoch == one.before.epoch,
                    webhook_places.c.id_ms == one.before.id.ms,
                    webhook_places.c.id_n == one.before.id.n,
                )
                .values(**values)
            )
        if moved.rowcount != 1:
            raise Fenced

    async def _owe(self, connection: AsyncConnection, deliveries: Sequence[Delivery]) -> None:
        if deliveries:
            await connection.execute(self._add, [_row(one) for one in deliveries])

    async def recover(
        self,
        fence: Fence,
        endpoint_id: str,
        before: tuple[StreamId, StreamId],
        reached: StreamId | None,
        deliveries: Sequence[Delivery],
    ) -> bool:
        """Write down what is to be sent again, and how far that is; None: it is done. `before`: from where to where it
        was to be looked. False when it was asked for anew meanwhile, and nothing was stored."""
        at, until = before
        endpoint = webhook_endpoints.c
        async with self._database.writing() as connection:
            await fence.check(connection)
            moved = await connection.execute(
                update(webhook_endpoints)
                .where(
                    endpoint.endpoint_id == endpoint_id,
                    endpoint.recover_ms == at.ms,
                    endpoint.recover_n == at.n,
                    endpoint.until_ms == until.ms,
                    endpoint.until_n == until.n,
                )
                .values(
                    {"recover_ms": None, "recover_n": None, "until_ms": None, "until_n": None}
                    if reached is None
                    else {"recover_ms": reached.ms, "recover_n": reached.n}
                )
            )
            if moved.rowcount != 1:
                return False
            # What has not gone there yet goes there anyway.
            waiting = select(_columns.id_ms, _columns.id_n, _columns.epoch).where(
                _columns.endpoint_id == endpoint_id, _columns.replay_id == "", _after(at)
            )
            if reached is not None:
                waiting = waiting.where(_columns.id_ms <= reached.ms)
            known = {(StreamId(row[0], row[1]), row[2]) for row in await connection.execute(waiting)}
            await self._owe(connection, [one for one in deliveries if (one.key.id, one.key.epoch) not in known])
        return True

    async def place_of(self, replay_id: str, partition: int) -> tuple[StreamId | None, int]:
        """How far a replay is in a partition, and how many events that were."""
        query = select(webhook_replays).where(
            webhook_replays.c.replay_id == replay_id, webhook_replays.c.partition == partition
        )
        async with self._database.reading() as connection:
            row = (await connection.execute(query)).first()
        return (None, 0) if row is None else (StreamId(row.id_ms, row.id_n), row.events)

    async def replay(
        self,
        replay_id: str,
        endpoint_id: str,
        partition: int,
        before: StreamId | None,
        reached: StreamId,
        deliveries: Sequence[Delivery],
    ) -> bool:
        """Write down what a replay sends, and how far it is; False when another hub got on with it meanwhile. The
        endpoint is marked as changed, for the hub that sends to look."""
        values = {"id_ms": reached.ms, "id_n": reached.n}
        at = webhook_replays.c
        async with self._database.writing() as connection:
            if before is None:
                first = self._insert(webhook_replays).values(
                    replay_id=replay_id, partition=partition, events=len(deliveries), **values
                )
                moved = await connection.execute(first.on_conflict_do_nothing())
            else:
                moved = await connection.execute(
                    update(webhook_replays)
                    .where(
                        at.replay_id == replay_id,
                        at.partition == partition,
                        at.id_ms == before.ms,
                        at.id_n == before.n,
                    )
                    .values(events=at.events + len(deliveries), **values)
                )
            if moved.rowcount != 1:
                return False
            await self._owe(connection, deliveries)
            if deliveries:
                mine = webhook_endpoints.c.endpoint_id == endpoint_id
                version = webhook_endpoints.c.version + 1
                await connection.execute(update(webhook_endpoints).where(mine).values(version=version))
        return True

    # -- working off ----------------------------------------------------------------------------------------------

    async def write(self, fence: Fence, page: Page) -> None:
        """Write down attempts that begin and how others ended, together."""
        async with self._database.writing() as connection:
            await fence.check(connection)
            if page.begun:
                begun = update(webhook_deliveries).where(_this)
                begun = begun.values(attempts=bindparam("n"), attempted_ms=bindparam("now"))
                rows = [_at(key) | {"n": attempt, "now": now} for key, (attempt, now) in page.begun.items()]
                await connection.execute(begun, rows)
            if page.again:
                again = update(webhook_deliveries).where(_this).values(due_ms=bindparam("due"), error=bindparam("why"))
                await connection.execute(
                    again, [_at(key) | {"due": due, "why": why} for key, (due, why) in page.again.items()]
                )
            if page.settled:
                await connection.execute(delete(webhook_deliveries).where(_this), [_at(key) for key in page.settled])
            for endpoint_id, noted in page.noted.items():
                mine = webhook_endpoints.c.endpoint_id == endpoint_id
                await connection.execute(update(webhook_endpoints).where(mine).values(**noted._asdict()))

    async def waiting(self, endpoint_id: str, after: StreamId, count: int) -> list[Delivery]:
        """Up to `count` deliveries an endpoint is owed after a place, in order; those of the last place all."""
        mine = and_(_columns.endpoint_id == endpoint_id, _after(after))
        query = select(webhook_deliveries).where(mine).order_by(_columns.id_ms, _columns.id_n).limit(count)
        async with self._database.reading() as connection:
            rows = [_delivery(row) for row in await connection.execute(query)]
            if len(rows) == count:
                last = rows[-1].key.id
                same = select(webhook_deliveries).where(
                    _columns.endpoint_id == endpoint_id, _columns.id_ms == last.ms, _columns.id_n == last.n
                )
                known = {one.key for one in rows}
                rows += [one for row in await connection.execute(same) if (one := _delivery(row)).key not in known]
        return rows

    async def following(self, endpoint_id: str, entity: str, count: int) -> list[Delivery]:
        """Up to `count` deliveries of one entity, in order."""
        query = (
            select(webhook_deliveries)
            .where(_columns.endpoint_id == endpoint_id, _columns.entity == entity)
            .order_by(_columns.id_ms, _columns.id_n)
            .limit(count)
        )
        async with self._database.reading() as connection:
            return [_delivery(row) for row in await connection.execute(query)]

    async def held(self, endpoint_id: str, replay_id: str = "") -> int:
        """How many an endpoint is owed by a replay."""
        query = (
            select(func.count())
            .select_from(webhook_deliveries)
            .where(_columns.endpoint_id == endpoint_id, _columns.replay_id == replay_id)
        )
        async with self._database.reading() as connection:
            return await connection.scalar(query) or 0

    async def replayed(self, endpoint_id: str) -> bool:
        """Whether an endpoint is owed anything by a replay that somebody asked for."""
        named = func.length(_columns.replay_id) == REPLAY_ID_LENGTH
        query = select(_columns.event_id).where(_columns.endpoint_id == endpoint_id, named).limit(1)
        async with self._database.reading() as connection:
            return await connection.scalar(query) is not None

    async def waiting_of(self, wanted: Collection[tuple[str, str]]) -> set[tuple[str, str]]:
        """Which of these events, by endpoint and event, are owed already, outside of replays."""
        found: set[tuple[str, str]] = set()
        by_endpoint: dict[str, list[str]] = {}
        for endpoint_id, event_id in wanted:
            by_endpoint.setdefault(endpoint_id, []).append(event_id)
        async with self._database.reading() as connection:
            for endpoint_id, ids in by_endpoint.items():
                query = select(_columns.event_id).where(
                    _columns.endpoint_id == endpoint_id, _columns.replay_id == "", _columns.event_id.in_(ids)
                )
                found.update((endpoint_id, row[0]) for row in await connection.execute(query))
        return found

    async def forget_strangers(self, fence: Fence) -> int:
        """Remove what endpoints are owed that are gone; how much: it may be written down while one is deleted."""
        known = select(webhook_endpoints.c.endpoint_id)
        async with self._database.writing() as connection:
            await fence.check(connection)
            return (
                await connection.execute(delete(webhook_deliveries).where(_columns.endpoint_id.not_in(known)))
            ).rowcount

    async def total(self) -> int:
        """How many there are."""
        async with self._database.reading() as connection:
            return await connection.scalar(select(func.count()).select_from(webhook_deliveries)) or 0

    async def replays(self) -> set[str]:
        """The replays of which it is known how far they are."""
        async with self._database.reading() as connection:
            return {row[0] for row in await connection.execute(select(webhook_replays.c.replay_id).distinct())}

    async def forget_replay(self, replay_id: str) -> None:
        """Remove how far a replay was that is over."""
        async with self._database.writing() as connection:
            await connection.execute(delete(webhook_replays).where(webhook_replays.c.replay_id == replay_id))


def _after(place: StreamId) -> Any:
    if place == ZERO:
        return _columns.id_ms >= 0
    return (_columns.id_ms > place.ms) | ((_columns.id_ms == place.ms) & (_columns.id_n > place.n))


def _at(key: Key) -> dict[str, Any]:
    values = (key.endpoint_id, key.replay_id, key.id.ms, key.id.n, key.epoch)
    return {f"at_{name}": value for name, value in zip(_KEY, values, strict=True)}


def _row(one: Delivery) -> Mapping[str, Any]:
    return {
        "endpoint_id": one.key.endpoint_id,
        "replay_id": one.key.replay_id,
        "id_ms": one.key.id.ms,
        "id_n": one.key.id.n,
        "epoch": one.key.epoch,
        "partition": one.partition,
        "tenant_id": one.tenant_id,
        "event_id": one.event_id,
        "entity": one.entity,
        "attempts": one.attempts,
        "due_ms": one.due_ms,
    }


def _delivery(row: Any) -> Delivery:
    key = Key(row.endpoint_id, row.replay_id, StreamId(row.id_ms, row.id_n), row.epoch)
    return Delivery(key, row.partition, row.tenant_id, row.event_id, row.entity, row.due_ms, row.attempts)
