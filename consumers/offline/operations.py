"""What is done at the desk, into queue, records and operation log. Works inside the caller's transaction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Final

from consumers.offline.acceptance import accept, laid_over
from consumers.offline.errors import InvalidChange
from consumers.offline.items import LocalChange, QueueItem, Settled
from consumers.offline.local_file import LocalFile
from consumers.offline.new_device import Moved
from consumers.offline.operation_log import Notes
from consumers.offline.queue import Queue
from consumers.offline.records import Key, Records
from schemas.errors import FieldError
from schemas.sync import TYPES, entity_of

ALERT_ABOVE: Final = 1000
"""Waiting items beyond which an alert is raised (R54); nothing is dropped."""
CLEAR_BELOW: Final = 900
"""Where that alert is cleared: lower, so that a queue around the limit does not raise it again and again."""
QUEUE_ALERT: Final = "queue_long"
"""The kind of that alert."""

_DETAIL: Final = 4000
_TARGET: Final = 128


class Operations:
    """Takes in what is done at one desk."""

    def __init__(
        self,
        file: LocalFile,
        notes: Notes,
        records: Records,
        queue: Queue,
        device_id: str,
        now: Callable[[], datetime],
        new_uuid: Callable[[], str],
    ) -> None:
        self._file = file
        self._notes = notes
        self._records = records
        self._queue = queue
        self._device_id = device_id
        self._now = now
        self._new_uuid = new_uuid

    def operate(
        self, changes: Sequence[LocalChange], operator: str, operation: str, role: str | None
    ) -> list[QueueItem]:
        """Keep an operation; see `LocalDatabase.operate`."""
        items = self._accept(changes)
        detail = ", ".join(f"{item.model} {item.operation} {item.entity_id}" for item in items) or None
        self._log(operation, operator, role, items, detail)
        self.watch_length()
        return items

    def resend(self, uuid: str, operator: str) -> QueueItem:
        """Queue a failed item again."""
        item = self._queue.resend(uuid)
        self._log("resend", operator, None, [item], _named(item))
        return item

    def resend_all(self, operator: str) -> int:
        """Queue all failed items again."""
        items = [self._queue.resend(item.uuid) for item in self._queue.of_status("failed", -1)]
        if items:
            self._log("resend", operator, None, items, ", ".join(map(_named, items)))
            self.watch_length()
        return len(items)

    def moved(self, moved: Sequence[Moved], before: str, operator: str, role: str | None) -> None:
        """What was `before`'s is this device's now."""
        self._file.fresh += [(one.item.uuid, one.text) for one in moved]
        self._file.discarded += [one.before for one in moved]
        if moved:
            self._notes.put_meta("sequence", str(moved[-1].item.device_sequence))
        detail = f"{before} is {self._device_id} now; {len(moved)} items with it"
        self._log("new_device_id", operator, role, [one.item for one in moved], detail)
        self.watch_length()

    def discard(self, uuid: str, operator: str, reason: str) -> QueueItem:
        """Give a failed item up."""
        item = self._queue.discard(uuid)
        self._file.discarded.append(uuid)
        self._log("discard", operator, None, [item], f"{_named(item)}: {reason}")
        return item

    def failed(self, settled: Settled) -> None:
        """Put what failed into the operation log (R52)."""
        for item in settled.failed:
            self._notes.log(
                self._now(),
                f"sync {item.model} {item.operation}",
                target=item.entity,
                result="failed",
                detail=item.last_error,
                items=[item.uuid],
            )

    def watch_length(self) -> None:
        """Raise or clear the alert of a long queue."""
        waiting = self._queue.counts().waiting
        if waiting > ALERT_ABOVE:
            message = f"{waiting} operations wait to be sent; nothing is lost, but the hub should be reached"
            self._notes.raise_alert(QUEUE_ALERT, message, {"waiting": waiting}, self._now())
        elif waiting < CLEAR_BELOW:
            self._notes.clear_alert(QUEUE_ALERT, self._now())

    def sequence(self) -> int:
        """The last sequence number that was used."""
        return int(self._notes.meta("sequence") or 0)

    def _accept(self, changes: Sequence[LocalChange]) -> list[QueueItem]:
        """Queue changes and lay them over their records."""
        shown: dict[Key, dict[str, Any]] = {}
        seen: set[str] = set()
        errors: list[FieldError] = []
        items: list[QueueItem] = []
        sequence = self.sequence()
        for number, change in enumerate(changes):
            known = change.model in TYPES and isinstance(change.entity_id, str)
            key = (TYPES[change.model], entity_of(change.model, change.entity_id)) if known else ("", "")
            if key not in shown and (record := self._records.one(*key)) is not None:
                shown[key] = record.data
            entity_seen = key[1] in seen or self._records.entity_seen(key[1])
            accepted, wrong = accept(change, shown.get(key), entity_seen)
            errors += [error.under(f"changes.{number}") for error in wrong]
            if accepted is None:
                continue
            shown[key] = laid_over(
                shown.get(key, {}),
                accepted.type,
                change.operation,
                change.action,
                accepted.payload,
                accepted.schema_version,
            )
            seen.add(key[1])
            if errors:
                continue
            sequence += 1
            uuid = self._new_uuid().lower()
            self._file.fresh.append((uuid, self._queue.add(change, accepted, uuid, sequence, self._now())))
            items.append(self._queue.at(sequence))
        if errors:
            raise InvalidChange(errors)
        self._notes.put_meta("sequence", str(sequence))
        self._records.lay({(item.type, item.entity) for item in items})
        return items

    def _log(
        self, operation: str, operator: str, role: str | None, items: Sequence[QueueItem], detail: str | None
    ) -> None:
        """Put an operation into the log, and queue what the log says of it (R56)."""
        said = {
            "operation_id": self._new_uuid().lower(),
            "operation": operation,
            "operator": operator,
            "device_id": self._device_id,
            "target": items[0].entity[:_TARGET] if items else None,
            "detail": detail[:_DETAIL] if detail else None,
        }
        entry = {name: value for name, value in said.items() if value is not None}
        try:
            self._accept([LocalChange("OperationLog", "CREATE", str(said["operation_id"]), entry, "low")])
        except InvalidChange as error:
            # The caller knows nothing of this item, only of what it said.
            prefix = "changes.0.payload."
            raise InvalidChange(
                [FieldError(one.path.removeprefix(prefix), one.message) for one in error.errors]
            ) from None
        self._notes.log(
            self._now(),
            operation,
            operator=operator,
            role=role,
            target=said["target"],
            detail=said["detail"],
            items=[item.uuid for item in items],
        )


def _named(item: QueueItem) -> str:
    return f"{item.model} {item.operation} {item.entity_id} ({item.uuid})"
