"""Publishing one event until there is a receipt, or a clear reason why not."""

from __future__ import annotations

import asyncio
import os
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from decimal import Decimal
from typing import Any, Final

import orjson
import structlog
from pydantic import BaseModel

from consumers.backoff import Random, full_jitter
from consumers.clock import Clock
from consumers.errors import Disconnected, HubRefused, OutcomeUnknown, PublishFailed, PublishRefused
from schemas.envelope import Draft, Event
from schemas.frames import Receipt

log = structlog.get_logger(__name__)

Publishable = Draft | Event[Any] | Mapping[str, Any]

# Codes after which the hub may hold the event all the same.
_UNDECIDED: Final = frozenset({"outcome_unknown", "internal"})
# Refusals of a retry that say nothing about the attempt before it: the token is looked at before the event.
_ABOUT_THE_TOKEN: Final = frozenset({"unauthorized", "token_expired", "forbidden"})


class Publisher:
    """Sends events with retries. At most `in_flight` at once; further callers wait.

    `send` makes one attempt: it raises HubRefused or Disconnected.
    """

    def __init__(
        self, send: Callable[[bytes], Awaitable[Receipt]], *, in_flight: int, clock: Clock, random: Random
    ) -> None:
        self._send = send
        self._clock = clock
        self._random = random
        self._slots = asyncio.Semaphore(in_flight)
        self._under_way = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def publish(self, event: Publishable, timeout: float) -> Receipt:
        """The receipt of the durable append.

        Raises:
            PublishRefused: the hub will not take the event as it stands.
            PublishFailed: not within `timeout` seconds, and the hub has not taken it.
            OutcomeUnknown: not within `timeout` seconds, and the hub may have taken it.
            TypeError: the data holds something that is not JSON.
        """
        event_id, body = wire_form(event)
        self._under_way += 1
        self._idle.clear()
        try:
            return await self._until_receipt(event_id, body, timeout)
        finally:
            self._under_way -= 1
            if not self._under_way:
                self._idle.set()

    async def drain(self) -> None:
        """Wait until nothing is under way."""
        await self._idle.wait()

    async def _until_receipt(self, event_id: str, body: bytes, timeout: float) -> Receipt:
        arrived = under_way = False
        failure: HubRefused | Disconnected | None = None
        try:
            async with self._clock.timeout(timeout), self._slots:
                attempt = 0
                while True:
                    under_way = True
                    try:
                        return await self._send(body)
                    except HubRefused as problem:
                        if not problem.retryable and not (arrived and problem.code in _ABOUT_THE_TOKEN):
                            raise PublishRefused(event_id, problem) from problem
                        failure = problem
                        arrived |= problem.code in _UNDECIDED
                        if not problem.retryable:
                            break
                    except Disconnected as error:
                        failure = error
                        arrived |= error.sent
                    under_way = False
                    log.info("publish_retried", event_id=event_id, attempt=attempt + 1, reason=str(failure))
                    await self._clock.sleep(full_jitter(attempt, self._random))
                    attempt += 1
        except TimeoutError:
            arrived |= under_way
        if arrived:
            raise OutcomeUnknown(event_id, f"no receipt in time; last: {failure or 'no answer'}") from failure
        raise PublishFailed(
            event_id, f"not taken in time; last: {failure or 'no room among those in flight'}"
        ) from failure


def wire_form(event: Publishable) -> tuple[str, bytes]:
    """The event's id, made if it has none, and its JSON. The same id goes with every attempt.

    Raises:
        TypeError: the data holds something that is not JSON.
    """
    # Dumped as Python values: `mode="json"` would turn a Decimal in free-form data into a string.
    fields = event.model_dump(exclude_none=True) if isinstance(event, BaseModel) else dict(event)
    fields["event_id"] = event_id = str(fields.get("event_id") or uuid7())
    return event_id, orjson.dumps(fields, default=_plain)


def uuid7() -> uuid.UUID:
    """A UUID in order of time (RFC 9562, version 7)."""
    value = (time.time_ns() // 1_000_000) << 80 | int.from_bytes(os.urandom(10))
    return uuid.UUID(int=value & ~(0xF << 76) & ~(0x3 << 62) | 0x7 << 76 | 0x2 << 62)


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(exclude_none=True)
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    raise TypeError(f"{type(value).__name__} is not JSON")
