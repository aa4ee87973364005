"""One WebSocket connection's state machine. No I/O: bytes and times in, decisions out.

    state    may send                                   leaves by
    WAITING  auth, ping                                 a good token → OPEN; 5 s without one → CLOSED 4502
    OPEN     subscribe unsubscribe publish ack          token expiry → CLOSED 4001; no pong in 10 s → CLOSED 1011;
             refresh ping                               flooding → CLOSED 4029; 100 refused frames in a row →
                                                        CLOSED 1008; drain → DRAINING
    DRAINING ack, ping                                  the gateway closes with 1001
    CLOSED   nothing                                    –

Times are seconds: `now` on a monotonic clock, `wall` Unix time for token expiry.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import Any, Final

from pydantic import ValidationError

from schemas import registry, strict_json
from schemas.errors import Problem
from schemas.frames import (
    AUTH_TIMEOUT_S,
    CLIENT_FRAMES,
    HEARTBEAT_S,
    PONG_TIMEOUT_S,
    ClientFrame,
    Close,
)

EXPIRY_NOTICE_S: Final = 60.0
FLOOD: Final = 200
"""Refusals for rate, beyond the events that were let through, after which the connection is closed."""


class State(Enum):
    """See the table above."""

    WAITING = "waiting"
    OPEN = "open"
    DRAINING = "draining"
    CLOSED = "closed"


ALLOWED: Final[Mapping[State, frozenset[str]]] = MappingProxyType(
    {
        State.WAITING: frozenset({"auth", "ping"}),
        State.OPEN: frozenset({"subscribe", "unsubscribe", "publish", "ack", "refresh", "ping"}),
        State.DRAINING: frozenset({"ack", "ping"}),
        State.CLOSED: frozenset(),
    }
)
MAX_MARK: Final = 200
MAX_REFUSED: Final = 100
"""Frames in a row that were not understood or not allowed, after which the connection is closed."""


@dataclass(frozen=True, slots=True)
class Command:
    """A frame to carry out. `parsed` is the body it stands in, for the checks on a published event."""

    frame: ClientFrame
    parsed: strict_json.Parsed


@dataclass(frozen=True, slots=True)
class Refuse:
    """Answer with an `error` frame."""

    problem: Problem
    ref: Any = None
    id: Any = None


@dataclass(frozen=True, slots=True)
class Hangup:
    """Close the connection."""

    code: int
    reason: str


@dataclass(frozen=True, slots=True)
class Ping:
    """Send a protocol ping."""


@dataclass(frozen=True, slots=True)
class Expiring:
    """Send the `token_expiring` notice."""

    seconds: float


class Session:
    """The state of one connection."""

    __slots__ = (
        "_allowance",
        "_burst",
        "_expires",
        "_floods",
        "_ping_at",
        "_pong_by",
        "_rate",
        "_refilled",
        "_refused",
        "_started",
        "_warned",
        "state",
    )

    def __init__(self, now: float, *, publish_per_s: float) -> None:
        self.state = State.WAITING
        self._started = now
        self._expires = 0.0
        self._warned = False
        self._ping_at = now + HEARTBEAT_S
        self._pong_by: float | None = None
        self._rate = publish_per_s
        self._burst = self._allowance = publish_per_s * 2
        self._refilled = now
        self._floods = 0
        self._refused = 0

    def authenticated(self, expires: float) -> None:
        """A token was accepted, good until `expires` (Unix time)."""
        if self.state is State.WAITING:
            self.state = State.OPEN
        self._expires, self._warned = expires, False

    def draining(self) -> None:
        """The hub is going; only acknowledgements are taken."""
        if self.state is not State.CLOSED:
            self.state = State.DRAINING

    def closed(self) -> None:
        """The connection is closed or closing."""
        self.state = State.CLOSED

    def heard(self) -> None:
        """Something arrived: the peer lives."""
        self._pong_by = None

    def receive(self, text: bytes, now: float) -> Command | Refuse | Hangup:
        """Decide on one text message. A peer that sends nothing but refused ones is sent away."""
        decision = self._decide(text, now)
        if isinstance(decision, Command):
            self._refused = 0
        elif isinstance(decision, Refuse) and decision.problem.code != "rate_limited":
            self._refused += 1
            if self._refused >= MAX_REFUSED:
                return Hangup(Close.POLICY, f"{MAX_REFUSED} refused frames in a row")
        return decision

    def _decide(self, text: bytes, now: float) -> Command | Refuse | Hangup:
        try:
            parsed = strict_json.parse(text)
        except Problem as problem:
            return Hangup(Close.INVALID_DATA, problem.detail[:100])
        tree = parsed.tree
        if not isinstance(tree, dict):
            return Refuse(Problem("unknown_op", "a frame is a JSON object with an op"))
        op = tree.get("op")
        if isinstance(op, strict_json.Refused):
            return Refuse(Problem("unknown_op", f"op: {op.reason}"))
        ref, id = _mark(tree.get("ref")), _mark(tree.get("id"))
        model = CLIENT_FRAMES.get(op) if isinstance(op, str) else None
        if model is None or not isinstance(op, str):
            return Refuse(
                Problem("unknown_op", f"there is no op {op!r}; one of: {', '.join(CLIENT_FRAMES)}"[:300]), ref, id
            )
        if op not in ALLOWED[self.state]:
            return self._not_now(op, ref, id)
        # The published event is checked by the publisher, with its own paths.
        own = {key: value for key, value in tree.items() if key != "event"} if op == "publish" else tree
        if errors := parsed.refusals(own):
            return Refuse(Problem("invalid_json", f"{errors[0].path}: {errors[0].message}", errors), ref, id)
        if op == "publish" and not self._may_publish(now):
            if self._floods >= FLOOD:
                return Hangup(Close.RATE_LIMITED, f"more than {self._rate:g} events a second")
            return Refuse(Problem("rate_limited", f"more than {self._rate:g} events a second"), ref)
        try:
            return Command(model.model_validate(tree), parsed)
        except ValidationError as error:
            return Refuse(registry.refused(error), ref, id)

    def _not_now(self, op: str, ref: Any, id: Any) -> Refuse | Hangup:
        if self.state is State.WAITING:
            return Hangup(Close.NO_AUTH, f"{op} before auth")
        if self.state is State.DRAINING:
            return Refuse(Problem("draining"), ref, id)
        return Refuse(Problem("invalid_request", f"{op} is not for an open session"), ref, id)

    def _may_publish(self, now: float) -> bool:
        self._allowance = min(self._burst, self._allowance + (now - self._refilled) * self._rate)
        self._refilled = now
        if self._allowance < 1:
            self._floods += 1
            return False
        self._allowance -= 1
        self._floods = max(0, self._floods - 1)
        return True

    def poll(self, now: float, wall: float) -> list[Ping | Expiring | Hangup]:
        """What time demands; to be asked about twice a second."""
        if self.state is State.CLOSED:
            return []
        if self.state is State.WAITING:
            late = now - self._started >= AUTH_TIMEOUT_S
            return [Hangup(Close.NO_AUTH, f"no auth within {AUTH_TIMEOUT_S} s")] if late else []
        if wall >= self._expires:
            return [Hangup(Close.TOKEN_EXPIRED, "the token has expired")]
        if self._pong_by is not None and now >= self._pong_by:
            return [Hangup(Close.INTERNAL, f"no pong within {PONG_TIMEOUT_S} s")]
        due: list[Ping | Expiring | Hangup] = []
        if not self._warned and self._expires - wall <= EXPIRY_NOTICE_S:
            self._warned = True
            due.append(Expiring(round(self._expires - wall, 1)))
        if now >= self._ping_at:
            self._ping_at = now + HEARTBEAT_S
            if self._pong_by is None:
                self._pong_by = now + PONG_TIMEOUT_S
            due.append(Ping())
        return due


def _mark(value: Any) -> int | str | None:
    """A client's own mark, where it can be sent back."""
    if isinstance(value, str):
        return value if len(value) <= MAX_MARK and value.isprintable() else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None
