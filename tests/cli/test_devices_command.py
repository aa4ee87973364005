"""`hub devices`: how devices that work offline are, and asking them to sync."""

from __future__ import annotations

import json
import subprocess

import pytest
from hub_process import HubProcess
from offline_desk import BOOKING, push


def lines(done: subprocess.CompletedProcess[str]) -> list[list[str]]:
    """A table's lines."""
    assert done.returncode == 0, done.stderr
    return [line.split("\t") for line in done.stdout.splitlines()]


def test_devices_are_listed_shown_and_asked(hub: HubProcess) -> None:
    """As a table and as JSON; with the history of one; the request is seen until the device has pulled."""
    push(hub, "fleet", "desk/1", ("Reservation", "R1", BOOKING), ("Reservation", "R2", BOOKING))
    push(hub, "fleet", "desk-2", ("Reservation", "R3", BOOKING))

    head, *rows = lines(hub.call("devices", "list", "--tenant", "fleet"))
    assert [row[0] for row in rows] == ["desk-2", "desk/1"]
    told = dict(zip(head, rows[1], strict=True))
    assert (told["tenant"], told["system"], told["state"], told["warnings"]) == ("fleet", "hotel-pms", "online", "")
    assert (told["backlog"], told["behind"], told["asked"]) == ("0", "", "")
    listed = hub.call("devices", "list", "--tenant", "fleet", "--system", "hotel-pms", "--json").stdout.splitlines()
    assert [json.loads(line)["device_id"] for line in listed] == ["desk-2", "desk/1"]

    shown = lines(hub.call("devices", "show", "desk/1", "--tenant", "fleet"))
    assert shown[1] == rows[1]
    history = dict(zip(shown[3], shown[4], strict=True))
    assert (history["kind"], history["items"], history["outcomes"]) == ("push", "2", "2 applied")
    assert hub.json("devices", "show", "desk/1")["device_sequence"] == 2

    asked = hub.call("devices", "sync", "desk/1", "--tenant", "fleet")
    assert (asked.returncode, asked.stdout) == (0, "1 devices of fleet are asked to sync\n")
    assert hub.json("devices", "sync", "--all", "--tenant", "fleet")["requested"] == ["desk-2", "desk/1"]
    assert all(row[-1] for row in lines(hub.call("devices", "list", "--tenant", "fleet"))[1:])
    few = hub.call("devices", "list", "--tenant", "fleet", "--limit", "1")
    assert "there are more: raise --limit" in few.stderr


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (("sync",), 2, "which device?"),
        (("sync", "desk-1", "--all"), 2, "which device?"),
        (("sync", "--all"), 1, "tenant: is missing"),
        (("sync", "nobody"), 1, "there is no device nobody"),
        (("show", "nobody"), 1, "there is no device nobody"),
        (("show", ".."), 1, "there is no device .."),
        (("list", "--system", "PMS"), 1, "system: must be the name of a system"),
    ],
)
def test_what_is_wrong_is_told(options: tuple[str, ...], code: int, said: str, hub: HubProcess) -> None:
    """On stderr alone, with the exit code for it."""
    done = hub.call("devices", *options)

    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
