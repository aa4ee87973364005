"""The words for what went wrong, shared by HTTP problems, WebSocket `error` frames and the SDK.

A refusal names the field and the fix; a failure says whether the same request may be sent again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, NamedTuple

MAX_FIELD_ERRORS: Final = 100
"""An answer names no more wrong fields than this: it must not outgrow the request it answers."""


class FieldError(NamedTuple):
    """One wrong field: `path` is dotted from the body's root (`events.3.data.total_amount`)."""

    path: str
    message: str

    def under(self, prefix: str) -> FieldError:
        """The same error seen from one level further out."""
        return FieldError(f"{prefix}.{self.path}" if self.path else prefix, self.message)


class Code(NamedTuple):
    """How one stable error code is answered over HTTP and whether a retry of the same request can help."""

    status: int
    retryable: bool
    title: str


CODES: Final[Mapping[str, Code]] = MappingProxyType(
    {
        "invalid_json": Code(400, False, "The body is not acceptable JSON"),
        "invalid_request": Code(422, False, "A parameter is not acceptable"),
        "invalid_event": Code(422, False, "The event does not fit its schema"),
        "invalid_cursor": Code(422, False, "The cursor is not one of this hub's for this tenant"),
        "unauthorized": Code(401, False, "No valid token"),
        "token_expired": Code(401, False, "The token has expired"),
        "forbidden": Code(403, False, "The token does not allow this"),
        "not_authority": Code(403, False, "Another system is the source of authority for this"),
        "not_found": Code(404, False, "There is no such thing"),
        "conflict": Code(409, False, "The entity has moved on since the expected revision"),
        "replay_active": Code(409, False, "The target has a replay that is not over"),
        "replay_over": Code(409, False, "The replay is over"),
        "too_large": Code(413, False, "The request is larger than the limit"),
        "rate_limited": Code(429, True, "Too many requests for now"),
        "unknown_op": Code(400, False, "There is no such operation"),
        "unavailable_feature": Code(501, False, "This hub does not offer that"),
        "overloaded": Code(503, True, "More is waiting than the hub will hold; nothing was accepted"),
        "log_unavailable": Code(503, True, "The log cannot take events durably now; nothing was accepted"),
        "store_unavailable": Code(503, True, "The store, where this would be found, does not answer now"),
        "outcome_unknown": Code(503, True, "The connection to the log broke; a retry with the same event_id is safe"),
        "draining": Code(503, True, "The hub is shutting down; nothing was accepted"),
        "internal": Code(500, True, "The hub failed"),
    }
)


@dataclass(slots=True)
class Problem(Exception):
    """A request that was not carried out, and why (RFC 9457 `application/problem+json`).

    `errors` name fields; `extra` holds members of one code alone (`latest` of a conflict, `event_id` of an unknown
    outcome).
    """

    code: str
    detail: str = ""
    errors: Sequence[FieldError] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def status(self) -> int:
        """The HTTP status this code is answered with."""
        return CODES[self.code].status

    @property
    def retryable(self) -> bool:
        """Whether sending the same request again can succeed."""
        return CODES[self.code].retryable

    def body(self) -> dict[str, Any]:
        """The problem document."""
        known = CODES[self.code]
        body: dict[str, Any] = {
            "type": f"urn:hotel-event-hub:problem:{self.code}",
            "title": known.title,
            "status": known.status,
            "code": self.code,
            "detail": self.detail or known.title,
            "retryable": known.retryable,
        }
        if self.errors:
            body["errors"] = [{"path": error.path, "message": error.message} for error in self.errors]
        return body | dict(self.extra)

    def __str__(self) -> str:
        places = "; ".join(f"{error.path}: {error.message}" for error in self.errors)
        return f"{self.code}: {self.detail or CODES[self.code].title}" + (f" ({places})" if places else "")


def invalid_request(field: str, message: str) -> Problem:
    """The problem of one bad parameter or field of a request."""
    return Problem("invalid_request", f"{field}: {message}", [FieldError(field, message)])


def invalid_event(errors: Sequence[FieldError]) -> Problem:
    """The problem of an event that does not fit: every field error, the first one in words."""
    first = errors[0]
    return Problem("invalid_event", f"{first.path or 'event'}: {first.message}", errors)
