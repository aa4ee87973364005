"""What a partition keeps of its entries in hand, how it handles them, and what it tells of that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from consumers.handlers import Handler
from schemas.cursor import StreamId
from schemas.envelope import Event

Fields = Sequence[bytes]
Entry = tuple[bytes, Fields]
"""An entry's id and its flat field list."""


@dataclass(frozen=True, slots=True)
class Handling:
    """How entries are handled. Times in seconds."""

    concurrency: int = 1
    attempts: int = 5
    retry_base_s: float = 0.2
    retry_cap_s: float = 30.0
    handler_timeout_s: float | None = 60.0
    max_in_flight: int = 1000
    batch: int = 500


@dataclass(slots=True)
class Stats:
    """What a consumer has done since it was made.

    `retried` counts attempts after the first; `duplicates` the events that the inbox knew already.
    """

    handled: int = 0
    retried: int = 0
    dead: int = 0
    duplicates: int = 0
    alarms: int = 0


@dataclass(frozen=True, slots=True)
class Alarm:
    """Something an operator should look at.

    `group_lost`: the consumer group was gone and was made anew; events may come twice. `entries_lost`: entries were
    deleted from the stream before they were handled.
    """

    code: str
    partition: int
    stream: str
    detail: str


class Source:
    """One of the two streams of a partition, and its entries in hand."""

    def __init__(self, key: str, *, deletes: bool, finished: bytes) -> None:
        self.key = key
        self.deletes = deletes
        self.in_hand: dict[bytes, bytes] = {}
        """Every entry not yet acknowledged → the entry delivered before it."""
        self.to_ack: list[bytes] = []
        self.group_delivered = b"0-0"
        self._last = finished

    def restart(self, after: bytes) -> None:
        """The group was made anew: what follows `after` comes again."""
        self.group_delivered = self._last = after

    def admit(self, entries: Sequence[Entry]) -> Sequence[Entry]:
        """Take entries in, in the order of the stream; those that were not in hand yet.

        Entries in hand come again when the group was made anew, and are pending while they are being handled.
        """
        if not self.in_hand.keys().isdisjoint(entry[0] for entry in entries):
            entries = [entry for entry in entries if entry[0] not in self.in_hand]
        last = self._last
        for entry in entries:
            self.in_hand[entry[0]] = last
            last = entry[0]
        self._last = last
        return entries

    def forget(self, ids: Sequence[bytes]) -> None:
        """They are acknowledged."""
        for id in ids:
            self.in_hand.pop(id, None)

    def delivered(self, id: bytes) -> None:
        """Everything up to `id` was delivered to the group, and what of it is unfinished is in hand."""
        if not self._last or StreamId.parse(id) > StreamId.parse(self._last):
            self._last = id

    @property
    def finished(self) -> bytes:
        """The last entry up to which all are acknowledged; empty when none is known."""
        return next(iter(self.in_hand.values()), self._last)


class Work:
    """One event to handle, and how often that has failed. `replay`: the replay it belongs to, if it does."""

    __slots__ = ("event", "failures", "fields", "handlers", "id", "replay", "source", "taken_over")

    def __init__(
        self,
        source: Source,
        id: bytes,
        fields: Fields,
        event: Event[Any],
        handlers: tuple[Handler, ...],
        failures: int,
        taken_over: bool,
        replay: str | None = None,
    ) -> None:
        self.source = source
        self.id = id
        self.fields = fields
        self.event = event
        self.handlers = handlers
        self.failures = failures
        self.taken_over = taken_over
        self.replay = replay
