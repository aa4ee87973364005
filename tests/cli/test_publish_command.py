"""`hub publish`: one event, a file of them, and what is said of each."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from hub_process import ROOM, HubProcess, room_event

from hub.cli.remote import Refused, Unreachable
from hub.cli.resend import Resender

ID = "3b8cf3c1-0b8e-4d6a-9d1a-6c7e0d6f0001"


def lines(*events: Any) -> str:
    """Events one a line; text as it is."""
    return "".join(f"{one if isinstance(one, str) else json.dumps(one)}\n" for one in events)


def stored(hub: HubProcess, tenant: str) -> list[dict[str, Any]]:
    """The events of a tenant."""
    done = hub.call("events", "--tenant", tenant, "--all", "--json")
    return [json.loads(line)["event"] for line in done.stdout.splitlines()]


def test_one_event_is_published_and_its_receipt_printed(hub: HubProcess) -> None:
    """The options stand in the event; the same id again is a duplicate with the first receipt."""
    arguments = ["publish", "room.status_changed", "--tenant", "one", "--event-id", ID, "--priority", "MEDIUM"]
    arguments += ["--occurred-at", "2026-07-15T10:00:00+09:00", "--correlation-id", "C1", "--causation-id", "C0"]
    arguments += ["--target", "hotel-pms", "--expected-revision", "0", "--schema-version", "1", "--system", "hotel-pms"]
    receipt = hub.json(*arguments, "--data", json.dumps(ROOM))
    again = hub.call(*arguments, "--data", "-")

    assert (receipt["event_id"], receipt["sequence"], receipt["revision"], receipt["duplicate"]) == (ID, 1, 1, False)
    assert again.returncode == 1  # stdin was empty
    again = hub.call(*arguments, "--data", "-", input=json.dumps(ROOM))
    assert again.stdout.split("\t") == [ID, "1", "1", receipt["cursor"], "true\n"]
    [event] = stored(hub, "one")
    assert event["occurred_at"] == "2026-07-15T10:00:00+09:00"
    assert (event["correlation_id"], event["causation_id"], event["targets"]) == ("C1", "C0", ["hotel-pms"])
    assert (event["priority"], event["data"]["updated_by_system"]) == ("MEDIUM", "hotel-pms")


def test_data_comes_from_a_file_and_the_default_tenant_is_named(hub: HubProcess, tmp_path: Path) -> None:
    """`--data @FILE`; without --tenant the event goes to the tenant `default`."""
    (tmp_path / "room.json").write_text(json.dumps(ROOM | {"room_id": "from-file"}))

    done = hub.call("publish", "room.status_changed", "--data", f"@{tmp_path / 'room.json'}")

    assert done.returncode == 0, done.stderr
    assert "room:from-file" in {event["entity"] for event in stored(hub, "default")}


@pytest.mark.parametrize(
    ("data", "options", "said"),
    [
        ("{", [], "the data is not acceptable JSON"),
        ('{"a": 1, "a": 2}', [], "the key stands twice"),
        ("@no-such-file", [], "no-such-file cannot be read: No such file or directory"),
        ("{}", [], "data.room_id: Field required; data.room_number: Field required"),
        (json.dumps(ROOM), ["--expected-revision", "7"], 'the latest is {"revision":0,"data":null}'),
        (json.dumps(ROOM), ["--event-id", "7"], "event_id: "),
        (json.dumps(ROOM), ["--system", "hotel-saas"], "only hotel-pms publishes room.status_changed"),
    ],
)
def test_what_is_wrong_with_an_event_is_told(data: str, options: list[str], said: str, hub: HubProcess) -> None:
    """Every field of it, on stderr, with code 1."""
    done = hub.call("publish", "room.status_changed", "--tenant", "wrong", "--data", data, *options)

    assert (done.returncode, done.stdout) == (1, "")
    assert said in done.stderr
    assert stored(hub, "wrong") == []


def test_a_file_is_published_line_by_line(hub: HubProcess, tmp_path: Path) -> None:
    """What is good is stored in order; what is not is told with its line, and the code is 1."""
    path = tmp_path / "events.jsonl"
    priced = room_event(3, "file")
    priced["data"]["base_price"] = 1234567890.1234
    good = [room_event(1, "file"), room_event(2, "file") | {"event_id": None}, priced]
    text = "\ufeff" + lines(good[0], "", "{", good[1], "[]", room_event(9, "file") | {"type": "rom"}, good[2])
    path.write_text(text, encoding="utf-8")

    done = hub.call("publish", "--file", str(path))

    assert done.returncode == 1
    assert len(done.stdout.splitlines()) == 3
    said = done.stderr.splitlines()
    assert [line.partition(":")[0] for line in said[:3]] == ["line 3", "line 5", "line 6"]
    assert "'rom' is not an event type" in said[2]
    assert said[3] == "3 events were not published, 3 were"
    found = stored(hub, "file")
    assert [event["entity"] for event in found] == ["room:r1", "room:r2", "room:r3"]
    assert found[2]["data"]["base_price"] == 1234567890.1234


def test_a_long_file_goes_in_batches_and_keeps_its_order(hub: HubProcess) -> None:
    """More events than a batch holds; all of them fit the limit, in number and in bytes."""
    long_note = "x" * 3000
    events = [room_event(number, "long") for number in range(1201)]
    for event in events[:600]:
        event["data"]["maintenance_notes"] = long_note

    done = hub.call("publish", "--file", "-", input=lines(*events))

    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1201
    assert [event["entity"] for event in stored(hub, "long")] == [f"room:r{number}" for number in range(1201)]


def test_a_tenant_option_fills_in_what_the_lines_leave_open(hub: HubProcess) -> None:
    """A line's own tenant stands."""
    own = room_event(1, "own")
    open_ = {key: value for key, value in room_event(2).items() if key != "tenant_id"}

    done = hub.call("publish", "--file", "-", "--tenant", "filled", input=lines(own, open_))

    assert done.returncode == 0, done.stderr
    assert [event["entity"] for event in stored(hub, "filled")] == ["room:r2"]
    assert [event["entity"] for event in stored(hub, "own")] == ["room:r1"]


def scripted(*outcomes: Any) -> Callable[[], Awaitable[Any]]:
    """A request with these outcomes, one after the other."""
    left = list(outcomes)

    async def send() -> Any:
        outcome = left.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    return send


BUSY = {"code": "overloaded", "detail": "busy", "retryable": True}
AWAY = Unreachable("http://hub", "gone", sent=True)


class TestResender:
    """Requests that are safe to repeat are repeated, as long as that can help."""

    async def test_it_goes_on_over_losses_and_refusals_that_pass(self) -> None:
        """A lost connection, a busy hub, an item that failed for now: the last answer counts."""
        said: list[str] = []
        good = {"receipts": [{"sequence": 1}]}
        send = scripted(AWAY, Refused(BUSY), {"receipts": [{"problem": BUSY}]}, good)

        assert await Resender(said.append)(send) == good
        assert said == [f"trying again: {AWAY.message}"]

    async def test_a_hub_that_was_never_there_is_not_waited_for(self) -> None:
        """The first refused connection ends it; after an answer it does not."""
        never = Unreachable("http://hub", "refused")
        with pytest.raises(Unreachable):
            await Resender()(scripted(never))

        resend = Resender()
        await resend(scripted({}))
        assert await resend(scripted(never, {"a": 1})) == {"a": 1}

    async def test_a_refusal_that_stands_ends_it(self) -> None:
        """What a retry cannot cure is not retried."""
        with pytest.raises(Refused, match="no scope"):
            await Resender()(scripted(Refused({"code": "forbidden", "detail": "no scope", "retryable": False})))

    async def test_patience_ends(self) -> None:
        """With the last failure, or with the answer whose items failed."""
        with pytest.raises(Unreachable):
            await Resender(patience_s=0)(scripted(AWAY))
        partly = {"receipts": [{"problem": BUSY}]}
        assert await Resender(patience_s=0)(scripted(partly)) == partly
