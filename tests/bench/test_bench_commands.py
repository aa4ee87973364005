"""Every `hub bench` command runs, with tiny numbers, and its figures hang together."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hub.bench.target import target

pytestmark = pytest.mark.process

ROOT = Path(__file__).resolve().parents[2]
FASTSTREAM = ROOT / "tests" / "bench" / "faststream_consume.py"


def bench(*arguments: str) -> dict[str, Any]:
    """One command; its figures."""
    command = [sys.executable, "-m", "hub.cli.main", "bench", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["bench"] == arguments[0]
    return found


def test_fanout_compares_one_set_with_several() -> None:
    """Sampled and counted connections see the same events, whatever else they subscribe to."""
    found = bench(*("fanout", "--subscribers", "70", "--rate", "100", "--seconds", "1", "--warm", "0.5", "--sets", "5"))
    assert (found["one_set"]["sets"], found["many_sets"]["sets"]) == (1, 5)
    for phase in (found["one_set"], found["many_sets"]):
        least, most = phase["least_of_a_connection"], phase["most_of_a_connection"]
        assert 0 < least <= most
        assert least * 70 <= phase["delivered"] <= most * 70
        # Every second connection is sampled: 35 of 70.
        assert least * 35 <= phase["samples"] <= most * 35
        assert phase["p50_ms"] <= phase["p99_ms"] <= phase["p999_ms"]
        assert phase["closed"] == 0
        assert phase["event_bytes"] >= 600
    assert found["many_to_one"]["deliveries_per_s"] > 0


def test_latency_takes_every_delivery() -> None:
    """No delivery goes without its latency; two workers share the connections."""
    found = bench(
        *("latency", "--subscribers", "4", "--rate", "40", "--seconds", "1", "--warm", "0.3", "--workers", "2")
    )
    assert found["samples"] == found["delivered"] > 0
    assert found["workers"] == 2


def test_connections_cost_memory() -> None:
    """All connect and stay."""
    found = bench("connections", "--count", "60")
    assert (found["connections"], found["closed"]) == (60, 0)
    assert found["resident_mib"] > 0


def test_publish_goes_both_ways() -> None:
    """Batches over HTTP, frames over WebSockets."""
    found = bench("publish", "--seconds", "0.3", "--connections", "2", "--batch", "10", "--event-bytes", "900")
    assert found["event_bytes"] == 900
    assert found["http"]["published"] % 10 == 0
    assert found["http"]["published"] > 0
    assert found["websocket"]["published"] % found["websocket"]["burst"] == 0
    assert found["websocket"]["published"] > 0


def test_lone_publishes_are_timed() -> None:
    """One at a time, both ways."""
    found = bench("publish", "--lone", "--seconds", "0.3")
    assert found["http"]["published"] > 0
    assert found["websocket"]["published"] > 0
    assert found["http"]["p50_ms"] > 0


def test_consumers_work_off_everything() -> None:
    """The `StreamConsumer`, and FastStream beside it, are given the same events."""
    found = bench("consume", "--events", "300", "--beside", str(FASTSTREAM))
    assert found["stream_consumer"]["consumed"] == 300
    assert found["faststream_consume"]["consumed"] == 300
    assert found["to_faststream_consume"] > 0


def test_archiving_is_measured_on_a_full_log() -> None:
    """Every event that waited is archived."""
    found = bench("archive", "--events", "3000")
    assert found["events"] == 3000
    assert found["archived_per_s"] > 0
    assert found["bytes_an_event"] > 600


def test_a_publisher_is_timed_beside_the_archiver() -> None:
    """With and without, in turns."""
    command = [sys.executable, "-m", "hub.cli.main", "bench", "archive", "--beside", "50", "--seconds", "0.3"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    found = json.loads(done.stdout)
    assert found["bench"] == "archive_beside"
    assert found["p99_ratio"] > 0
    assert [len(one) for one in found["every_p99_ms"].values()] == [3, 3]


def test_a_subscriber_catches_up_over_archive_and_stream() -> None:
    """From the earliest on, with half of it in the archive alone: everything once, in order, without a gap."""
    found = bench("catch-up", "--events", "4000", "--subscribers", "3", "--rate", "20", "--seconds", "0.5")
    for reader in (found["alone"], found["beside_live_subscribers"]):
        assert reader["events"] >= 4000
        assert (reader["gaps"], reader["out_of_order"]) == (0, 0)


def test_a_small_hotel_is_looked_up_among_large_ones() -> None:
    """Trace, history and snapshot answer."""
    found = bench("lookups", "--events", "10000", "--times", "10")
    assert found["of_the_small_hotel"] > 0
    assert all(found[name]["p95_ms"] > 0 for name in ("trace", "entity_history", "snapshot"))


def test_a_replay_is_measured() -> None:
    """Into a file, whole; and at ten times the recorded speed."""
    found = bench("replay", "--events", "2000", "--paced", "2")
    assert found["events"] == 2000
    assert found["at_ten_times"]["events"] > 100


def test_a_hub_at_an_address_is_measured_from_outside() -> None:
    """Its load takes the tenants of the token; its memory and processors are not known."""
    with target(None, None) as hub:
        url = f"http://{hub.host}:{hub.port}"
        found = bench(
            *("latency", "--subscribers", "3", "--rate", "40", "--seconds", "0.5", "--warm", "0.2"),
            *("--url", url, "--token", hub.token),
        )
    assert found["samples"] == found["delivered"] > 0
    assert found["hub_processors"] is None


def test_a_hub_at_an_address_needs_a_token() -> None:
    """The error says what is missing; nothing is printed on standard output."""
    command = [sys.executable, "-m", "hub.cli.main", "bench", "fanout", "--url", "http://127.0.0.1:1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "--token" in done.stderr
