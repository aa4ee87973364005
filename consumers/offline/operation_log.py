"""What the desk remembers beside its work: the operation log, the sync history, alerts, and small opaque values.

Works inside the caller's transaction.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Literal

import orjson

from consumers.offline.items import Alert, LogEntry, SyncNote
from consumers.offline.local_schema import LOG_COLUMNS
from consumers.offline.queue import milliseconds, moment

HISTORY: Final = 1000
"""How many syncs are remembered."""
ALERTS: Final = 1000
"""How many alerts are remembered; those that stand always are."""

_LOG: Final = ", ".join(LOG_COLUMNS)


class Notes:
    """The operation log, sync history, alerts, vault and meta values of one database."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._sql = connection

    def log(
        self,
        at: datetime,
        operation: str,
        *,
        operator: str | None = None,
        role: str | None = None,
        target: str | None = None,
        result: Literal["success", "failed"] = "success",
        detail: str | None = None,
        items: Sequence[str] = (),
    ) -> None:
        """Add a line to the operation log."""
        self._sql.execute(
            "INSERT INTO operation_log (at, operator, role, operation, target, result, detail, items) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                milliseconds(at),
                operator,
                role,
                operation,
                target,
                result,
                detail,
                orjson.dumps(list(items)).decode(),
            ),
        )

    def entries(self, limit: int, before: int | None, failed: bool) -> list[LogEntry]:
        """The operation log, newest first."""
        query = (
            f"SELECT {_LOG} FROM operation_log WHERE number < ? AND (result = 'failed' OR ?) "
            "ORDER BY number DESC LIMIT ?"
        )
        rows = self._sql.execute(query, (2**62 if before is None else before, not failed, limit))
        return [
            LogEntry(number, moment(at), operator, role, said, target, result, detail, tuple(orjson.loads(items)))
            for number, at, operator, role, said, target, result, detail, items in rows
        ]

    def note_sync(self, note: SyncNote) -> None:
        """Add to the sync history."""
        body = {
            "trigger": note.trigger,
            "outcome": note.outcome,
            "duration_ms": note.duration_ms,
            "pushed": note.pushed,
            "pulled": note.pulled,
            "counts": dict(note.counts),
            "detail": note.detail,
        }
        number = self._sql.execute(
            "INSERT INTO sync_history (at, body) VALUES (?, ?)", (milliseconds(note.at), orjson.dumps(body).decode())
        ).lastrowid
        self._sql.execute("DELETE FROM sync_history WHERE number <= ?", ((number or 0) - HISTORY,))

    def history(self, limit: int) -> list[SyncNote]:
        """The sync history, newest first."""
        rows = self._sql.execute("SELECT at, body FROM sync_history ORDER BY number DESC LIMIT ?", (limit,))
        return [SyncNote(at=moment(at), **orjson.loads(body)) for at, body in rows]

    def alerts(self, standing: bool, limit: int) -> list[Alert]:
        """The alerts, newest first."""
        rows = self._sql.execute(
            "SELECT number, kind, message, raised_at, cleared_at, detail FROM alerts "
            "WHERE cleared_at IS NULL OR NOT ? ORDER BY number DESC LIMIT ?",
            (standing, limit),
        )
        return [
            Alert(
                number, kind, message, moment(raised), None if cleared is None else moment(cleared), orjson.loads(text)
            )
            for number, kind, message, raised, cleared, text in rows
        ]

    def raise_alert(self, kind: str, message: str, detail: Mapping[str, Any], now: datetime) -> None:
        """Raise an alert, once while it stands."""
        query = "SELECT 1 FROM alerts WHERE kind = ? AND cleared_at IS NULL"
        if self._sql.execute(query, (kind,)).fetchone() is not None:
            return
        number = self._sql.execute(
            "INSERT INTO alerts (kind, message, detail, raised_at) VALUES (?, ?, ?, ?)",
            (kind, message, orjson.dumps(dict(detail)).decode(), milliseconds(now)),
        ).lastrowid
        self._sql.execute("DELETE FROM alerts WHERE number <= ? AND cleared_at IS NOT NULL", ((number or 0) - ALERTS,))

    def clear_alert(self, kind: str, now: datetime) -> None:
        """Clear the standing alert of a kind."""
        self._sql.execute(
            "UPDATE alerts SET cleared_at = ? WHERE kind = ? AND cleared_at IS NULL", (milliseconds(now), kind)
        )

    def vault(self, name: str) -> bytes | None:
        """A small opaque value."""
        row = self._sql.execute("SELECT value FROM vault WHERE name = ?", (name,)).fetchone()
        return None if row is None else bytes(row[0])

    def put_vault(self, name: str, value: bytes | None) -> None:
        """Keep or remove a small opaque value."""
        if value is None:
            self._sql.execute("DELETE FROM vault WHERE name = ?", (name,))
        else:
            self._sql.execute(
                "INSERT INTO vault (name, value) VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET value = ?2",
                (name, value),
            )

    def meta(self, name: str) -> str | None:
        """A value of the database's own."""
        row = self._sql.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return None if row is None else str(row[0])

    def put_meta(self, name: str, value: str | None) -> None:
        """Keep or remove a value of the database's own."""
        if value is None:
            self._sql.execute("DELETE FROM meta WHERE name = ?", (name,))
        else:
            self._sql.execute(
                "INSERT INTO meta VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET value = ?2", (name, value)
            )
