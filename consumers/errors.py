"""What the SDK raises. One root; each error carries its facts as fields."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from schemas.errors import FieldError


class ConsumerError(Exception):
    """Root of everything the SDK raises on purpose. Never holds a token or a payload."""


class ClientClosed(ConsumerError):
    """The client was used after it had been closed, or started twice: an error of the caller."""


class AccessRefused(ConsumerError):
    """The hub does not let this token in; coming back with the same one cannot help.

    `code` is the WebSocket close code (4501, 4502, 4503) or the HTTP status (401, 403).
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"the hub refused the token ({code}): {reason or 'no reason given'}")
        self.code = code
        self.reason = reason


class SubscriptionRefused(ConsumerError):
    """The hub did not open the subscription, and asking again cannot help. `code`: `schemas/errors.py`."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"the hub refused the subscription ({code}): {message}")
        self.code = code
        self.message = message


class HandlerFailed(ConsumerError):
    """A handler failed on every attempt; `__cause__` is its last error. The event is unacknowledged: it comes again."""

    def __init__(self, event: str, event_id: str, cursor: str, attempts: int) -> None:
        super().__init__(f"the handler of {event} failed on event {event_id}, attempts: {attempts}")
        self.event = event
        self.event_id = event_id
        self.cursor = cursor
        self.attempts = attempts


class UnreadableEvent(ConsumerError):
    """An event does not fit its own schema; `__cause__` names the fields. It is unacknowledged: it comes again."""

    def __init__(self, event_id: str, cursor: str) -> None:
        super().__init__(f"event {event_id} cannot be read")
        self.event_id = event_id
        self.cursor = cursor


class CursorsUnreadable(ConsumerError):
    """The kept cursors are damaged. Restore the file, or remove it to start from `after`."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"the cursors in {path} cannot be read: {reason}")
        self.path = path
        self.reason = reason


class Disconnected(ConsumerError):
    """The connection ended, or could not be had; a later one may stand. `code` is the WebSocket close code, if any.

    `sent` tells whether what was being sent may have reached the hub.
    """

    def __init__(self, reason: str, *, code: int | None = None, sent: bool = False) -> None:
        super().__init__(reason if code is None else f"{reason} ({code})")
        self.reason = reason
        self.code = code
        self.sent = sent


class HubRefused(ConsumerError):
    """The hub answered a request with a problem (RFC 9457 over HTTP, an `error` frame over WebSocket)."""

    def __init__(
        self,
        code: str,
        message: str,
        *,
        retryable: bool,
        errors: Sequence[FieldError] = (),
        latest: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.retryable = retryable
        self.errors = tuple(errors)
        self.latest = latest


class PublishError(ConsumerError):
    """An event has no receipt. `event_id` is what a later attempt must carry to be safe."""

    def __init__(self, event_id: str, message: str) -> None:
        super().__init__(f"event {event_id}: {message}")
        self.event_id = event_id


class PublishRefused(PublishError):
    """The hub will not take the event as it stands. Conflicts carry `latest` {revision, data}."""

    def __init__(self, event_id: str, problem: HubRefused) -> None:
        places = "; ".join(f"{error.path}: {error.message}" for error in problem.errors)
        super().__init__(event_id, f"{problem.code}: {problem.message}" + (f" ({places})" if places else ""))
        self.code = problem.code
        self.errors = problem.errors
        self.latest = problem.latest


class PublishFailed(PublishError):
    """The hub could not be reached in time and has not taken the event; `__cause__` is the last failure, if any."""


class OutcomeUnknown(PublishError):
    """An attempt may have reached the hub, but no receipt came in time. Publishing the same event_id again is safe."""
