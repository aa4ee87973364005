"""Which events an endpoint gets, when a failed attempt is made again, when an endpoint is spared."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.core.entry import Entry
from hub.core.webhooks import MAX_SPARED_MS, TRIP, Breaker, Bucket, Endpoint, next_due, thin
from schemas.cursor import ZERO, StreamId

SCHEDULE = (5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400)


def endpoint(**fields: Any) -> Endpoint:
    """An endpoint of hotel-member's at `default`."""
    held: dict[str, Any] = {
        "endpoint_id": "e1",
        "tenant_id": "default",
        "system": "hotel-member",
        "url": "https://example.com/hook",
        "patterns": ("*",),
        "critical_only": False,
        "secret": "whsec_new",
        "since": ZERO,
        "created_ms": 0,
        "updated_ms": 0,
    }
    return Endpoint(**held | fields)


def entry(ms: int = 5, tenant: str = "default", **envelope: Any) -> Entry:
    """A reservation, unless said otherwise."""
    event = {
        "event_id": "i",
        "schema_version": 1,
        "tenant_id": tenant,
        "type": "reservation",
        "action": "created",
        "priority": "HIGH",
        "sync_mode": "realtime",
        "targets": ["hotel-member", "hotel-pms"],
        "data": {},
        "revision": 1,
    } | envelope
    raw = orjson.dumps(event)
    return Entry(StreamId(ms, 0), 1, tenant, 3, 1, event["type"], event["action"], "reservation:R1", "i", ms, raw)


@pytest.mark.parametrize(
    ("of", "event", "wanted"),
    [
        (endpoint(), entry(), True),
        (endpoint(), entry(tenant="other"), False),
        (endpoint(system="hotel-saas"), entry(), False),
        (endpoint(system="hotel-saas"), entry(targets=["hotel-saas"]), True),
        (endpoint(patterns=("reservation.*",)), entry(), True),
        (endpoint(patterns=("room.*", "reservation.cancelled")), entry(), False),
        (endpoint(critical_only=True), entry(), False),
        (endpoint(critical_only=True), entry(priority="CRITICAL"), True),
        (endpoint(critical_only=True, patterns=("room.*",)), entry(priority="CRITICAL"), False),
        (endpoint(since=StreamId(5, 0)), entry(), False),
        (endpoint(since=StreamId(4, 9)), entry(), True),
        (endpoint(), Entry(StreamId(5, 0), 1, "default", 1, 1, "room", "x", "room:1", "i", 5, b"damaged"), False),
    ],
)
def test_an_endpoint_gets_its_own_events(of: Endpoint, event: Entry, wanted: bool) -> None:
    """Its tenant's, for its system, as its patterns say, from when it was made on; by default critical ones alone."""
    assert of.wants(event) is wanted


def test_for_a_day_both_secrets_sign() -> None:
    """After a rotation, up to a time and not longer."""
    rotated = endpoint(old_secret="whsec_old", old_until_ms=1000)
    assert rotated.secrets(999) == ("whsec_new", "whsec_old")
    assert rotated.secrets(1000) == ("whsec_new",)
    assert endpoint().secrets(0) == ("whsec_new",)


def test_a_thin_message_names_the_event() -> None:
    """And says nothing of what is in it."""
    assert thin(entry()) == {
        "event_id": "i",
        "tenant_id": "default",
        "type": "reservation",
        "action": "created",
        "entity": "reservation:R1",
        "revision": 1,
        "sequence": 3,
        "cursor": entry().cursor,
    }


@given(st.integers(1, 12), st.floats(0, 1), st.one_of(st.none(), st.floats(0, 86_400)))
def test_waits_follow_the_schedule(attempts: int, spread: float, asked: float | None) -> None:
    """Within a tenth, never shorter than the endpoint asked for, and after the last one it is given up."""
    due = next_due(1_000_000, attempts, SCHEDULE, spread, asked)
    if attempts > len(SCHEDULE):
        assert due is None
        return
    assert due is not None
    wait, planned = (due - 1_000_000) / 1000, SCHEDULE[attempts - 1]
    assert wait >= max(0.9 * planned, asked or 0) - 0.002
    assert wait <= max(1.1 * planned, asked or 0) + 0.002


def test_the_schedule_has_a_wait_for_each_attempt_but_the_first() -> None:
    """Nine waits: ten attempts, over three days."""
    assert [next_due(0, attempt, SCHEDULE, 0.5) for attempt in range(1, 11)] == [
        *(wait * 1000 for wait in SCHEDULE),
        None,
    ]


def test_a_breaker_opens_probes_and_closes() -> None:
    """Five failures in a row open it; one attempt at a time probes; longer each time, to a bound; a success closes."""
    breaker, now = Breaker(), 0
    for _ in range(TRIP):
        assert breaker.allows(now)
        breaker.began()
        breaker.failed(now)
    for spared in (10_000, 20_000, 40_000, 80_000, 160_000, MAX_SPARED_MS, MAX_SPARED_MS):
        assert breaker.open_until_ms == now + spared
        assert not breaker.allows(now + spared - 1)
        now += spared
        assert breaker.allows(now)
        breaker.began()
        assert not breaker.allows(now)
        breaker.failed(now)
    now = breaker.open_until_ms
    breaker.began()
    breaker.left()
    assert breaker.allows(now)
    breaker.began()
    breaker.succeeded()
    assert breaker.allows(0)


def test_failures_with_successes_between_do_not_open_it() -> None:
    """Only those in a row count."""
    breaker = Breaker()
    for _ in range(50):
        for _ in range(TRIP - 1):
            breaker.failed(0)
        breaker.succeeded()
    assert breaker.allows(0)


@given(st.integers(1, 50), st.lists(st.integers(0, 500), max_size=200))
def test_no_second_has_more_than_the_rate_allows(rate: int, steps: list[int]) -> None:
    """However the attempts fall: in a second at most as many at once as in another second."""
    bucket, now, taken = Bucket(rate), 0, list[int]()
    for step in steps:
        now += step
        while bucket.wait_ms(now) == 0 and len(taken) < 1000:
            bucket.take()
            taken.append(now)
        wait = bucket.wait_ms(now)
        assert wait >= 0
    for moment in taken:
        assert sum(1 for other in taken if moment <= other < moment + 1000) <= 2 * rate


def test_without_a_rate_nothing_waits() -> None:
    """There is no bucket then."""
    bucket = Bucket(None)
    bucket.take()
    assert bucket.wait_ms(0) == 0
