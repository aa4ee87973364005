"""`hub simulate`: a made-up day or real bookings, published once however often it runs."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from hub_process import HubProcess, ended, eventually, running_hub

from hub.core.booking_rows import COLUMNS

ROW = {
    "hotel": "City Hotel",
    "is_canceled": "0",
    "lead_time": "3",
    "arrival_date_year": "2016",
    "arrival_date_month": "July",
    "arrival_date_week_number": "28",
    "arrival_date_day_of_month": "10",
    "stays_in_weekend_nights": "0",
    "stays_in_week_nights": "2",
    "adults": "2",
    "children": "0",
    "babies": "0",
    "meal": "BB",
    "country": "PRT",
    "market_segment": "Direct",
    "distribution_channel": "Direct",
    "is_repeated_guest": "0",
    "previous_cancellations": "0",
    "previous_bookings_not_canceled": "0",
    "reserved_room_type": "A",
    "assigned_room_type": "A",
    "booking_changes": "0",
    "deposit_type": "No Deposit",
    "agent": "NULL",
    "company": "NULL",
    "days_in_waiting_list": "0",
    "customer_type": "Transient",
    "adr": "80.50",
    "required_car_parking_spaces": "0",
    "total_of_special_requests": "0",
    "reservation_status": "Check-Out",
    "reservation_status_date": "2016-07-12",
}


def bookings(path: Path, count: int) -> Path:
    """A file of good bookings in both hotels, with one bad row at its end."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
        writer.writeheader()
        for number in range(count):
            hotel = ("City Hotel", "Resort Hotel")[number % 2]
            writer.writerow(ROW | {"hotel": hotel, "adr": f"{80 + number}.5"})
        writer.writerow(ROW | {"adults": "0"})
    return path


def sequences(hub: HubProcess) -> dict[str, int]:
    """By tenant, how many events there are."""
    return {one["tenant_id"]: one["sequence"] for one in hub.json("tenants", "list")["tenants"]}


def test_a_day_is_added_once(hub: HubProcess) -> None:
    """The same seed and date a second time are all duplicates; each event is of its own system."""
    day = ("simulate", "--date", "2026-07-15", "--seed", "7", "--tenant", "simulated")
    first = hub.json(*day)["report"]
    second = hub.json(*day)["report"]

    assert first["added"] == first["sent"] > 50
    assert (first["duplicates"], first["refused"]) == (0, 0)
    assert (second["added"], second["duplicates"], second["refused"]) == (0, first["added"], 0)
    assert sequences(hub)["simulated"] == first["added"]
    events = hub.call("events", "--tenant", "simulated", "--all", "--json").stdout.splitlines()
    publishers = {json.loads(line)["event"]["data"]["updated_by_system"] for line in events}
    assert publishers == {"hotel-pms", "hotel-saas", "hotel-member"}


def test_real_bookings_are_added_once_and_bad_rows_told(tmp_path: Path) -> None:
    """The report says what was added, what was there, and which rows were refused and why."""
    path = bookings(tmp_path / "b.csv", 20)
    with running_hub(tmp_path) as hub:
        first = hub.json("simulate", "--bookings", str(path))
        second = hub.json("simulate", "--bookings", str(path))
        text = hub.call("simulate", "--bookings", str(path)).stdout
        there = sequences(hub)

    assert first["report"]["added"] == first["report"]["sent"] == sum(there.values())
    assert there.keys() == {"city-hotel", "resort-hotel"}
    assert (second["report"]["added"], second["report"]["duplicates"]) == (0, first["report"]["added"])
    assert first["bookings"]["rows"] == 21
    assert first["bookings"]["refused"] == {"no_guests": {"count": 1, "lines": [22]}}
    assert "refused no_guests: 1 (line 22)" in text
    assert f"0 added, {first['report']['added']} there already, 0 refused" in text


def test_days_and_limit_choose_among_the_bookings(tmp_path: Path, hub: HubProcess) -> None:
    """`--from` and `--to` are days of the hotels' calendar, both included."""
    path = str(bookings(tmp_path / "b.csv", 4))

    arrivals = hub.json("simulate", "--bookings", path, "--from", "2016-07-10", "--to", "2016-07-10")["report"]
    limited = hub.json("simulate", "--bookings", path, "--limit", "3")["report"]

    assert set(arrivals["types"]) == {
        "checkin_checkout.checked_in",
        "reservation.checked_in",
        "room.status_changed",
    }
    assert limited["types"] == {"reservation.created": 3}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--bookings", "nowhere.csv"], "No such file"),
        (["--bookings", "b.csv", "--seed", "1"], "are of the made-up day"),
        (["--bookings", "b.csv", "--from", "2016-07-02", "--to", "2016-07-01"], "--to is before --from"),
        (["--from", "2016-07-02"], "are days of --bookings"),
        (["--date", "tomorrow"], "Invalid value for '--date'"),
    ],
)
def test_what_cannot_be_played_is_told(options: list[str], said: str, hub: HubProcess) -> None:
    """An error of one line."""
    done = hub.call("simulate", *options)

    assert done.returncode in (1, 2)
    assert said in done.stderr
    assert "Traceback" not in done.stderr


async def test_a_hub_killed_meanwhile_gets_every_event_once(tmp_path: Path) -> None:
    """The simulation goes on when the hub is back: what was not answered is sent again with the same ids."""
    path = bookings(tmp_path / "b.csv", 3000)
    with running_hub(tmp_path) as hub:
        async with hub.command("simulate", "--bookings", str(path), "--json") as simulate:
            eventually(lambda: _published(hub) > 1000)
            hub.kill()
            hub.start()
            assert simulate.stdout is not None
            report: dict[str, Any] = json.loads(await simulate.stdout.read())["report"]
            assert await ended(simulate) == 0

        done = hub.run("tenants", "list", "--json")
        there = sum(one["sequence"] for one in json.loads(done.stdout)["tenants"])
        # An event stored just before the kill is told as there already.
        assert report["added"] + report["duplicates"] == report["sent"] == there
        assert report["refused"] == 0


def _published(hub: HubProcess) -> int:
    done = hub.run("tenants", "list", "--json")
    return sum(one["sequence"] for one in json.loads(done.stdout)["tenants"])
