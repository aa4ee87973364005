"""What is read of a damaged file: with SQLite, page by page, and from the journal."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from desk_rig import DEVICE, DeskRig, booked, changed, do, reservation, result
from hypothesis import given, settings
from hypothesis import strategies as st

from consumers.offline.carving import Pages
from consumers.offline.database import LocalDatabase
from consumers.offline.errors import LocalFull, LocalInUse, LocalUnusable
from consumers.offline.journal import journal_path
from consumers.offline.salvage import SKIPPED, Salvaged, integrity, put_in_place, salvage

Damage = Callable[[Path], None]


def beside(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)


def zero(path: Path, start: float, end: float) -> None:
    """Zero a part of a file, told in fractions of its length."""
    content = bytearray(path.read_bytes())
    first, last = int(len(content) * start), int(len(content) * end)
    content[first:last] = bytes(last - first)
    path.write_bytes(content)


def work(rig: DeskRig, *, count: int = 60) -> dict[str, str]:
    """A desk after a shift: items of every status; uuid → what must be known of each afterwards."""
    local = rig.open()
    local.put_vault("pin", b"verifier")
    for number in range(count):
        do(local, booked(f"R{number}", special_requests="x" * (3000 if number % 7 == 0 else 30)))
    reservations = [item for item in local.batch(500, now=rig.clock.now()) if item.model == "Reservation"]
    outcomes = ["applied", "rejected", "conflict"]
    local.settle(
        [result(item, outcomes[number % 3]) for number, item in enumerate(reservations[:9])], now=rig.clock.now()
    )
    gone = local.failed()[0]
    local.discard(gone.uuid, operator="佐藤", reason="twice")
    local.release()
    statuses: dict[str, str] = {}
    for item in reservations:
        found = local.item(item.uuid)
        assert found is not None
        statuses[item.uuid] = found.status
    statuses |= {item.uuid: item.status for item in local.pending()}
    local.close()
    return statuses


def salvaged(rig: DeskRig) -> tuple[Salvaged, LocalDatabase]:
    into = beside(rig.path, ".salvaged")
    told = salvage(rig.path, into, now=rig.clock.now)
    put_in_place(rig.path, into)
    assert sorted(path.name for path in rig.path.parent.glob("*.salvaged*")) == []
    return told, rig.open()


def has_all(local: LocalDatabase, statuses: dict[str, str], *, exactly: bool = True) -> None:
    """Every item is there; none that was taken or discarded is sent; what is not decided is there to be sent."""
    for uuid, status in statuses.items():
        item = local.item(uuid)
        assert item is not None
        if exactly:
            assert item.status == status
        else:
            # The journal does not know what was refused: that is sent again, and refused again.
            assert (item.status in ("synced", "discarded")) == (status in ("synced", "discarded"))
    assert len({item.uuid for item in local.pending(limit=10_000)}) == sum(
        status not in ("synced", "discarded") for status in statuses.values()
    )


@pytest.mark.parametrize(
    "harm",
    [
        pytest.param(lambda path: os.truncate(path, path.stat().st_size // 2), id="cut"),
        pytest.param(lambda path: os.truncate(path, 3000), id="cut within the first page"),
        pytest.param(lambda path: zero(path, 0, 0.05), id="head zeroed"),
        pytest.param(lambda path: zero(path, 0.3, 0.6), id="middle zeroed"),
        pytest.param(lambda path: zero(path, 0, 1), id="all zeroed"),
        pytest.param(lambda path: path.unlink(), id="gone"),
        pytest.param(lambda path: path.write_bytes(b""), id="empty"),
    ],
)
def test_with_its_journal_nothing_is_lost(rig: DeskRig, harm: Damage) -> None:
    """However the file is damaged, every item is there once, and the desk is who it was."""
    statuses = work(rig)
    harm(rig.path)
    told, local = salvaged(rig)
    assert (told.device_id, told.tenant_id, told.system) == (DEVICE, "default", "hotel-pms")
    assert told.uncertain == ()
    assert told.waiting == local.counts().waiting
    has_all(local, statuses, exactly=False)
    last = max(item.device_sequence for item in local.pending(limit=10_000))
    assert do(local, booked("new"))[0].device_sequence >= last + SKIPPED
    assert (local.cursor, local.check()) == (None, [])
    assert local.alerts(standing=True)[0].kind == "salvaged"
    local.close()
    assert integrity(rig.path) == []


@pytest.mark.parametrize("whole", [True, False], ids=["sound", "first page zeroed"])
def test_without_its_journal_the_pages_tell_all(rig: DeskRig, whole: bool) -> None:
    """SQLite's own reading, or rows out of the pages where its head is gone: statuses, log, vault, long items too."""
    statuses = work(rig)
    journal_path(rig.path).unlink()
    if not whole:
        content = bytearray(rig.path.read_bytes())
        content[:4096] = bytes(4096)
        rig.path.write_bytes(content)
    told, local = salvaged(rig)
    assert "there is no journal" in told.holes
    has_all(local, statuses)
    assert told.device_id == DEVICE
    assert (local.vault("pin"), told.log_entries) == (b"verifier", 60 + 3 + 1)
    assert len(local.operation_log(failed=True)) == 3
    shown = local.record("reservation", "reservation:R59")
    assert shown is not None
    assert (shown.data, shown.pending) == (reservation("R59", special_requests="x" * 30), 1)
    local.close()


def test_a_damaged_journal_and_a_sound_file_lose_nothing(rig: DeskRig) -> None:
    """One of the two is enough."""
    statuses = work(rig)
    zero(journal_path(rig.path), 0.1, 0.9)
    told, local = salvaged(rig)
    assert any("journal" in hole for hole in told.holes)
    has_all(local, statuses)
    local.close()


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_one_hole_anywhere_loses_nothing(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """A hole in the file, in its write-ahead log or in the journal, wherever it is and however long."""
    rig = DeskRig(tmp_path_factory.mktemp("hole") / "desk.db")
    local = rig.open()
    for number in range(12):
        do(local, booked(f"R{number}"), changed(f"R{number}", adults=number))
    copy = DeskRig(rig.path.with_name("copy.db"), rig.clock)
    for ending in ("", "-wal", ".journal"):
        shutil.copyfile(beside(rig.path, ending), beside(copy.path, ending))
    uuids = [item.uuid for item in local.pending()]
    local.close()
    target = beside(copy.path, data.draw(st.sampled_from(["", "-wal", ".journal"])))
    start = data.draw(st.floats(0, 1))
    if data.draw(st.booleans()):
        zero(target, start, data.draw(st.floats(start, 1)))
    else:
        os.truncate(target, int(target.stat().st_size * start))
    told = salvage(copy.path, into := beside(copy.path, ".new"), now=rig.clock.now)
    again = DeskRig(into, rig.clock).open()
    assert [item.uuid for item in again.pending()] == uuids
    assert (told.device_id, told.uncertain) == (DEVICE, ())
    again.close()


def test_the_write_ahead_log_alone_tells_its_rows(rig: DeskRig) -> None:
    """The file is gone but for its head, the log of a crashed desk is not; what was not committed does not count."""
    local = rig.open()
    for number in range(10):
        do(local, booked(f"R{number}"))
    wal = beside(rig.path, "-wal").read_bytes()
    uuids = {item.uuid for item in local.pending()}
    step = 24 + 4096
    pages = Pages(b"", wal)
    assert {row[1] for _, row in pages.rows(17)} == uuids
    # Wherever it is cut: the two items of each operation count from its commit on, not before.
    ends = [at for at in range(32, len(wal), step) if wal[at + 4 : at + 8] != bytes(4)][-10:]
    order = [item.uuid for item in local.pending()]
    for cut in range(32, len(wal) + 1, step):
        kept = sum(end + step <= cut for end in ends)
        assert {row[1] for _, row in Pages(b"", wal[:cut]).rows(17)} == set(order[: 2 * kept])
    # Without its own head, and with a hole in the middle, what lies behind still counts.
    holed = bytearray(wal)
    holed[:32] = bytes(32)
    holed[32 + 5 * step : 32 + 6 * step] = bytes(step)
    assert {row[1] for _, row in Pages(b"", bytes(holed)).rows(17)} == uuids
    local.close()


def test_what_was_never_kept_is_listed_and_not_sent(rig: DeskRig) -> None:
    """A crash between journal and commit, and then the database destroyed: a person is told, the hub is not."""
    local = rig.open()
    do(local, booked("R1"))
    journal = local._file._journal
    assert journal is not None
    journal.begin(
        [
            local._queue.unsettled()[0][1]
            .replace(b"-8000-", b"-9000-")
            .replace(b'"R1"', b'"R2"')
            .replace(b'sequence":1,', b'sequence":7,')
        ]
    )
    local.close()
    rig.path.unlink()
    told, local = salvaged(rig)
    assert [item.entity_id for item in told.uncertain] == ["R2"]
    assert [item.entity_id for item in local.pending()][:1] == ["R1"]
    assert local.counts().waiting == 2
    alert = local.alerts(standing=True)[0]
    assert (alert.kind, alert.detail["items"][0]["entity_id"]) == ("uncertain_items", "R2")
    local.close()


def test_a_desk_without_any_trace_of_itself_gets_a_new_identity(rig: DeskRig) -> None:
    """Nothing can be read at all: an empty database that works."""
    work(rig, count=10)
    zero(rig.path, 0, 1)
    journal_path(rig.path).unlink()
    into = beside(rig.path, ".salvaged")
    told = salvage(rig.path, into, now=rig.clock.now)
    assert (told.device_id, told.items) == (None, 0)
    put_in_place(rig.path, into)
    local = rig.open(device_id=None)
    assert local.device_id.startswith("desk-")
    do(local, booked())
    local.close()


def test_a_salvage_only_reads_and_stands_in_nobodys_way(rig: DeskRig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The damaged files stay as they are; one that is open is refused, and so is a place that is taken."""
    local = rig.open()
    do(local, booked())
    into = beside(rig.path, ".salvaged")
    with pytest.raises(LocalInUse):
        salvage(rig.path, into, now=rig.clock.now)
    with pytest.raises(LocalUnusable, match="no such file"):
        put_in_place(rig.path, into)
    local.close()
    zero(rig.path, 0.4, 0.5)
    before = {path: path.read_bytes() for path in rig.path.parent.iterdir()}
    with monkeypatch.context() as patch:
        patch.setattr("consumers.offline.salvage._tell", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
        with pytest.raises(LocalFull):
            salvage(rig.path, into, now=rig.clock.now)
    assert {path: path.read_bytes() for path in rig.path.parent.iterdir()} == before
    salvage(rig.path, into, now=rig.clock.now)
    assert {path: path.read_bytes() for path in before} == before
    with pytest.raises(LocalUnusable, match="put it in place"):
        salvage(rig.path, into, now=rig.clock.now)
    aside = put_in_place(rig.path, into)
    assert (aside.name, aside.read_bytes()) == ("desk.db.damaged-1", before[rig.path])
    assert journal_path(aside).read_bytes() == before[journal_path(rig.path)]


@pytest.mark.parametrize("step", range(4))
def test_a_crash_while_it_is_put_in_place_hides_nothing(
    rig: DeskRig, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """At no moment is the path taken for a sound, empty desk; calling it again ends well."""
    statuses = work(rig, count=12)
    zero(rig.path, 0.3, 0.6)
    into = beside(rig.path, ".salvaged")
    salvage(rig.path, into, now=rig.clock.now)
    replace, left = Path.replace, [step]

    class Crash(BaseException):
        pass

    def crash(self: Path, target: Path) -> Path:
        if left[0] == 0:
            raise Crash
        left[0] -= 1
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", crash)
        try:
            put_in_place(rig.path, into)
        except Crash:
            assert integrity(rig.path) != []
            patch.undo()
            put_in_place(rig.path, into)
    local = rig.open()
    has_all(local, statuses, exactly=False)
    local.close()


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.text(max_size=20), st.binary(max_size=9000), st.integers(-(2**62), 2**62)), max_size=20))
def test_rows_come_out_of_pages_as_they_went_in(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, bytes, int]]
) -> None:
    """Every kind and length of value, over as many pages as it takes; and other tables' rows are not mistaken."""
    path = tmp_path_factory.mktemp("pages") / "any.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE one (id INTEGER PRIMARY KEY, a, b, c, d, e, f)")
    connection.execute("CREATE TABLE two (id INTEGER PRIMARY KEY, a)")
    kept = [(number, *row, number / 3, number % 2, None) for number, row in enumerate(rows, 1)]
    kept = [(id, a.replace("\0", ""), b, c, d, e, f) for id, a, b, c, d, e, f in kept]
    connection.executemany("INSERT INTO one VALUES (?, ?, ?, ?, ?, ?, ?)", kept)
    connection.executemany("INSERT INTO two VALUES (?, ?)", [row[:2] for row in kept])
    connection.commit()
    connection.close()
    found = {rowid: (rowid, *row[1:]) for rowid, row in Pages(path.read_bytes(), b"").rows(7)}
    assert [found[rowid] for rowid in sorted(found)] == kept
