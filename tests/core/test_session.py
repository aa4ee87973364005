"""One connection's state machine: every state and op, deadlines, floods, strict JSON."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from hub.core.session import (
    EXPIRY_NOTICE_S,
    FLOOD,
    Command,
    Expiring,
    Hangup,
    Ping,
    Refuse,
    Session,
    State,
)
from schemas.frames import AUTH_TIMEOUT_S, CLIENT_FRAMES, HEARTBEAT_S, PONG_TIMEOUT_S, Close

WALL = 1_784_077_441.0
FRAMES: dict[str, dict[str, Any]] = {
    "auth": {"token": "t"},
    "subscribe": {"id": 1, "patterns": ["*"]},
    "unsubscribe": {"id": 1},
    "publish": {"ref": 1, "event": {}},
    "ack": {"cursors": {"naha": "c"}},
    "refresh": {"token": "t"},
    "ping": {},
}


def frame(op: str, **fields: Any) -> bytes:
    """A frame as a client writes it."""
    return orjson.dumps({"op": op} | FRAMES.get(op, {}) | fields)


def session(state: State = State.OPEN, *, rate: float = 500, expires: float = WALL + 3600) -> Session:
    """A session in a state, started at 0."""
    made = Session(0.0, publish_per_s=rate)
    if state in (State.OPEN, State.DRAINING):
        made.authenticated(expires)
    if state is State.DRAINING:
        made.draining()
    if state is State.CLOSED:
        made.closed()
    return made


TAKEN = {
    State.WAITING: {"auth", "ping"},
    State.OPEN: {"subscribe", "unsubscribe", "publish", "ack", "refresh", "ping"},
    State.DRAINING: {"ack", "ping"},
    State.CLOSED: set(),
}


@pytest.mark.parametrize("state", list(State))
@pytest.mark.parametrize("op", list(CLIENT_FRAMES))
def test_every_op_in_every_state(state: State, op: str) -> None:
    """An op is carried out in its states; elsewhere it is refused, or ends a connection that has not authenticated."""
    decision = session(state).receive(frame(op), 1.0)
    if op in TAKEN[state]:
        assert isinstance(decision, Command)
        assert type(decision.frame) is CLIENT_FRAMES[op]
    elif state is State.WAITING:
        assert isinstance(decision, Hangup)
        assert decision.code == Close.NO_AUTH
    else:
        assert isinstance(decision, Refuse)
        assert decision.problem.code == ("draining" if state is State.DRAINING else "invalid_request")
        sent = FRAMES[op]
        assert (decision.ref, decision.id) == (sent.get("ref"), sent.get("id"))


@pytest.mark.parametrize("state", list(State))
@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b"[]",
        b"1",
        b'"x"',
        b"null",
        b'{"op":null}',
        b'{"op":1}',
        b'{"op":"Ping"}',
        b'{"op":["ping"]}',
        b'{"op":"snapshot"}',
        b'{"op":"ping","op":"ping"}',
        b'{"op":"welcome"}',
        b'{"op":""}',
    ],
)
def test_unknown_ops_are_answered(state: State, body: bytes) -> None:
    """What is no op of a client is answered by `unknown_op` and ends nothing."""
    decision = session(state).receive(body, 1.0)
    assert isinstance(decision, Refuse)
    assert decision.problem.code == "unknown_op"


@pytest.mark.parametrize("body", [b"", b"{", b"{'op':1}", b'{"op":"ping"} x', b"\xff", b"[" * 100_000, b"\0"])
def test_what_is_not_json_ends_the_connection(body: bytes) -> None:
    """A message that is no JSON at all ends the connection with 1007."""
    decision = session().receive(body, 1.0)
    assert isinstance(decision, Hangup)
    assert decision.code == Close.INVALID_DATA


@pytest.mark.parametrize(
    "event",
    [
        b'{"type":"room","type":"room"}',
        b'{"data":{"n":1e999}}',
        b'{"data":{"n":NaN}}',
        b'{"data":{"n":12345678901234567890}}',
        b'{"data":{"s":"\\ud800"}}',
        b'{"data":{"s":"\\u0000"}}',
        b'{"data":' + b"[" * 40 + b"]" * 40 + b"}",
        b"null",
        b"7",
    ],
)
def test_a_bad_event_is_the_publishers_business(event: bytes) -> None:
    """Strict JSON inside a published event neither ends the connection nor hides the `ref`: the publisher answers."""
    decision = session().receive(b'{"op":"publish","ref":"r-1","event":' + event + b"}", 1.0)
    assert isinstance(decision, Command)
    assert decision.frame.ref == "r-1"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("body", "path"),
    [
        (b'{"op":"publish","ref":"r","more":NaN,"event":{}}', "more"),
        (b'{"op":"publish","ref":1,"ref":2,"event":{}}', "ref"),
        (b'{"op":"publish","ref":123456789012345678,"event":{}}', "ref"),
        (b'{"op":"subscribe","id":7,"patterns":["*"],"batch_ms":1e999}', "batch_ms"),
        (b'{"op":"subscribe","id":7,"patterns":["*"],"name":"a\\u0000"}', "name"),
    ],
)
def test_a_bad_frame_is_refused_by_field(body: bytes, path: str) -> None:
    """Strict JSON around the event is refused with the field's name, and ends nothing."""
    decision = session().receive(body, 1.0)
    assert isinstance(decision, Refuse)
    assert decision.problem.code == "invalid_json"
    assert decision.problem.errors[0].path == path


@pytest.mark.parametrize(
    ("op", "fields", "path"),
    [
        ("subscribe", {"id": 1.5}, "id"),
        ("subscribe", {"id": True}, "id"),
        ("subscribe", {"patterns": []}, "patterns"),
        ("subscribe", {"patterns": ["x"]}, "patterns.0"),
        ("subscribe", {"batch_ms": 1001}, "batch_ms"),
        ("subscribe", {"batch_ms": -1}, "batch_ms"),
        ("subscribe", {"tenants": ["a b"]}, "tenants.0"),
        ("subscribe", {"tenants": []}, "tenants"),
        ("subscribe", {"name": "a b"}, "name"),
        ("subscribe", {"after": 5}, "after"),
        ("subscribe", {"after": {"naha": 5}}, "after"),
        ("ack", {"cursors": {}}, "cursors"),
        ("ack", {"cursors": {"naha": 1}}, "cursors.naha"),
        ("unsubscribe", {"id": None}, "id"),
        ("refresh", {"token": "x" * 8193}, "token"),
    ],
)
def test_a_wrong_field_is_named(op: str, fields: dict[str, Any], path: str) -> None:
    """A frame whose field is wrong is refused with the field's name and the frame's own id."""
    decision = session().receive(frame(op, **fields), 1.0)
    assert isinstance(decision, Refuse)
    assert decision.problem.code == "invalid_request"
    assert decision.problem.errors[0].path == path
    if op == "subscribe" and "id" not in fields:
        assert decision.id == 1


def test_unknown_fields_are_ignored() -> None:
    """A newer client's fields do no harm."""
    assert isinstance(session().receive(frame("ping", later={"a": [1]}), 1.0), Command)


# Time


def test_authentication_is_due_in_time() -> None:
    """Without a token the connection ends after 5 s, not before, whatever else it sends."""
    made = session(State.WAITING)
    assert made.poll(AUTH_TIMEOUT_S - 0.01, WALL) == []
    made.heard()
    made.receive(frame("ping"), 4.0)
    (hangup,) = made.poll(AUTH_TIMEOUT_S, WALL)
    assert isinstance(hangup, Hangup)
    assert hangup.code == Close.NO_AUTH


def test_a_silent_peer_is_given_up() -> None:
    """A ping goes out every 25 s; nothing heard within 10 s of one ends the connection with 1011."""
    made = session()
    assert made.poll(HEARTBEAT_S - 0.1, WALL) == []
    assert made.poll(HEARTBEAT_S, WALL) == [Ping()]
    assert made.poll(HEARTBEAT_S + PONG_TIMEOUT_S - 0.1, WALL) == []
    made.heard()
    assert made.poll(HEARTBEAT_S + PONG_TIMEOUT_S, WALL) == []
    assert made.poll(2 * HEARTBEAT_S, WALL) == [Ping()]
    (hangup,) = made.poll(2 * HEARTBEAT_S + PONG_TIMEOUT_S, WALL)
    assert isinstance(hangup, Hangup)
    assert hangup.code == Close.INTERNAL


def test_an_expiring_token_is_told_once_and_ends() -> None:
    """One notice 60 s before the end, then 4001; a new token starts anew."""
    made = session(expires=WALL + 100)
    assert made.poll(1.0, WALL + 100 - EXPIRY_NOTICE_S - 1) == []
    assert made.poll(1.0, WALL + 41) == [Expiring(59.0)]
    assert made.poll(1.0, WALL + 42) == []
    made.authenticated(WALL + 300)
    assert made.poll(1.0, WALL + 150) == []
    assert made.poll(1.0, WALL + 250) == [Expiring(50.0)]
    (hangup,) = made.poll(1.0, WALL + 300)
    assert isinstance(hangup, Hangup)
    assert hangup.code == Close.TOKEN_EXPIRED


def test_draining_still_expires_and_pings() -> None:
    """A connection on its way out is held to the same deadlines, and a new token does not reopen it."""
    made = session(State.DRAINING)
    made.authenticated(WALL + 10)
    assert made.state is State.DRAINING
    (hangup,) = made.poll(1.0, WALL + 10)
    assert isinstance(hangup, Hangup)


def test_a_closed_session_stays_closed() -> None:
    """Time and late frames do nothing to it."""
    made = session(State.CLOSED)
    made.authenticated(WALL + 10)
    made.draining()
    assert made.state is State.CLOSED
    assert made.poll(1e6, WALL + 1e6) == []


# Floods


def test_publishing_is_held_to_its_rate() -> None:
    """Twice the rate goes through at once, then the rate; each refusal says `rate_limited` with its `ref`."""
    made = session(rate=10)
    first = [made.receive(frame("publish", ref=n), 0.0) for n in range(21)]
    assert [type(decision) for decision in first] == [Command] * 20 + [Refuse]
    assert isinstance(first[-1], Refuse)
    assert (first[-1].problem.code, first[-1].ref) == ("rate_limited", 20)
    later = [made.receive(frame("publish"), 0.5) for _ in range(6)]
    assert [type(decision) for decision in later] == [Command] * 5 + [Refuse]
    rested = [made.receive(frame("publish"), 1e6) for _ in range(21)]
    assert [type(decision) for decision in rested] == [Command] * 20 + [Refuse]


def test_only_publishing_is_limited() -> None:
    """Acknowledgements and pings go through while publishing is refused."""
    made = session(rate=1)
    for _ in range(5):
        made.receive(frame("publish"), 0.0)
    for op in ("ack", "ping", "subscribe"):
        assert isinstance(made.receive(frame(op), 0.0), Command)


def test_a_flood_ends_the_connection() -> None:
    """Who goes on publishing through refusals is hung up on with 4029."""
    made = session(rate=10)
    decisions = [made.receive(frame("publish"), 0.0) for _ in range(20 + FLOOD)]
    assert [type(decision) for decision in decisions[20:-1]] == [Refuse] * (FLOOD - 1)
    assert isinstance(decisions[-1], Hangup)
    assert decisions[-1].code == Close.RATE_LIMITED


class Life(RuleBasedStateMachine):
    """A session next to a plain model of it."""

    def __init__(self) -> None:
        super().__init__()
        self.now, self.wall = 0.0, WALL
        self.session = Session(0.0, publish_per_s=1e9)
        self.state = State.WAITING
        self.expires = 0.0
        self.warned = False
        self.pinged: float | None = None
        self.ping_at = float(HEARTBEAT_S)

    @rule(seconds=st.sampled_from([0.0, 0.5, 1.0, 5.0, 9.5, 10.0, 25.0, 60.0]))
    def time_passes(self, seconds: float) -> None:
        """Both clocks move, and the session is polled."""
        self.now += seconds
        self.wall += seconds
        due = self.session.poll(self.now, self.wall)
        hangups = [one.code for one in due if isinstance(one, Hangup)]
        if self.state is State.CLOSED:
            assert due == []
        elif self.state is State.WAITING:
            assert hangups == ([Close.NO_AUTH] if self.now >= AUTH_TIMEOUT_S else [])
        elif self.wall >= self.expires:
            assert hangups == [Close.TOKEN_EXPIRED]
        elif self.pinged is not None and self.now >= self.pinged + PONG_TIMEOUT_S:
            assert hangups == [Close.INTERNAL]
        else:
            assert hangups == []
            warns = self.expires - self.wall <= EXPIRY_NOTICE_S and not self.warned
            assert [type(one) for one in due if isinstance(one, Expiring)] == [Expiring] * warns
            self.warned = self.warned or warns
            pings = self.now >= self.ping_at
            assert due.count(Ping()) == pings
            if pings:
                self.ping_at = self.now + HEARTBEAT_S
                self.pinged = self.now if self.pinged is None else self.pinged
        if hangups:
            self.session.closed()
            self.state = State.CLOSED

    @rule(op=st.sampled_from(list(CLIENT_FRAMES)))
    def a_frame_comes(self, op: str) -> None:
        """Taken by the table, or not."""
        self.session.heard()
        self.pinged = None
        decision = self.session.receive(frame(op), self.now)
        assert isinstance(decision, Command) == (op in TAKEN[self.state])
        if isinstance(decision, Hangup):
            assert self.state is State.WAITING
            self.session.closed()
            self.state = State.CLOSED

    @precondition(lambda self: self.state in (State.WAITING, State.OPEN))
    @rule(lasts=st.sampled_from([10.0, 61.0, 200.0]))
    def a_token_is_accepted(self, lasts: float) -> None:
        """The first, or a new one."""
        self.expires = self.wall + lasts
        self.session.authenticated(self.expires)
        self.state, self.warned = State.OPEN, False

    @precondition(lambda self: self.state is State.OPEN)
    @rule()
    def the_hub_drains(self) -> None:
        """Only acknowledgements are taken from now on."""
        self.session.draining()
        self.state = State.DRAINING

    @invariant()
    def states_agree(self) -> None:
        """The session is where the model is."""
        assert self.session.state is self.state


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
