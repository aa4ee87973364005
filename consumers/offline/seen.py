"""What the desk had pulled when it did what waits: told with a push, so that the hub knows what the desk knew.

The cursor itself says that as long as nothing is pulled in between. Once something is, items that still wait were done
on less; from then on, until none waits any more, the cursor of before is told.
"""

from __future__ import annotations

from consumers.offline.database import SEEN_BY_WAITING, LocalDatabase


def about_to_pull(database: LocalDatabase) -> None:
    """Call it right before changes or states are taken in, on the same turn of the database."""
    if database.vault(SEEN_BY_WAITING) is None and database.counts().waiting:
        database.put_vault(SEEN_BY_WAITING, (database.cursor or "").encode())


def seen_by_waiting(database: LocalDatabase) -> str | None:
    """The cursor that every waiting item was done on, or a later one; None: it is not known."""
    kept = database.vault(SEEN_BY_WAITING)
    return database.cursor if kept is None else kept.decode() or None


def pushed_all(database: LocalDatabase) -> None:
    """Call it after a push: where nothing waits, what is done next is done on what is here now."""
    if not database.counts().waiting and database.vault(SEEN_BY_WAITING) is not None:
        database.put_vault(SEEN_BY_WAITING, None)
