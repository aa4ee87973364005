"""`hub conflicts`: shown field by field, and resolved."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest
from hub_process import HubProcess
from offline_desk import conflict

from hub.cli.conflicts import FIELDS
from hub.cli.remote import Remote


def lines(done: subprocess.CompletedProcess[str]) -> list[list[str]]:
    """A table's lines."""
    assert done.returncode == 0, done.stderr
    return [line.split("\t") for line in done.stdout.splitlines()]


def test_a_conflict_is_listed_shown_and_resolved(hub: HubProcess) -> None:
    """With what everybody said; then it is no longer among the open ones."""
    conflict_id = conflict(hub, "shown")
    head, row = lines(hub.call("conflicts", "list", "--tenant", "shown"))
    told = dict(zip(head, row, strict=True))
    assert (told["entity"], told["model"], told["device"]) == ("reservation:R2", "CheckIn", "desk-2")
    assert (told["state"], told["policy"], told["conflict id"]) == ("open", "manual", conflict_id)
    [listed] = hub.call("conflicts", "list", "--tenant", "shown", "--json").stdout.splitlines()
    assert json.loads(listed)["conflict_id"] == conflict_id

    shown = lines(hub.call("conflicts", "show", conflict_id))
    assert shown[1] == row
    assert "room 301 was given to reservation:R1" in shown[2][0]
    assert tuple(shown[4]) == FIELDS
    [room] = [dict(zip(FIELDS, line, strict=True)) for line in shown[5:] if line[0] == "room_number"]
    assert (room["incoming"], room["device"], room["present"]) == ("301", "desk-2", "")
    assert hub.json("conflicts", "show", conflict_id)["operation"] == "CREATE"

    done = hub.json("conflicts", "resolve", conflict_id, "--set", "room_number=302", "--reason", "she moved")
    assert (done["resolved"]["choice"], done["resolved"]["data"]) == ("edited", {"room_number": "302"})
    assert done["resolved"]["reason"] == "she moved"
    assert lines(hub.call("conflicts", "list", "--tenant", "shown"))[1:] == []
    [_, row] = lines(hub.call("conflicts", "list", "--tenant", "shown", "--state", "resolved"))
    assert dict(zip(head, row, strict=True))["decided"] == "edited by hub-cli (hub)"

    late = hub.call("conflicts", "resolve", conflict_id, "--take", "current")
    assert (late.returncode, late.stdout) == (1, "")
    assert "the conflict was resolved by hub-cli (hub) (edited)" in late.stderr
    assert "revision" not in late.stderr


def test_one_side_is_taken(hub: HubProcess) -> None:
    """As a table, too."""
    head, row = lines(hub.call("conflicts", "resolve", conflict(hub, "taken"), "--take", "incoming"))
    assert dict(zip(head, row, strict=True))["decided"] == "incoming by hub-cli (hub)"


def test_fields_are_set_beside_what_stays(hub: HubProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """With --take current the contested fields that are not named keep their present values; a value is a text where
    the field is one, else JSON, or what stands there."""
    posted: list[Any] = []
    fields = [
        {"field": "a", "contested": True, "present": 1},
        {"field": "b", "contested": True, "present": 2},
        {"field": "c", "contested": False, "present": None, "incoming": "301"},
    ]

    async def get(*_: Any, **__: Any) -> Any:
        return {"fields": fields}

    async def post(_: Remote, path: str, body: Any) -> Any:
        posted.append((path, body))
        return {}

    monkeypatch.setattr(Remote, "get", get)
    monkeypatch.setattr(Remote, "post", post)
    hub.json("conflicts", "resolve", "c-1", "--take", "current", "--set", "b=7", "--set", "d=2=two")
    hub.json("conflicts", "resolve", "c-1", "--set", "b=null", "--set", "c=302", "--reason", "r")

    assert posted == [
        ("conflicts/c-1/resolve", {"choice": "edited", "reason": None, "data": {"a": 1, "b": 7, "d": "2=two"}}),
        ("conflicts/c-1/resolve", {"choice": "edited", "reason": "r", "data": {"b": None, "c": "302"}}),
    ]


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (("resolve", "x"), 2, "who is right?"),
        (("resolve", "x", "--set", "room"), 2, "Write it like --set room_number=302"),
        (("resolve", "x", "--set", "=1"), 2, "Write it like"),
        (("resolve", "x", "--take", "both"), 2, "--take"),
        (("resolve", "x", "--take", "incoming"), 1, "there is no conflict x"),
        (("show", "x"), 1, "there is no conflict x"),
        (("list", "--entity", "R1"), 1, "entity: must be an entity"),
    ],
)
def test_what_is_wrong_is_told(options: tuple[str, ...], code: int, said: str, hub: HubProcess) -> None:
    """On stderr alone, with the exit code for it."""
    done = hub.call("conflicts", *options)

    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
