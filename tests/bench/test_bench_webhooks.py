"""`hub bench webhooks` runs with small numbers, and what it counts is what there was."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hub.bench.raw import LoadError
from hub.bench.webhook_receivers import Kept, Receivers, Request
from hub.bench.webhooks import Events, Fleet, out_of_order

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.process
def test_healthy_endpoints_are_told_from_broken_ones() -> None:
    """Every event reaches each healthy endpoint of its tenant once and is timed; the others are counted apart."""
    fleet = ("--tenants", "2", "--endpoints", "5", "--hanging", "1", "--failing", "2", "--flapping", "1")
    load = ("--rate", "20", "--seconds", "1", "--warm", "0.5", "--events", "40")
    command = [sys.executable, "-m", "hub.cli.main", "bench", "webhooks", *fleet, *load]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    paced, saturated = found["paced"], found["saturated"]
    assert (paced["published"], saturated["published"]) == (30, 40)
    # Of the ten, numbers 0, 1, 2 and 3 are broken, two of each tenant; every second event is the first tenant's.
    assert paced["healthy"]["endpoints"] == 6
    assert paced["healthy"]["received"] == 15 * 3 * 2
    assert paced["healthy"]["samples"] == 10 * 3 * 2
    assert saturated["healthy"]["endpoints"] == 10
    assert saturated["healthy"]["received"] == saturated["healthy"]["samples"] == 40 * 5
    for phase in (paced, saturated):
        healthy = phase["healthy"]
        assert (healthy["missing"], healthy["doubled"], healthy["foreign"]) == (0, 0, 0)
        assert 0 < healthy["p50_ms"] <= healthy["p99_ms"]
        assert phase["out_of_order"] == 0
        assert phase["hub_processors"] > 0
        assert phase["hub_mib"] > 0
    assert paced["others"]["fail"]["attempts"] > 0
    assert paced["others"]["fail"]["taken"] == 0
    assert paced["others"]["hang"]["waiting"] > 0
    assert paced["live"]["delivered"] > 0
    assert saturated["webhooks_per_s"] > 0


def test_broken_endpoints_are_spread_over_the_tenants() -> None:
    """None has all of them; more than there are endpoints cannot be broken."""
    places = Fleet(tenants=4, endpoints=3, hanging=4, failing=2, flapping=2).places()
    assert [path for _, path in places][:5] == ["/hang/0", "/hang/1", "/hang/2", "/hang/3", "/fail/4"]
    for tenant in ("webhooks-0", "webhooks-1", "webhooks-2", "webhooks-3"):
        assert sorted(path.split("/")[1] for name, path in places if name == tenant)[1:] == ["hang", "ok"]
    with pytest.raises(LoadError, match="13"):
        Fleet(tenants=4, endpoints=3, hanging=13, failing=0, flapping=0).places()


def test_events_go_round_and_carry_their_time() -> None:
    """One of each tenant in turn, each with its own id and moment, and the same reservation again after all others."""
    events = Events(["a", "b"], 5)
    bodies = [json.loads(events.next()) for _ in range(21)]
    assert [one["tenant_id"] for one in bodies[:3]] == ["a", "b", "a"]
    assert [one["data"]["reservation_id"] for one in (bodies[0], bodies[2], bodies[20])] == ["W0", "W1", "W0"]
    assert list(events.sent) == [one["event_id"] for one in bodies]
    for one in bodies:
        tenant, sent_ns = events.sent[one["event_id"]]
        assert one["tenant_id"] == tenant
        assert one["data"]["special_requests"] == f"@T{sent_ns}xxxxx"


def kept(revision: int, status: int = 200, webhook_id: str | None = None, path: str = "/ok/1") -> Kept:
    """A request about one entity."""
    return Kept(path, webhook_id or f"e{revision}", "reservation:R", revision, 1, status, 0)


@pytest.mark.parametrize(
    ("requests", "wrong"),
    [
        ([kept(1), kept(2), kept(1, path="/ok/2"), kept(3)], 0),
        ([kept(1, 500), kept(1, 500), kept(1), kept(2, 0), kept(2)], 0),
        ([kept(2)], 1),
        ([kept(1), kept(3)], 1),
        ([kept(1, 500), kept(2)], 1),
        ([kept(1), kept(2), kept(1)], 1),
        ([kept(1, 500), kept(1, webhook_id="other")], 1),
    ],
)
def test_an_entity_is_out_of_order_when_it_skips_or_goes_back(requests: list[Kept], wrong: int) -> None:
    """A revision comes until it is taken, and then the next; other endpoints and attempts again do not matter."""
    assert out_of_order(requests) == wrong


def test_endpoints_do_as_their_path_says() -> None:
    """What works, fails, is silent, and turns; each request is kept with what was answered."""
    receivers = Receivers(turn_s=2.0)
    body = b'{"entity":"reservation:R","data":{"revision":7},"revision":3}'

    def ask(path: str, second: int) -> int | None:
        headers = {"webhook-id": "e", "hub-attempt": "2"}
        return receivers.take(Request(second * 1_000_000_000, "POST", path, headers, body)).status

    assert [ask("/ok/1", 0), ask("/fail/2", 0), ask("/hang/3", 0)] == [200, 500, None]
    assert [ask("/flap/4", second) for second in (0, 1, 2, 3, 4)] == [500, 500, 200, 200, 500]
    assert ask("/flap/5", 0) == 200
    assert [one.status for one in receivers.kept] == [200, 500, 0, 500, 500, 200, 200, 500, 200]
    assert receivers.kept[0] == Kept("/ok/1", "e", "reservation:R", 3, 2, 200, 0)
    assert receivers.taken == 1
