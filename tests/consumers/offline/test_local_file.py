"""The file itself: one process, one desk, no room, a crash at any moment, damage that is noticed."""

from __future__ import annotations

import errno
import os
import random
import resource
import signal
import sqlite3
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from desk_rig import DEVICE, DeskRig, booked, changed, checked_in, do, event, reservation, taken

from consumers.offline.database import LocalDatabase
from consumers.offline.errors import InvalidChange, LocalDamaged, LocalFull, LocalInUse, LocalUnusable
from consumers.offline.items import Counts, SyncNote
from consumers.offline.journal import journal_path, read_journal
from consumers.offline.salvage import integrity


def test_a_second_process_is_refused(rig: DeskRig, local: LocalDatabase) -> None:
    """The error says why; once the first has closed it, the second may."""
    with pytest.raises(LocalInUse, match="another process"):
        rig.open()
    code = (
        "import sys; from pathlib import Path; from consumers.offline.salvage import integrity; integrity(sys.argv[1])"
    )
    ran = subprocess.run([sys.executable, "-c", code, str(rig.path)], capture_output=True, text=True, check=False)
    assert "LocalInUse" in ran.stderr
    local.close()
    local.close()
    rig.open().close()


def test_a_desk_keeps_its_identity(rig: DeskRig) -> None:
    """Given at first or made up, it stays; another desk's file is refused, naming both."""
    first = rig.open(device_id=None)
    made = first.device_id
    first.close()
    again = rig.open(device_id=None)
    assert (again.device_id, len(made)) == (made, 21)
    again.close()
    for wrong in ({"device_id": "desk-9"}, {"tenant_id": "other"}, {"system": "hotel-saas"}):
        with pytest.raises(LocalUnusable) as caught:
            rig.open(**({"device_id": None} | wrong))
        (value,) = wrong.values()
        assert repr(value) in caught.value.reason
    with pytest.raises(LocalUnusable, match="visible ASCII"):
        rig.open(device_id="机 1")


def test_a_newer_releases_file_is_left_alone(rig: DeskRig) -> None:
    """It is refused with the fix, and not changed."""
    rig.open().close()
    with sqlite3.connect(rig.path) as connection:
        connection.execute("PRAGMA user_version=99")
    connection.close()
    with pytest.raises(LocalUnusable, match="install a newer release"):
        rig.open()


def test_guests_data_is_for_the_desks_own_user(rig: DeskRig, local: LocalDatabase) -> None:
    """Nobody else on the machine may read the file or its journal."""
    do(local, booked())
    for path in (rig.path, journal_path(rig.path), rig.path.with_name(rig.path.name + "-wal")):
        assert path.stat().st_mode & 0o077 == 0


def test_what_is_put_by_is_there_after_a_restart(rig: DeskRig, local: LocalDatabase) -> None:
    """Opaque values, the sync history and alerts."""
    local.put_vault("pin", b"\x00secret")
    local.put_vault("token", b"t")
    local.put_vault("token", None)
    note = SyncNote(rig.clock.now(), "recovery", "ok", 120, 3, 4, {"applied": 3})
    local.note_sync(note)
    local.raise_alert("clock", "the clock is wrong", {"ms": 5})
    local.raise_alert("clock", "the clock is still wrong")
    local.close()
    again = rig.open()
    assert (again.vault("pin"), again.vault("token")) == (b"\x00secret", None)
    assert again.sync_history() == [note]
    assert [(one.message, one.detail) for one in again.alerts()] == [("the clock is wrong", {"ms": 5})]
    again.clear_alert("clock")
    assert again.alerts(standing=True) == []
    again.close()


# -- no room ----------------------------------------------------------------------------------------------------------


def test_a_full_database_keeps_nothing_and_works_again_with_room(rig: DeskRig, local: LocalDatabase) -> None:
    """SQLite has no page left: the error says so, no half operation is there, and none is lost before or after."""
    sql = local._file.sql
    sql.execute(f"PRAGMA max_page_count={sql.execute('PRAGMA page_count').fetchone()[0] + 6}")
    kept: list[str] = []

    def fill() -> None:
        while len(kept) < 1000:
            kept.append(do(local, booked(f"R{len(kept)}", special_requests="x" * 1000))[0].uuid)

    with pytest.raises(LocalFull, match="make room"):
        fill()
    assert kept
    failed = f"reservation:R{len(kept)}"
    assert local.record("reservation", failed) is None
    assert local.counts().queued == 2 * len(kept)
    sql.execute("PRAGMA max_page_count=100000")
    (item,) = do(local, booked("again"))
    assert item.device_sequence == 2 * len(kept) + 1
    local.close()
    again = rig.open()
    sent = [one.uuid for one in again.pending() if one.model == "Reservation"]
    assert sent == [*kept, item.uuid]
    again.close()


def test_a_full_journal_keeps_nothing_and_works_again_with_room(
    rig: DeskRig, local: LocalDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk fills while the journal is written, a part of it already there: no trace of it stays."""
    do(local, booked("R1"))
    size = journal_path(rig.path).stat().st_size
    write = os.pwrite

    def full(fd: int, content: Any, at: int) -> int:
        if len(content) > 20:
            return write(fd, content[:20], at)
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("consumers.offline.journal.os.pwrite", full)
        with pytest.raises(LocalFull):
            do(local, booked("R2", adults=1))
        # What only marks the journal does not fail for want of room.
        local.settle(taken(local.batch(1, now=rig.clock.now())), now=rig.clock.now())
    assert journal_path(rig.path).stat().st_size == size
    assert local.record("reservation", "reservation:R2") is None
    (item,) = do(local, booked("R2"))
    assert item.device_sequence == 3
    read = read_journal(journal_path(rig.path))
    assert read is not None
    assert (len(read.items), len(read.done), len(read.out), read.bad) == (4, 4, 1, 0)
    assert integrity_of(rig, local) == []


class FailingCommit:
    """A connection whose commits fail, whether or not they are done."""

    def __init__(self, real: sqlite3.Connection, code: int, *, done: bool) -> None:
        self.real = real
        self.code = code
        self.done = done

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def execute(self, statement: str, *args: Any) -> Any:
        if statement != "COMMIT":
            return self.real.execute(statement, *args)
        if self.done:
            self.real.execute(statement)
        error = sqlite3.OperationalError("the disk")
        error.sqlite_errorcode = self.code
        raise error


def test_a_file_that_may_not_grow_is_told_as_such(
    rig: DeskRig, local: LocalDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the journal nothing was kept; by SQLite, whether it was is known once the file is opened again."""
    do(local, booked())

    def limited(fd: int, content: Any, at: int) -> int:
        raise OSError(errno.EFBIG, "File too large")

    with monkeypatch.context() as patch:
        patch.setattr("consumers.offline.journal.os.pwrite", limited)
        with pytest.raises(LocalFull, match="may not grow: a limit on the size of files"):
            do(local, booked("R2"))
    size, (soft, hard) = Path(f"{rig.path}-wal").stat().st_size, resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        with pytest.raises(LocalUnusable, match="may not grow: a limit on the size of files"):
            do(local, booked("R2"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_is_full_in_the_commit_keeps_nothing(rig: DeskRig, local: LocalDatabase) -> None:
    """The journal has the items already: they are taken out of it again, and the next operation works."""
    size = journal_path(rig.path).stat().st_size
    real = local._file.sql
    local._file.sql = FailingCommit(real, sqlite3.SQLITE_FULL, done=False)  # type: ignore[assignment]
    with pytest.raises(LocalFull):
        do(local, booked("R1"))
    assert journal_path(rig.path).stat().st_size == size
    local._file.sql = real
    assert local.counts() == Counts()
    assert do(local, booked("R1"))[0].device_sequence == 1


def integrity_of(rig: DeskRig, local: LocalDatabase) -> list[str]:
    local.close()
    return integrity(rig.path)


def test_a_disk_without_room_for_the_index_of_the_log_is_told(rig: DeskRig, local: LocalDatabase) -> None:
    """SQLite calls it an I/O error, which nobody could do anything about."""
    full = FailingCommit(local._file.sql, sqlite3.SQLITE_IOERR_SHMSIZE, done=False)
    local._file.sql = full  # type: ignore[assignment]
    with pytest.raises(LocalUnusable, match="the disk has no room"):
        do(local, booked("R1"))


def test_a_disk_that_fails_in_the_commit_ends_the_use_of_the_file(rig: DeskRig, local: LocalDatabase) -> None:
    """Whether it was kept is not known: nothing more is done before it is opened again, which finds out."""
    do(local, booked("R1"))

    local._file.sql = FailingCommit(local._file.sql, sqlite3.SQLITE_IOERR, done=True)  # type: ignore[assignment]
    with pytest.raises(LocalUnusable, match="the disk"):
        do(local, booked("R2"))
    with pytest.raises(LocalUnusable, match="open it again"):
        local.counts()
    local.close()
    again = rig.open()
    assert again.counts().queued == 4
    read = read_journal(journal_path(rig.path))
    assert read is not None
    assert len(read.done) == 4
    again.close()


# -- crashes ----------------------------------------------------------------------------------------------------------


def work_until_killed(path: Path, out: int) -> None:
    """In a process of its own: say what was told to be kept, one line an item."""
    local = LocalDatabase.open(path, tenant_id="default", system="hotel-pms", now=lambda: datetime.now(UTC))
    number = 0
    while True:
        number += 1
        pair = [checked_in(f"{os.getpid()}-{number}-{part}") for part in ("a", "b")]
        for item in do(local, *pair):
            os.write(out, f"{item.uuid} {item.device_sequence} {item.entity_id}\n".encode())


@pytest.mark.faults
def test_a_killed_desk_has_every_operation_it_told_of(tmp_path: Path) -> None:
    """Killed in the middle of its work again and again: each once, both parts or none, no sequence number twice."""
    path = tmp_path / "desk.db"
    chance = random.Random(7)
    told: list[list[str]] = []
    for _ in range(10):
        read, out = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                work_until_killed(path, out)
            finally:
                os._exit(1)
        os.close(out)
        with os.fdopen(read, "rb") as lines:
            told += [lines.readline().decode().split() for _ in range(chance.randint(1, 60))]
            os.kill(child, signal.SIGKILL)
            # A line is written at once, whole.
            told += [line.decode().split() for line in lines]
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert integrity(path) == []
    local = DeskRig(path).open(device_id=None)
    items = local.pending(limit=100_000)
    assert len({item.uuid for item in items}) == len(items)
    assert [item.device_sequence for item in items] == list(range(1, len(items) + 1))
    kept = {item.uuid: [item.uuid, str(item.device_sequence), item.entity_id] for item in items}
    assert [kept[line[0]] for line in told] == told
    stays = [item.entity_id for item in items if item.model == "CheckIn"]
    assert sorted(stays) == sorted(one[:-1] + part for one in stays if one.endswith("a") for part in "ab")
    assert len(items) == len(stays) * 3 // 2 == len(local.operation_log(limit=10**6)) * 3
    local.close()


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_crash_around_the_commit_leaves_the_journal_right(
    rig: DeskRig, local: LocalDatabase, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An item whose transaction did not commit is void; one whose mark is missing gets it, once opened again."""
    do(local, booked("R1"))

    class Crash(BaseException):
        pass

    journal = local._file._journal
    assert journal is not None
    begin = journal.begin

    def crash(*args: Any) -> Any:
        if moment == "before":
            begin(*args)
        raise Crash

    monkeypatch.setattr(journal, "begin" if moment == "before" else "mark", crash)
    with pytest.raises(Crash):
        do(local, booked("R2"))
    local.close()
    again = rig.open()
    read = read_journal(journal_path(rig.path))
    assert read is not None
    kept = 2 if moment == "before" else 4
    assert (len(read.items), len(read.done), len(read.void)) == (4, kept, 4 - kept)
    assert [item.device_sequence for item in again.pending()] == list(range(1, kept + 1))
    again.close()


# -- the journal ------------------------------------------------------------------------------------------------------


def test_the_journal_is_begun_anew_when_all_is_settled(rig: DeskRig, local: LocalDatabase) -> None:
    """It does not grow for ever, keeps who the desk is, and the waiting items where some are left."""
    for number in range(60):
        do(local, booked(f"R{number}"))
    while items := local.batch(500, now=rig.clock.now()):
        local.settle(taken(items), now=rig.clock.now())
    read = read_journal(journal_path(rig.path))
    assert read is not None
    assert (read.items, read.lines) == ({}, 1)
    assert read.desk is not None
    assert (read.desk["device_id"], read.desk["sequence"]) == (DEVICE, 120)
    do(local, booked("R99"))
    assert integrity_of(rig, local) == []


def test_a_lost_journal_is_written_anew(rig: DeskRig, local: LocalDatabase) -> None:
    """And so is a damaged one: the database is sound, only its double is not."""
    do(local, booked("R1"))
    uuids = {item.uuid for item in local.pending()}
    for harm in ("gone", "cut", "zeroed"):
        local.close()
        path = journal_path(rig.path)
        if harm == "gone":
            path.unlink()
        elif harm == "cut":
            os.truncate(path, path.stat().st_size - 7)
        else:
            path.write_bytes(b"\0" * path.stat().st_size)
        local = rig.open()
        read = read_journal(path)
        assert read is not None
        assert (read.kept, read.bad) == (uuids, 0), harm
    local.close()


# -- damage that is noticed -------------------------------------------------------------------------------------------


def damage(rig: DeskRig, kind: str) -> None:
    content = rig.path.read_bytes()
    if kind == "cut":
        os.truncate(rig.path, len(content) // 2)
    elif kind == "header":
        rig.path.write_bytes(b"\0" * 4096 + content[4096:])
    elif kind == "gone":
        rig.path.unlink()
    elif kind == "empty":
        os.truncate(rig.path, 0)
    elif kind == "payload":
        rig.path.write_bytes(content.replace("山田".encode(), "山口".encode()))


@pytest.mark.parametrize("kind", ["cut", "header", "gone", "empty", "payload"])
def test_damage_is_noticed_when_the_file_is_opened(rig: DeskRig, local: LocalDatabase, kind: str) -> None:
    """A damaged file is never taken for a sound or an empty one."""
    for number in range(20):
        do(local, booked(f"R{number}", guest_name="山田" if number == 10 else "佐藤"))
    local.close()
    damage(rig, kind)
    with pytest.raises(LocalDamaged) as caught:
        rig.open()
    assert caught.value.reasons
    assert integrity(rig.path) != []


def test_a_lost_write_ahead_log_is_noticed(rig: DeskRig, local: LocalDatabase, tmp_path: Path) -> None:
    """What it had is in the journal and not in the file: that is damage, however sound SQLite finds it."""
    do(local, booked("R1"))
    copy = DeskRig(tmp_path / "copy" / "desk.db")
    copy.path.parent.mkdir()
    for name in (rig.path.name, journal_path(rig.path).name):
        (copy.path.parent / name).write_bytes((rig.path.parent / name).read_bytes())
    with pytest.raises(LocalDamaged):
        copy.open()


def test_a_changed_state_is_found_by_the_thorough_check(rig: DeskRig, local: LocalDatabase) -> None:
    """Every confirmed state is held against its digest, every settled item against its checksum."""
    local.apply_changes([event(reservation(guest_name="山田"), 1)], "c1")
    assert local.check() == []
    local._file.sql.execute("UPDATE records SET base = replace(base, '山田', '山口')")
    (found,) = local.check()
    assert "record reservation reservation:R1" in found
    local.close()
    assert integrity(rig.path) == [found]


def test_refused_operations_leave_the_journal_alone(rig: DeskRig, local: LocalDatabase) -> None:
    """Nothing is written before all of an operation fits."""
    size = journal_path(rig.path).stat().st_size
    with pytest.raises(InvalidChange):
        do(local, booked(), changed("R2"))
    assert journal_path(rig.path).stat().st_size == size
    assert local.counts() == Counts()
