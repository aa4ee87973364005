"""`hub events`: what is in the log."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hub_process import ROOM, HubProcess

from hub.cli.remote import Remote


@pytest.fixture(scope="module")
def listed(hub: HubProcess) -> HubProcess:
    """A hub with 1,100 events of a tenant `listed`."""
    for start in range(0, 1100, 100):
        hub.publish(range(start, start + 100), "listed")
    return hub


def sequences(hub: HubProcess, *options: str) -> list[int]:
    """Of the listed events."""
    done = hub.call("events", "--tenant", "listed", "--json", *options)
    assert done.returncode == 0, done.stderr
    return [json.loads(line)["sequence"] for line in done.stdout.splitlines()]


def test_a_listing_has_a_limit_and_says_how_to_go_on(listed: HubProcess) -> None:
    """A hundred by default; the cursor for more stands on stderr."""
    done = listed.call("events", "--tenant", "listed", "--json")

    assert len(done.stdout.splitlines()) == 100
    assert done.stderr.startswith("100 events; more may follow with --after ")
    cursor = done.stderr.split("--after ")[1].split(",")[0]
    assert sequences(listed, "--after", cursor, "--limit", "2") == [101, 102]


def test_all_goes_over_every_page(listed: HubProcess) -> None:
    """More events than a page may have, each once."""
    assert sequences(listed, "--all") == list(range(1, 1101))
    assert sequences(listed, "--limit", "1050") == list(range(1, 1051))


def test_filters_are_passed_on(listed: HubProcess) -> None:
    """Entity, pattern and times; a rare pattern's empty pages do not end the listing."""
    assert sequences(listed, "--entity", "room:r7") == [8]
    assert sequences(listed, "--pattern", "reservation.*", "--all") == []
    assert sequences(listed, "--pattern", "room.*", "--pattern", "reservation.*", "--limit", "1") == [1]
    assert sequences(listed, "--from", "2100-01-01T00:00:00Z") == []
    assert sequences(listed, "--to", "2000-01-01T00:00:00Z") == []
    assert sequences(listed, "--after", "latest") == []
    assert listed.call("events", "--from", "yesterday").returncode == 1


def test_a_page_without_events_is_not_the_end(hub: HubProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub looks for a rare pattern in stretches: the listing ends where the cursor does not move on."""
    found = {"cursor": "c3", "sequence": 3, "event": {}}
    pages = [
        {"events": [], "next": "c1"},
        {"events": [], "next": "c2"},
        {"events": [found], "next": "c3"},
        {"events": [], "next": "c3"},
    ]
    asked = []

    async def get(_: Remote, path: str, **query: Any) -> Any:
        asked.append((path, query["after"]))
        return pages.pop(0)

    monkeypatch.setattr(Remote, "get", get)

    assert json.loads(hub.call("events", "--pattern", "alert.raised", "--json").stdout) == found
    assert asked == [("events", after) for after in (None, "c1", "c2", "c3")]


def test_lines_are_tab_separated_where_no_terminal_is(listed: HubProcess) -> None:
    """Nine columns, the data as JSON last."""
    fields = listed.call("events", "--tenant", "listed", "--limit", "1").stdout.rstrip("\n").split("\t")

    assert len(fields) == 9
    assert fields[1:6:2] == ["listed", "room.status_changed", "1"]
    assert json.loads(fields[8]).items() >= (ROOM | {"room_id": "r0", "room_number": "0"}).items()


def test_one_event_is_found_by_its_id(listed: HubProcess) -> None:
    """As JSON; one that is not there is an error."""
    first = json.loads(listed.call("events", "--tenant", "listed", "--limit", "1", "--json").stdout)
    event_id = first["event"]["event_id"]

    assert json.loads(listed.call("events", "get", event_id, "--tenant", "listed").stdout) == first
    missing = listed.call("events", "get", "3b8cf3c1-0b8e-4d6a-9d1a-6c7e0d6f0099", "--tenant", "listed")
    assert missing.returncode == 1
    assert "there is no event" in missing.stderr


@pytest.mark.parametrize("command", [("events", "get"), ("trace",)])
@pytest.mark.parametrize("id", ["../tenants", "..", "a?tenant=listed", "a#b", "a/b", "%2e%2e"])
def test_an_id_is_nothing_but_an_id(listed: HubProcess, command: tuple[str, ...], id: str) -> None:
    """Whatever it holds, it does not lead to another route or add a parameter."""
    done = listed.call(*command, id)
    assert (done.returncode, done.stdout) == (1, "")
    assert (f"there is no event {id}" if "/" not in id else "there is no such route") in done.stderr
