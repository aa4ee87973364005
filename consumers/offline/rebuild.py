"""A damaged local database: checked, salvaged into a new file, put aside under a dated name, and replaced (R85).

Records come anew from the hub, and the salvaged queue is then pushed: both are what a sync does with a file that has no
cursor. A crash in the middle is gone on with: until the salvage is whole, the damaged files are where they were; from
then on a note beside them tells how far the exchange is, and `open_sound` finishes it before anything else is made
there.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple

import orjson
import structlog

from consumers.offline.database import LocalDatabase
from consumers.offline.errors import LocalDamaged, LocalUnusable
from consumers.offline.failures import RETRIES
from consumers.offline.journal import sync_directory
from consumers.offline.local_schema import Lock, unwritten
from consumers.offline.salvage import integrity, salvage

log = structlog.get_logger(__name__)

_FAMILY: Final = ("-wal", "-shm", ".journal", "")
"""The files of a database, itself last: as long as it is where it was, its family is not whole elsewhere."""


class Rebuilt(NamedTuple):
    """What a rebuild came to. `aside` is where the damaged file is kept, for whoever wants to look at it.

    `waiting` of `items` are to be sent. `uncertain` items were begun, but perhaps never kept: a person must hold them
    against what was done; they are not sent. `holes` says in words what could not be read.
    """

    aside: Path
    reasons: tuple[str, ...]
    items: int
    waiting: int
    uncertain: int
    holes: tuple[str, ...]


def rebuild(path: str | Path, *, now: Callable[[], datetime], even_if_sound: bool = False) -> Rebuilt | None:
    """Put what can be salvaged of the database at `path`, which nobody may have open, in its place.

    None: it is sound, and was left as it is. `even_if_sound`: a person wants it, since it does not write.

    Raises:
        LocalInUse: somebody has it open.
        LocalFull: there is no room for a second file; nothing was changed.
        LocalUnusable: the disk does not let it be done; call it again.
    """
    path = Path(path)
    if (begun := resume(path)) is not None:
        return begun
    reasons = integrity(path)
    if not reasons and not even_if_sound:
        return None
    log.warning("local_database_rebuilding", reasons=reasons)
    into = _into(path)
    try:
        # Left by a salvage that was cut off.
        for suffix in _FAMILY:
            _beside(into, suffix).unlink(missing_ok=True)
    except OSError as error:
        raise unwritten(path, error) from error
    found = salvage(path, into, now=now)
    rebuilt = Rebuilt(
        _aside(path, now()), tuple(reasons), found.items, found.waiting, len(found.uncertain), tuple(found.holes)
    )
    return _exchange(path, rebuilt, moved=False)


def resume(path: str | Path) -> Rebuilt | None:
    """Finish an exchange that was cut off; None where there is none.

    Raises:
        LocalInUse, LocalUnusable, LocalFull: it cannot be finished now; call it again.
    """
    path = Path(path)
    try:
        note = orjson.loads(_note(path).read_bytes())
        moved = note.pop("moved")
        aside, reasons, holes = path.with_name(note["aside"]), tuple(note["reasons"]), tuple(note["holes"])
        rebuilt = Rebuilt(**note | {"aside": aside, "reasons": reasons, "holes": holes})
    except FileNotFoundError:
        return None
    except OSError as error:
        raise unwritten(path, error) from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise LocalUnusable(
            str(_note(path)), "the note of a rebuild cannot be read: look at the files beside it"
        ) from error
    log.warning("local_database_rebuild_resumed")
    return _exchange(path, rebuilt, moved=moved)


def open_sound(
    path: str | Path,
    *,
    tenant_id: str,
    system: str,
    now: Callable[[], datetime],
    device_id: str | None = None,
    max_retries: int = RETRIES,
) -> tuple[LocalDatabase, Rebuilt | None]:
    """Open the local database; where it is damaged, rebuild it first. A rebuilt one has no cursor: sync it.

    Raises:
        LocalDamaged: so is what was rebuilt: the disk cannot be trusted.
        LocalInUse, LocalUnusable, LocalFull: as `LocalDatabase.open` and `rebuild`.
    """

    def opened() -> LocalDatabase:
        return LocalDatabase.open(
            path, tenant_id=tenant_id, system=system, now=now, device_id=device_id, max_retries=max_retries
        )

    rebuilt = resume(path)
    try:
        return opened(), rebuilt
    except LocalDamaged:
        if rebuilt is not None:
            raise
    # Opening found damage, which counts also where the check finds none.
    rebuilt = rebuild(path, now=now, even_if_sound=True)
    return opened(), rebuilt


def _exchange(path: Path, rebuilt: Rebuilt, *, moved: bool) -> Rebuilt:
    """Move the damaged files aside and the salvaged ones in their place. Goes on where a crash left it."""
    into = _into(path)
    lock = Lock(path)
    try:
        if not moved:
            _write_note(path, rebuilt, moved=False)
            for suffix in _FAMILY:
                _move(_beside(path, suffix), _beside(rebuilt.aside, suffix))
            sync_directory(path.parent)
            _write_note(path, rebuilt, moved=True)
        for suffix in _FAMILY:
            _move(_beside(into, suffix), _beside(path, suffix))
        sync_directory(path.parent)
        _note(path).unlink(missing_ok=True)
        _beside(into, ".lock").unlink(missing_ok=True)
        sync_directory(path.parent)
    except OSError as error:
        raise unwritten(path, error) from error
    finally:
        lock.release()
    log.warning("local_database_rebuilt", **rebuilt._replace(aside=rebuilt.aside.name)._asdict())  # type: ignore[arg-type]
    return rebuilt


def _move(one: Path, to: Path) -> None:
    with suppress(FileNotFoundError):
        os.replace(one, to)


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _into(path: Path) -> Path:
    return _beside(path, ".salvaged")


def _note(path: Path) -> Path:
    return _beside(path, ".rebuild")


def _aside(path: Path, now: datetime) -> Path:
    """A name of the day and second, that is free."""
    stamp = f"{path.name}.damaged-{now.astimezone(UTC):%Y%m%dT%H%M%SZ}"
    aside, number = path.with_name(stamp), 2
    while any(_beside(aside, suffix).exists() for suffix in _FAMILY):
        aside, number = path.with_name(f"{stamp}-{number}"), number + 1
    return aside


def _write_note(path: Path, rebuilt: Rebuilt, *, moved: bool) -> None:
    tree = rebuilt._asdict() | {"aside": rebuilt.aside.name, "moved": moved}
    beside = _beside(_note(path), ".new")
    with beside.open("wb") as file:
        file.write(orjson.dumps(tree))
        file.flush()
        os.fsync(file.fileno())
    beside.replace(_note(path))
    sync_directory(path.parent)
