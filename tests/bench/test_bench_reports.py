"""`hub bench reports` runs, with tiny numbers, and its figures hang together."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.process


def test_reports_are_measured_alone_and_beside_subscribers() -> None:
    """Facts, each kind of report, and what live subscribers notice."""
    live = ("--subscribers", "10", "--rate", "20", "--seconds", "1")
    command = [sys.executable, "-m", "hub.cli.main", "bench", "reports", "--events", "10000", "--times", "1", *live]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert 9_900 <= found["events"] <= 10_000
    assert found["facts_events_per_s"] > 0
    for kind in ("monthly_report", "weekly_report", "daily_report"):
        assert 0 < found[kind]["s"] <= found[kind]["at_most_s"]
    assert found["live"]["reports"] > 0
    assert found["live"]["live_beside_reports"]["p99_ms"] > 0
