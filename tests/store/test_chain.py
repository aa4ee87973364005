"""What was done to the archive shows, and where, on SQLite and PostgreSQL."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from archive_bench import (
    DAY,
    T0,
    A,
    C,
    batch,
    change,
    event,
    events_of,
    month_start,
    place,
    verified,
    write_next,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hub.store import chain
from hub.store.archive import Archive, Batch
from hub.store.database import Database, store_url
from hub.store.migrate import migrate
from schemas.cursor import StreamId

EVER = 100_000


@pytest.mark.parametrize(
    ("sql", "told"),
    [
        ("UPDATE events SET body = :body WHERE sequence = 5", "sequence 5, "),
        ("UPDATE events SET entity = 'room:X' WHERE sequence = 5", "its column entity"),
        ("UPDATE events SET revision = 99 WHERE sequence = 5", "its column revision"),
        ("UPDATE events SET event_id = :key WHERE sequence = 5", "its column event_id"),
        ("UPDATE events SET recorded_ms = 1 WHERE sequence = 5", "sequence 5, "),
        ("UPDATE events SET sequence = 50 WHERE sequence = 5", "sequence 50, "),
        ("UPDATE events SET epoch = 8 WHERE sequence = 5", "sequence 5, "),
        ("UPDATE events SET hash = :hash WHERE sequence = 5", "sequence 5, "),
        ("UPDATE events SET partition = 1 WHERE sequence = 5", "sequence 5, "),
        ("UPDATE events SET id_n = 1 WHERE sequence = 5", "sequence 5, "),
        ("UPDATE events SET body = :nothing WHERE sequence = 5", "sequence 5, "),
        (
            "DELETE FROM events WHERE sequence = 5",
            "event 5 of 10 of naha is missing: it follows the one with sequence 4,",
        ),
        (
            "DELETE FROM events WHERE sequence = 1",
            "event 1 of 10 of naha is missing: it follows the one with sequence 0",
        ),
        (
            "DELETE FROM events WHERE sequence > 7",
            "event 8 of 10 of naha is missing: it follows the one with sequence 7,",
        ),
        ("UPDATE events SET position = 6 WHERE sequence = 5", "event 6 is there twice"),
        ("UPDATE events SET tenant_no = 99 WHERE sequence = 5", "event 5 of 10 of naha is missing"),
        ("UPDATE tenants SET hash = :hash", "the head of naha was changed"),
        ("UPDATE tenants SET position = 11", "event 11 of 11 of naha is missing"),
        ("UPDATE tenants SET position = 9", "sequence 10, "),
        ("UPDATE tenants SET base_hash = :hash", "sequence 1, "),
    ],
)
async def test_what_was_done_to_the_archive_shows(archive: Archive, database: Database, sql: str, told: str) -> None:
    """And the first event that does not fit is named."""
    await archive.write([batch(events_of(A, range(10)))])
    assert await verified(archive) == (10, None)

    values = {"body": b"{}", "key": bytes(16), "hash": b"\1" * 32, "nothing": b""}
    assert await change(database, sql, **{name: value for name, value in values.items() if f":{name}" in sql}) > 0

    _, broken = await verified(archive)
    assert broken is not None
    assert told in broken, broken


async def test_values_of_another_kind_show(archive: Archive, database: Database) -> None:
    """SQLite stores a text where bytes or a number were."""
    if not database.sqlite:
        pytest.skip("PostgreSQL does not")
    await archive.write([batch(events_of(A, range(10)))])
    for column in ("body", "event_id", "position", "hash"):
        await change(database, "CREATE TEMP TABLE held AS SELECT * FROM events WHERE sequence = 5")
        await change(database, f"UPDATE events SET {column} = 'x' WHERE sequence = 5")
        _, broken = await verified(archive)
        assert broken is not None
        assert f"its column {column} holds another kind of value" in broken
        await change(database, "DELETE FROM events WHERE sequence = 5")
        await change(database, "INSERT INTO events SELECT * FROM held")
        await change(database, "DROP TABLE held")
    assert await verified(archive) == (10, None)


async def test_a_row_that_was_put_in_shows(archive: Archive, database: Database) -> None:
    """In the middle, behind the head, and an exact copy at another place."""
    await archive.write([batch(events_of(A, range(10)))])
    columns = "epoch, tenant_no, sequence, revision, type, action, entity, recorded_ms, body, hash, event_id"
    for position, id_ms in ((5, T0 + 8), (5, T0 + 500), (11, T0 + 500), (12, T0 + 500)):
        await change(
            database,
            f"INSERT INTO events (partition, id_ms, id_n, position, {columns}) "
            f"SELECT partition, {id_ms}, 9, {position}, {columns} FROM events WHERE sequence = 5",
        )
        _, broken = await verified(archive)
        assert broken is not None
        assert "was put in" in broken or "was changed" in broken
        await change(database, "DELETE FROM events WHERE id_n = 9")
    assert await verified(archive) == (10, None)


async def test_other_tenants_chains_hold(archive: Archive, database: Database) -> None:
    """Each is checked by itself; a tenant without events has nothing to check."""
    await archive.write([batch([event(number, (A, C)[number % 2], sequence=number // 2 + 1) for number in range(20)])])
    no = (await archive.tenants())[C].tenant_no
    await change(database, "DELETE FROM events WHERE sequence = 3 AND tenant_no = :no", no=no)
    assert await verified(archive, A) == (10, None)
    assert (await verified(archive, C))[1] is not None
    assert await verified(archive, "unknown") == (0, None)


async def test_the_newest_may_be_checked_alone(archive: Archive, database: Database) -> None:
    """Then what lies before them is neither checked nor counted."""
    await archive.write([batch(events_of(A, range(100)))])
    await change(database, "UPDATE events SET revision = 99 WHERE sequence = 50")
    found = [one async for one in archive.verify(A, newest=30)]
    assert (found[-1].events, found[-1].broken) == (30, None)
    found = [one async for one in archive.verify(A, newest=60)]
    assert found[-1].broken is not None


async def test_a_chain_is_checked_while_it_grows(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is archived meanwhile belongs to it."""
    monkeypatch.setattr(chain, "PAGE", 7)
    entries = events_of(A, range(60))
    held = await write_next(archive, entries[:30], None)
    checked = 0
    async for found in archive.verify(A):
        assert found.broken is None
        checked = found.events
        if held != place(entries[-1]):
            at = entries.index(next(one for one in entries if one.id == held.id)) + 1
            held = await write_next(archive, entries[at : at + 10], held)
    assert checked == 60


async def test_a_chain_is_checked_while_old_events_leave_it(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    """The retention takes nothing for which the check then cries."""
    monkeypatch.setattr(chain, "PAGE", 3)
    entries = [event(number, id=StreamId(T0 + number * DAY, 0)) for number in range(60)]
    await archive.write([batch(entries)])
    last = None
    async for last in archive.verify(A):
        if last.events == 3:
            assert await archive.expire(month_start(1)) > 3
    assert last is not None
    assert last.broken is None


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
async def test_histories_that_overlap_in_time_are_checked(data: st.DataObject) -> None:
    """However places of a later epoch lie between those of the first, and however few rows are kept waiting."""
    early = data.draw(st.lists(st.integers(0, 60), unique=True, min_size=1, max_size=20).map(sorted), "first history")
    late = data.draw(st.lists(st.integers(0, 60), unique=True, min_size=1, max_size=20).map(sorted), "second history")
    cut = data.draw(st.booleans(), "an event is missing")
    with tempfile.TemporaryDirectory() as directory, pytest.MonkeyPatch.context() as patch:
        patch.setattr(chain, "PAGE", data.draw(st.integers(1, 9), "page"))
        patch.setattr(chain, "MAX_WAITING", data.draw(st.integers(2, 30), "waiting"))
        database = Database(store_url(None, Path(directory)))
        try:
            await migrate(database)
            archive = Archive(database)
            first = [event(at, sequence=n, id=StreamId(T0 + at, 0)) for n, at in enumerate(early, 1)]
            second = [
                event(100 + at, sequence=len(first) + n, id=StreamId(T0 + at, 0), epoch=8)
                for n, at in enumerate(late, 1)
            ]
            await archive.write([batch(first)])
            await archive.write([Batch(0, place(first[-1]), second, 8, max(first[-1].id, second[-1].id))])
            every = len(first) + len(second)
            if cut:
                gone = data.draw(st.integers(1, every), "which")
                await change(database, "DELETE FROM events WHERE position = :gone", gone=gone)
                checked, broken = await verified(archive)
                assert checked == gone - 1
                assert broken is not None
                assert f"event {gone} of {every} of {A} is missing" in broken
            else:
                assert await verified(archive) == (every, None)
        finally:
            await database.aclose()
