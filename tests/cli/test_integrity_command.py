"""`hub integrity`: what comparisons found, and one made now."""

from __future__ import annotations

import sqlite3
from typing import Any

import pytest
from hub_process import HubProcess, eventually

from hub.cli import integrity
from hub.cli.remote import Remote


def row(done: Any) -> dict[str, str]:
    """The first line below a table's head."""
    head, first, *_ = (line.split("\t") for line in done.stdout.splitlines())
    return dict(zip(head, first, strict=True))


def projected(hub: HubProcess, entity: str) -> bool:
    """Whether an entity's state is stored."""
    with sqlite3.connect(hub.directory / "data" / "store.db") as store:
        return bool(store.execute("SELECT 1 FROM entities WHERE entity = ?", (entity,)).fetchone())


def test_a_comparison_is_made_and_shown(hub: HubProcess) -> None:
    """Equal, with exit code 0; the run is listed then, as a table and as JSON."""
    hub.publish(range(9001, 9003), "whole")
    eventually(lambda: projected(hub, "room:r9002"))
    made = hub.call("integrity", "run", "--tenant", "whole")
    assert made.returncode == 0, made.stderr
    told = row(made)
    assert (told["tenant"], told["kind"], told["result"], told["compared"], told["found"]) == (
        "whole",
        "daily",
        "equal",
        "2",
        "",
    )

    listed = hub.call("integrity", "show", "--tenant", "whole")
    assert row(listed) == told
    found = hub.json("integrity", "show", "--tenant", "whole", "--kind", "daily")
    assert [(one["tenant_id"], one["ok"]) for one in found["daily"]] == [("whole", True)]
    assert found["weekly"] == []


def test_what_differs_is_said_and_is_a_failure(hub: HubProcess) -> None:
    """With exit code 1, for whoever runs it from a script."""
    hub.publish(range(9101, 9102), "changed")
    eventually(lambda: projected(hub, "room:r9101"))
    with sqlite3.connect(hub.directory / "data" / "store.db", timeout=30) as store:
        store.execute("UPDATE entities SET revision = 9 WHERE entity = 'room:r9101'")
    made = hub.call("integrity", "run", "--tenant", "changed")
    assert made.returncode == 1
    assert row(made)["result"] == "unequal"
    assert "room room:r9101: its revision is another" in row(made)["found"]


def test_wrong_use(hub: HubProcess) -> None:
    """Said with the fix."""
    unknown = hub.call("integrity", "show", "--kind", "hourly")
    assert (unknown.returncode, unknown.stderr) == (2, "error: there is no kind hourly. One of: daily, weekly.\n")
    missing = hub.call("integrity", "run", "--tenant", "nowhere")
    assert missing.returncode == 1
    assert "there is no tenant nowhere" in missing.stderr


def test_a_long_comparison_is_waited_for(hub: HubProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub says that it goes on; the command says how far it is, and asks again."""
    run = {"day": "2026-07-14", "tenant_id": "t-1", "kind": "daily", "ok": True, "made_at": "2026-07-15T00:00:00Z"}
    answers = [{"running": True, "chain_events": 5, "states": 2}, run | {"states": {"compared": 7}}]

    async def post(*_: Any) -> Any:
        return answers.pop(0)

    monkeypatch.setattr(Remote, "post", post)
    done = hub.call("integrity", "run", "--tenant", "t-1")
    assert row(done)["compared"] == "7"
    assert "compared so far: 5 events of the history, 2 states" in done.stderr


def test_devices_that_should_be_looked_at_are_listed(hub: HubProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """Below the runs; weekly ones say what was out of the ordinary, and failed ones that they failed."""
    device = {"device_id": "desk-1", "tenant_id": "t-1", "state": "late", "backlog": 4, "warnings": ["unequal"]}
    device |= {"compared_at": "2026-07-15T00:00:00Z", "equal": False}
    fine = device | {"device_id": "desk-2", "equal": True, "warnings": []}
    run = {"day": "2026-07-12", "tenant_id": "t-1", "kind": "weekly", "ok": False, "made_at": "2026-07-15T00:00:00Z"}
    failed = run | {"kind": "daily", "findings": [{"what": "failed", "words": "it could not be made: odd"}]}
    weekly = run | {"weeks": 8, "anomalies": [{"words": "events 0"}]}

    async def get(*_: Any, **__: Any) -> Any:
        return {"daily": [failed], "weekly": [weekly], "devices": [device, fine]}

    monkeypatch.setattr(Remote, "get", get)
    shown = hub.call("integrity", "show")
    lines = [line.split("\t") for line in shown.stdout.splitlines()]
    assert [line[3] for line in lines[1:3]] == ["failed", "unusual"]
    assert [line[-1] for line in lines[1:3]] == ["it could not be made: odd", "events 0"]
    assert lines[4] == list(integrity.DEVICE_COLUMNS)
    assert [line[0] for line in lines[5:]] == ["desk-1"]
    assert lines[5][4:] == ["no", "4", "unequal"]
