"""From the ledger's rows to what became of an event.

A row speaks of a range of places in one partition, of all events in it that its interest asks for. It never says more
than what happened; what it does not say did not happen, as far as anybody knows.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final, NamedTuple, cast

import orjson

from hub.core.entry import Entry
from hub.core.routing import Interest, may_see
from schemas.cursor import StreamId
from schemas.delivery import DeliveryStatus, EventDeliveryLog, EventTrace, Step, SystemDelivery, SystemStatus, TraceStep
from schemas.types import HOTEL_MEMBER, HOTEL_PMS, HOTEL_SAAS

WIDTHS_MS: Final = (60_000, 600_000, 3_600_000, 6 * 3_600_000, 86_400_000, 7 * 86_400_000, 40 * 86_400_000)
"""Steps of a range's length: what covers a place is looked for within one step after it."""
MAX_STEPS: Final = 1000
_SYSTEMS: Final = frozenset({HOTEL_PMS, HOTEL_SAAS, HOTEL_MEMBER})
_LARGEST: Final = (1 << 62) - 1
_TO_READERS: Final = frozenset({"sent", "caught_up", "polled", "acked"})
_OF_WEBHOOKS: Final = frozenset({"attempted", "delivered", "given_up"})
_WEBHOOK_ORDER: Final[Mapping[str, int]] = {"attempted": 0, "given_up": 1, "delivered": 2}
_WORSE: Final[Mapping[str, int]] = {"delivered": 0, "retrying": 1, "failed": 2}
_DONE: Final = ("acknowledged", "handled", "delivered")
_OF_GROUPS: Final = frozenset({"handled", "retried", "dead_lettered", "redriven", "discarded"})
_ORDER: Final[Mapping[str, int]] = {"routed": 0, "acked": 2, "handled": 2}
"""Of what is noted for the same moment, what comes first."""
_TO_CHANNEL: Final = "channel "
"""How the channel of a row begins whose events were replayed to a system's channel, not to a group."""
_CLASS: Final = re.compile(r"(\w{1,100})(?::|\Z)", re.ASCII)
_NO_WORDS: Final = "error"
_STEPS: Final[Mapping[str, str]] = {"acked": "acknowledged"}


class Row(NamedTuple):
    """One row of the ledger, in the order of its table's columns. Times are Unix ms.

    `kind`: routed (the hub fanned the range out), sent (to a live connection), caught_up (to one that was behind),
    polled (given by HTTP), acked (a durable subscription did), handled (a consumer group finished the range), retried,
    dead_lettered, redriven (`session` is the letter's id, `ref` its place in the group's own stream, `attempts` 1 once
    the group finished it there), discarded, replayed; of a webhook endpoint, `name`: attempted (it failed), delivered,
    given_up.
    """

    id: bytes
    kind: str
    partition: int
    from_ms: int
    from_n: int
    to_ms: int
    to_n: int
    width: int
    tenant_id: str | None
    event_id: str | None
    system: str | None
    channel: str | None
    session: str | None
    name: str | None
    ref: str | None
    hub: str
    interest: str | None
    events: int | None
    attempts: int | None
    error: str | None
    first_ms: int
    last_ms: int

    @property
    def first(self) -> StreamId:
        """The first place of the range."""
        return StreamId(self.from_ms, self.from_n)

    @property
    def last(self) -> StreamId:
        """The last place of the range."""
        return StreamId(self.to_ms, self.to_n)


def width(first: StreamId, last: StreamId) -> int:
    """The step of a range's length."""
    length = last.ms - first.ms
    return next((step for step, limit in enumerate(WIDTHS_MS) if length <= limit), len(WIDTHS_MS))


def row(
    id: bytes,
    kind: str,
    partition: int,
    first: StreamId,
    last: StreamId,
    *,
    hub: str,
    first_ms: int,
    last_ms: int | None = None,
    tenant_id: str | None = None,
    event_id: str | None = None,
    system: str | None = None,
    channel: str | None = None,
    session: str | None = None,
    name: str | None = None,
    ref: str | None = None,
    interest: str | None = None,
    events: int | None = None,
    attempts: int | None = None,
    error: str | None = None,
) -> Row:
    """A row over a range of places, both ends included."""
    return Row(
        id,
        kind,
        partition,
        first.ms,
        min(first.n, _LARGEST),
        last.ms,
        min(last.n, _LARGEST),
        width(first, last),
        tenant_id,
        event_id,
        system,
        channel,
        session,
        name,
        ref,
        hub,
        interest,
        events,
        attempts,
        error,
        first_ms,
        first_ms if last_ms is None else last_ms,
    )


# -- interests ----------------------------------------------------------------------------------------------------


def interest_text(interests: Iterable[Interest], from_ms: int | None = None, to_ms: int | None = None) -> str:
    """What was asked for, as a row holds it; times of recorded_at, from inclusive, to exclusive."""
    asked = []
    for one in interests:
        said: dict[str, Any] = {"patterns": sorted(one.patterns)}
        if one.tenants is not None:
            said["tenants"] = sorted(one.tenants)
        if one.entities is not None:
            said["entities"] = sorted(one.entities)
        if from_ms is not None:
            said["from"] = from_ms
        if to_ms is not None:
            said["to"] = to_ms
        asked.append(said)
    return orjson.dumps(asked).decode()


@lru_cache(maxsize=2048)
def _asked(text: str) -> tuple[tuple[Interest, int, int], ...]:
    return tuple(
        (
            Interest(_set(said.get("tenants")), frozenset(said["patterns"]), _set(said.get("entities"))),
            said.get("from", 0),
            said.get("to", _LARGEST),
        )
        for said in orjson.loads(text)
    )


def _set(values: list[str] | None) -> frozenset[str] | None:
    return None if values is None else frozenset(values)


def asks_for(interest: str, entry: Entry) -> bool:
    """Whether what a row holds as its interest asks for an event."""
    return any(
        start <= entry.timestamp_ms < end and one.wants(entry.tenant_id, entry.type, entry.action, entry.entity)
        for one, start, end in _asked(interest)
    )


def is_about(row: Row, partition: int, entry: Entry) -> bool:
    """Whether a row speaks of an event."""
    if row.partition != partition or not row[3:5] <= entry.id <= row[5:7]:
        return False
    if row.tenant_id is not None and row.tenant_id != entry.tenant_id:
        return False
    if row.event_id is not None and row.event_id != entry.event_id:
        return False
    to_channel = row.kind == "replayed" and (row.channel or "").startswith(_TO_CHANNEL)
    if (to_channel or row.kind in _TO_READERS) and not may_see(row.system or "", entry.targets):
        # A group is handed all that a replay selects; a channel only what is for its system.
        return False
    if row.kind in _OF_GROUPS and row.name in _SYSTEMS and row.name not in entry.targets:
        # The group finishes by passing over what is not for its system.
        return False
    return row.interest is None or asks_for(row.interest, entry)


def by_event(rows: Iterable[Row], partition: int, entries: Sequence[Entry]) -> list[list[Row]]:
    """For each of the entries, which are in order, the rows that speak of it."""
    waiting = sorted(rows, key=lambda row: row[3:5], reverse=True)
    covering: list[Row] = []
    found = []
    for entry in entries:
        while waiting and waiting[-1][3:5] <= entry.id:
            covering.append(waiting.pop())
        covering = [row for row in covering if row[5:7] >= entry.id]
        found.append([row for row in covering if is_about(row, partition, entry)])
    return found


# -- status -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Subscriber:
    """A durable subscription, and up to where it acknowledged a tenant's events."""

    system: str
    name: str
    tenant_id: str
    interest: str
    sequence: int
    id: StreamId
    acked_ms: int


@dataclass(frozen=True, slots=True)
class Come:
    """How far an event has come with one system."""

    status: SystemStatus
    at_ms: int | None = None
    retries: int = 0
    error: str | None = None


def with_group(rows: Sequence[Row], group: str) -> Come | None:
    """How far an event has come with a consumer group; None when the rows say nothing of it."""
    mine = [row for row in rows if row.kind in _OF_GROUPS and row.name == group]
    letters = [row for row in mine if row.kind == "dead_lettered"]
    redriven = [row for row in mine if row.kind == "redriven"]
    retried = [row for row in mine if row.kind == "retried"]
    retries = max((max(0, (row.attempts or 1) - 1) for row in retried + letters), default=0) + len(redriven)
    discarded = [row for row in mine if row.kind == "discarded"]
    if not letters and not discarded and not redriven:
        handled = [row for row in mine if row.kind == "handled"]
        if handled:
            return Come("handled", min(row.last_ms for row in handled), retries)
        return Come("retrying", max(row.last_ms for row in retried), retries) if retried else None
    # From here on a range that the group finished says nothing: to give up is to finish, too.
    last = max(letters or discarded or redriven, key=lambda row: row.last_ms)
    again = {row.session: row for row in redriven}
    if discarded or any(letter.ref not in again for letter in letters):
        return Come("failed", last.last_ms, retries, last.error)
    # Each letter went back to the group; what came of it there is said by rows of the place it went to.
    done = [row for row in mine if row.kind == "handled" and row.ref in {one.ref for one in redriven}]
    if done:
        return Come("handled", max(row.last_ms for row in done), retries, None)
    return Come("retrying", max(row.last_ms for row in redriven), retries, last.error)


def with_webhooks(rows: Sequence[Row], system: str) -> Come | None:
    """How far an event has come with a system's webhook endpoints; None when the rows say nothing of them."""
    by_endpoint: dict[str | None, list[Row]] = {}
    for one in rows:
        if one.kind in _OF_WEBHOOKS and one.system == system:
            by_endpoint.setdefault(one.name, []).append(one)
    return max((_with_endpoint(of) for of in by_endpoint.values()), key=lambda come: _WORSE[come.status], default=None)


def _with_endpoint(rows: Sequence[Row]) -> Come:
    last = max(rows, key=lambda row: (row.last_ms, _WEBHOOK_ORDER[row.kind]))
    retries = max(0, max((row.attempts or 0) for row in rows) - 1)
    taken = [row for row in rows if row.kind == "delivered"]
    if taken:
        return Come("delivered", min(row.first_ms for row in taken), retries)
    return Come("failed" if last.kind == "given_up" else "retrying", last.last_ms, retries, last.error)


def with_system(rows: Sequence[Row], system: str, id: StreamId | None = None) -> Come:
    """How far an event, at the place `id`, has come with a target system. `rows` are those that speak of it."""
    group, hooks = with_group(rows, system), with_webhooks(rows, system)
    for status in ("failed", "retrying"):
        for come in (group, hooks):
            if come is not None and come.status == status:
                return come
    retries = sum(come.retries for come in (group, hooks) if come is not None)
    acked = [row.last_ms for row in rows if row.kind == "acked" and row.system == system]
    if acked:
        return Come("acknowledged", min(acked), retries)
    come = group or hooks
    if come is not None:
        return replace(come, retries=retries)
    sent = [row for row in rows if row.kind in ("sent", "caught_up", "polled") and row.system == system]
    if sent:
        routed = _routed_ms(rows)
        return Come("sent", min(_sent_ms(row, routed, id) for row in sent))
    return Come("waiting")


def _routed_ms(rows: Iterable[Row]) -> dict[str, int]:
    """When each hub routed the event."""
    found: dict[str, int] = {}
    for row in rows:
        if row.kind == "routed":
            found[row.hub] = min(row.last_ms, found.get(row.hub, row.last_ms))
    return found


def _sent_ms(sent: Row, routed: Mapping[str, int], id: StreamId | None) -> int:
    """When an event within a range was sent: as precise as it was routed, by the same hub."""
    if sent.kind == "sent" and sent.hub in routed:
        return max(sent.first_ms, min(sent.last_ms, routed[sent.hub]))
    return sent.first_ms if sent.first == id else sent.last_ms


def whole(statuses: Collection[SystemStatus]) -> DeliveryStatus:
    """All systems together."""
    if "failed" in statuses:
        return "failed"
    if "retrying" in statuses:
        return "retrying"
    return "success" if all(status in _DONE for status in statuses) else "pending"


def is_outstanding(status: DeliveryStatus, entry: Entry, now_ms: int, outstanding_ms: int) -> bool:
    """Whether an event has been pending for too long."""
    return status == "pending" and now_ms - entry.id.ms > outstanding_ms


@dataclass(frozen=True, slots=True)
class View:
    """What a reader of the ledger may see. `masked`: no words that may quote a guest."""

    sessions: bool = True
    masked: bool = False
    system: str = ""
    """The reader's own: its connections, subscriptions and errors are shown in any case."""

    def shows(self, system: str | None) -> bool:
        """Whether what is a system's (or a group's of its name) own may be seen."""
        return self.sessions or (system is not None and system == self.system)

    def words(self, error: str | None, system: str | None) -> str | None:
        """What may be seen of an error that a system, or a group, met."""
        if error is None or not self.shows(system):
            return None
        return class_of(error) if self.masked else error


def class_of(error: str) -> str:
    """The class of an exception alone: its words may quote a guest."""
    found = _CLASS.match(error)
    return _NO_WORDS if found is None else found[1]


def log_of(
    entry: Entry,
    rows: Sequence[Row],
    now_ms: int,
    outstanding_ms: int,
    view: View = View(),
    subscribers: Iterable[Subscriber] = (),
) -> EventDeliveryLog:
    """The delivery log of an event. `rows` are those that speak of it."""
    return EventDeliveryLog(**_log(entry, rows, now_ms, outstanding_ms, view, subscribers))


def trace_of(
    entry: Entry,
    rows: Sequence[Row],
    now_ms: int,
    outstanding_ms: int,
    view: View = View(),
    subscribers: Iterable[Subscriber] = (),
) -> EventTrace:
    """The story of an event. `rows` are those that speak of it."""
    moments = _moments(rows, entry)
    steps = sorted(moments, key=lambda step: (step[0], _ORDER.get(step[1].kind, 1), step[1].id))
    timeline = [TraceStep(at=instant(entry.id.ms), step="appended", system=entry.source)]
    timeline += [_step(at, row, view) for at, row in steps[: MAX_STEPS - 1]]
    said = _log(entry, rows, now_ms, outstanding_ms, view, subscribers)
    return EventTrace(**said, timeline=timeline, truncated=len(steps) >= MAX_STEPS)


def _log(
    entry: Entry,
    rows: Sequence[Row],
    now_ms: int,
    outstanding_ms: int,
    view: View,
    subscribers: Iterable[Subscriber],
) -> dict[str, Any]:
    come = {system: with_system(rows, system, entry.id) for system in entry.targets}
    status = whole([one.status for one in come.values()])
    errors = [words for system, one in come.items() if (words := view.words(one.error, system)) is not None]
    answered = max((one.at_ms or 0 for one in come.values()), default=entry.id.ms)
    waiting: dict[str, list[str]] = {
        system: [] for system, one in come.items() if one.status in ("sent", "waiting") and view.shows(system)
    }
    for one in subscribers:
        if one.system in waiting and one.tenant_id == entry.tenant_id and asks_for(one.interest, entry):
            waiting[one.system].append(one.name)
    happened = [at for at, _ in _moments(rows, entry)]
    return {
        "event_id": entry.event_id,
        "tenant_id": entry.tenant_id,
        "event_type": entry.type,
        "action": entry.action,
        "entity": entry.entity,
        "sequence": entry.sequence,
        "cursor": entry.cursor,
        "source_system": entry.source,
        "target_systems": list(entry.targets),
        "delivery_status": status,
        "delivery_time": max(0, answered - entry.id.ms) if status == "success" else None,
        "retry_count": sum(one.retries for one in come.values()),
        "error_message": errors[0] if errors else None,
        "timestamp": instant(max([entry.id.ms, *happened])),
        "recorded_at": instant(entry.timestamp_ms),
        "outstanding": is_outstanding(status, entry, now_ms, outstanding_ms),
        "systems": {
            system: SystemDelivery(
                status=one.status,
                # Clocks differ: no answer comes before the event.
                at=None if one.at_ms is None else instant(max(one.at_ms, entry.id.ms)),
                retry_count=one.retries,
                error_message=view.words(one.error, system),
                waiting_for=sorted(waiting.get(system, ())),
            )
            for system, one in come.items()
        },
    }


def _moments(rows: Sequence[Row], entry: Entry) -> list[tuple[int, Row]]:
    """When what each row says happened to an event: the latest it can have been, never before it was stored."""
    routed = _routed_ms(rows)
    found = []
    for row in rows:
        if row.kind in ("sent", "caught_up", "polled"):
            at = _sent_ms(row, routed, entry.id)
        elif row.kind in ("routed", "acked", "handled", "retried") or row.last != row.first:
            at = row.last_ms
        else:
            at = row.first_ms
        found.append((max(at, entry.id.ms), row))
    return found


def _step(at: int, row: Row, view: View) -> TraceStep:
    shown = view.shows(row.system)
    of_group = row.kind in _OF_GROUPS
    return TraceStep(
        at=instant(at),
        step=cast("Step", _STEPS.get(row.kind, row.kind)),
        system=row.system,
        group=row.name if of_group else None,
        channel=row.channel,
        session=row.session if shown and not of_group else None,
        name=row.name if shown and not of_group else None,
        hub=row.hub,
        ref=row.session if row.kind == "redriven" else row.ref,
        attempts=row.attempts if row.kind != "redriven" else None,
        error_message=view.words(row.error, row.name if of_group else row.system),
    )


def instant(ms: int) -> str:
    """A time in Unix ms as the API shows it."""
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
