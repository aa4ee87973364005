"""What the ledger's rows say of an event."""

from __future__ import annotations

from itertools import count
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.core import delivery
from hub.core.delivery import Row, Subscriber, View, row
from hub.core.entry import Entry
from hub.core.routing import Interest
from schemas.cursor import StreamId
from schemas.delivery import EventDeliveryLog

T = 1_790_000_000_000
PMS, MEMBER, SAAS = "hotel-pms", "hotel-member", "hotel-saas"
EVERYTHING = Interest(None, frozenset({"*"}))
_ids = count()


def event(ms: int = 100, *, targets: tuple[str, ...] = (PMS, MEMBER), tenant: str = "t", **more: Any) -> Entry:
    """An event stored at `T + ms`."""
    kind, action = more.pop("kind", "room.status_changed").split(".")
    raw = {"targets": list(targets), "schema_version": 1, "data": {"updated_by_system": PMS}} | more
    return Entry(StreamId(T + ms, 0), 7, tenant, 3, 1, kind, action, "room:1", f"e{ms}", T + ms, orjson.dumps(raw))


def said(kind: str, first: int, last: int | None = None, **more: Any) -> Row:
    """A row over places of partition 0."""
    end = first if last is None else last
    fields: dict[str, Any] = {"hub": "h", "first_ms": T + end + 1} | more
    return row(str(next(_ids)).encode(), kind, 0, StreamId(T + first, 0), StreamId(T + end, 0), **fields)


def acked(first: int, last: int, system: str = MEMBER, interest: Interest = EVERYTHING, tenant: str = "t") -> Row:
    """A durable subscription's acknowledgement."""
    text = delivery.interest_text([interest])
    return said("acked", first, last, system=system, tenant_id=tenant, name="sub", interest=text)


def log(entry: Entry, rows: list[Row], now: int = 1000, **more: Any) -> EventDeliveryLog:
    """Its delivery log; outstanding after 500 ms."""
    about = [one for one in rows if delivery.is_about(one, 0, entry)]
    return delivery.log_of(entry, about, T + now, 500, **more)


def statuses(entry: Entry, *rows: Row) -> dict[str, str]:
    """Each target system's status."""
    return {system: one.status for system, one in log(entry, list(rows)).systems.items()}


def test_nothing_said_is_nothing_done() -> None:
    """An event without rows waits for every target, and after its time it is outstanding."""
    found = log(event(), [], now=600)
    assert {one.status for one in found.systems.values()} == {"waiting"}
    assert (found.delivery_status, found.delivery_time, found.outstanding) == ("pending", None, False)
    assert log(event(), [], now=601).outstanding


def test_success_is_every_target() -> None:
    """One that acknowledged is not enough; the time runs to the last answer."""
    rows = [acked(100, 100), said("routed", 90, 110)]
    assert log(event(), rows).delivery_status == "pending"
    rows.append(said("handled", 50, 120, name=PMS))
    found = log(event(), rows, now=9999)
    assert (found.delivery_status, found.delivery_time, found.outstanding) == ("success", 21, False)
    assert {system: one.status for system, one in found.systems.items()} == {PMS: "handled", MEMBER: "acknowledged"}


@pytest.mark.parametrize(
    "other",
    [
        acked(101, 200),
        acked(0, 99),
        acked(0, 200, system=SAAS),
        acked(0, 200, tenant="u"),
        acked(0, 200, interest=Interest(None, frozenset({"order.*"}))),
        acked(0, 200, interest=Interest(None, frozenset({"*"}), frozenset({"room:2"}))),
        acked(0, 200, interest=Interest(frozenset({"u"}), frozenset({"*"}))),
        acked(0, 200)._replace(partition=1),
        acked(0, 200)._replace(event_id="another"),
        said("handled", 0, 200, name="archiver"),
    ],
)
def test_rows_about_others_say_nothing(other: Row) -> None:
    """Other places, systems, tenants, interests, partitions and groups."""
    assert statuses(event(), other) == {PMS: "waiting", MEMBER: "waiting"}


def test_written_is_not_acknowledged() -> None:
    """A live connection, a page and a backlog are `sent`, for the system that they were written to."""
    for kind in ("sent", "caught_up", "polled"):
        assert statuses(event(), said(kind, 0, 200, system=PMS)) == {PMS: "sent", MEMBER: "waiting"}
    assert statuses(event(targets=(MEMBER,)), said("sent", 0, 200, system=PMS)) == {MEMBER: "waiting"}


def test_a_page_of_a_time_span_holds_no_more() -> None:
    """A page between two instants was not given what was recorded outside them."""
    text = delivery.interest_text([EVERYTHING], from_ms=T + 100, to_ms=T + 150)
    page = said("polled", 0, 500, system=PMS, interest=text)
    assert statuses(event(100), page)[PMS] == "sent"
    assert statuses(event(99), page)[PMS] == "waiting"
    assert statuses(event(150), page)[PMS] == "waiting"


def test_what_was_given_up_is_not_handled() -> None:
    """A group finishes a dead letter too; only what it finished after the redrive counts."""
    finished = said("handled", 0, 200, name=PMS)
    letter = said("dead_lettered", 100, name=PMS, ref="p00:5-0", attempts=5, error="ValueError: no")
    found = log(event(), [finished, letter])
    assert found.systems[PMS].status == found.delivery_status == "failed"
    assert (found.systems[PMS].error_message, found.retry_count) == ("ValueError: no", 4)
    redriven = said("redriven", 100, name=PMS, session="p00:5-0", ref="9-0")
    assert statuses(event(), finished, letter, redriven)[PMS] == "retrying"
    assert statuses(event(), finished, redriven)[PMS] == "retrying"
    again = said("handled", 100, name=PMS, ref="9-0")
    assert statuses(event(), finished, letter, redriven, again)[PMS] == "handled"
    second = said("dead_lettered", 100, name=PMS, ref="p00:6-0", attempts=5)
    assert statuses(event(), finished, letter, redriven, again, second)[PMS] == "failed"
    discarded = said("discarded", 100, name=PMS, ref="p00:5-0")
    assert statuses(event(), finished, discarded)[PMS] == "failed"


def test_a_dead_letter_outweighs_an_acknowledgement() -> None:
    """The system answered by one way and failed by another: somebody has to look."""
    letter = said("dead_lettered", 100, name=MEMBER, ref="p00:5-0", attempts=5)
    assert statuses(event(), acked(0, 200), letter)[MEMBER] == "failed"


def test_a_group_passes_over_what_is_not_its_own() -> None:
    """What a system's group finished says nothing of events that are not for the system; another group's is told."""
    entry = event(targets=(MEMBER,))
    assert not delivery.is_about(said("handled", 0, 200, name=PMS), 0, entry)
    assert delivery.is_about(said("handled", 0, 200, name="billing-sync"), 0, entry)


def test_the_story_is_in_order() -> None:
    """From the append on, each step when it happened: a live range's by when the event was routed."""
    sent = said("sent", 50, 500, system=MEMBER, session="s1", channel="websocket", first_ms=T + 60, last_ms=T + 510)
    rows = [acked(60, 140), sent, said("routed", 100, 101, first_ms=T + 103)]
    trace = delivery.trace_of(event(), rows, T + 1000, 500)
    steps = [(one.step, one.at[-4:-1]) for one in trace.timeline]
    assert steps == [("appended", "100"), ("routed", "103"), ("sent", "103"), ("acknowledged", "141")]
    assert trace.timeline[2].session == "s1"


def test_sessions_and_words_are_for_some() -> None:
    """Without `ops` only one's own connections are named; a masked reader does not get what may quote a guest."""
    rows = [
        said("sent", 0, 200, system=MEMBER, session="s1"),
        said("sent", 0, 200, system=PMS, session="s2"),
        said("dead_lettered", 100, name=PMS, ref="p00:5-0", error="ValueError: Taro Yamada"),
    ]
    trace = delivery.trace_of(event(), rows, T, 500, View(sessions=False, masked=True, system=PMS))
    assert [one.session for one in trace.timeline if one.step == "sent"] in (["s2", None], [None, "s2"])
    assert "Yamada" not in trace.model_dump_json()
    assert trace.error_message == "ValueError"


def test_others_words_and_subscriptions_are_for_ops() -> None:
    """Without `ops` nothing of another system but how far it has come: no error, no name of a subscription."""
    asking = delivery.interest_text([EVERYTHING])
    durable = [Subscriber(system, f"{system}-sub", "t", asking, 0, StreamId(0, 0), T) for system in (MEMBER, SAAS)]
    rows = [
        said("dead_lettered", 100, name=PMS, ref="p00:5-0", error="IntegrityError: duplicate guest Yamada Taro"),
        said("dead_lettered", 100, name="billing", ref="p00:6-0", error="ValueError: Yamada"),
    ]
    entry = event(targets=(PMS, MEMBER, SAAS))

    def seen(view: View) -> tuple[str | None, list[str | None], dict[str, list[str]]]:
        trace = delivery.trace_of(entry, rows, T, 500, view, durable)
        assert trace.systems[PMS].status == "failed"
        assert trace.error_message == trace.systems[PMS].error_message
        words = [one.error_message for one in trace.timeline if one.step == "dead_lettered"]
        return trace.error_message, words, {system: one.waiting_for for system, one in trace.systems.items()}

    error = "IntegrityError: duplicate guest Yamada Taro"
    names = {PMS: [], MEMBER: [f"{MEMBER}-sub"], SAAS: [f"{SAAS}-sub"]}
    assert seen(View()) == (error, [error, "ValueError: Yamada"], names)
    assert seen(View(False, False, MEMBER)) == (None, [None, None], names | {SAAS: []})
    assert seen(View(False, False, PMS)) == (error, [error, None], {system: [] for system in names})
    assert seen(View(False, True, PMS)) == (
        "IntegrityError",
        ["IntegrityError", None],
        {system: [] for system in names},
    )


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        ("IntegrityError: duplicate guest Yamada", "IntegrityError"),
        ("KeyError", "KeyError"),
        ("no room for Taro Yamada: full", "error"),
        ("Yamada Taro", "error"),
        ("山田: 二重予約", "error"),
        ("KeyError\nYamada", "error"),
        ("", "error"),
    ],
)
def test_of_an_error_a_masked_reader_gets_the_class(error: str, shown: str) -> None:
    """What does not begin with the name of a class is not shown at all."""
    assert delivery.class_of(error) == shown


def test_a_channel_is_replayed_what_is_for_its_system() -> None:
    """A replay to a channel says nothing of events for others; one to a group is handed all that is selected."""
    text = delivery.interest_text([EVERYTHING])
    channel = said("replayed", 0, 200, system=MEMBER, channel=f"channel {MEMBER} x"[:20], interest=text)
    group = said("replayed", 0, 200, system=MEMBER, channel=f"group {MEMBER}", interest=text)
    for targets, told in (((MEMBER, PMS), [True, True]), ((PMS,), [False, True])):
        assert [delivery.is_about(one, 0, event(targets=targets)) for one in (channel, group)] == told


def test_who_is_waited_for_is_named() -> None:
    """The durable subscriptions that ask for the event, of the systems that have not acknowledged it."""
    asking = delivery.interest_text([EVERYTHING])
    rest = (delivery.interest_text([Interest(None, frozenset({"order.*"}))]), 0, StreamId(0, 0), T)
    durable = [
        Subscriber(MEMBER, "a", "t", asking, *rest[1:]),
        Subscriber(MEMBER, "b", "u", asking, *rest[1:]),
        Subscriber(MEMBER, "c", "t", *rest),
        Subscriber(PMS, "d", "t", asking, *rest[1:]),
    ]
    found = log(event(), [said("handled", 0, 200, name=PMS)], subscribers=durable)
    assert {system: one.waiting_for for system, one in found.systems.items()} == {MEMBER: ["a"], PMS: []}


_KINDS = (
    "routed",
    "sent",
    "caught_up",
    "polled",
    "acked",
    "handled",
    "retried",
    "dead_lettered",
    "redriven",
    "discarded",
)
_rows = st.lists(
    st.builds(
        lambda kind, first, length, system, tenant, letter, done: said(
            kind,
            first,
            first + length,
            system=system if kind in ("sent", "caught_up", "polled", "acked") else None,
            name=system,
            tenant_id=tenant,
            session=f"p00:{letter}-0" if kind == "redriven" else None,
            ref=f"p00:{letter}-0" if kind == "dead_lettered" else (f"{letter}-9" if done else None),
            attempts=letter,
        ),
        st.sampled_from(_KINDS),
        st.integers(0, 30),
        st.integers(0, 10),
        st.sampled_from((PMS, MEMBER, SAAS)),
        st.sampled_from((None, "t", "u")),
        st.integers(1, 3),
        st.booleans(),
    ),
    max_size=25,
)


@given(_rows, st.lists(st.integers(0, 40), min_size=1, max_size=10, unique=True))
def test_no_claim_without_a_row(rows: list[Row], places: list[int]) -> None:
    """Each status has the row that gives it, about that very event; and each row is found for the events it covers."""
    entries = [event(ms, targets=(PMS, MEMBER, SAAS)) for ms in sorted(places)]
    for entry, found in zip(entries, delivery.by_event(rows, 0, entries), strict=True):
        covering = [
            one for one in rows if one.first <= entry.id <= one.last and one.tenant_id in (None, entry.tenant_id)
        ]
        assert sorted(one.id for one in found) == sorted(one.id for one in covering)
        told = delivery.log_of(entry, found, T, 500)
        for system, one in told.systems.items():
            kinds = {other.kind for other in covering if system in (other.system, other.name)}
            letters = [other for other in covering if other.kind == "dead_lettered" and other.name == system]
            given_up = kinds & {"dead_lettered", "discarded", "redriven"}
            if one.status == "acknowledged":
                assert "acked" in kinds
            if one.status == "handled":
                assert "handled" in kinds
                assert not given_up or any(o.kind == "handled" and o.ref for o in covering if o.name == system)
            if one.status == "sent":
                assert kinds & {"sent", "caught_up", "polled"}
            if one.status == "failed":
                assert "dead_lettered" in kinds or "discarded" in kinds
            if letters and "redriven" not in kinds:
                assert one.status == "failed"
            if one.status == "waiting":
                assert not kinds - {"routed"}
        if told.delivery_status == "success":
            assert all(one.status in ("acknowledged", "handled") for one in told.systems.values())
        assert (told.delivery_time is not None) == (told.delivery_status == "success")
