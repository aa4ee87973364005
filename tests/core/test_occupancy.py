"""Who is in which room, by the events."""

from __future__ import annotations

from hub.core.occupancy import Occupancy

IN = {"actual_checkin_time": "2026-07-15T15:00:00+09:00", "room_number": "301"}


def rooms(stays: Occupancy, room: str = "301") -> list[str]:
    """The reservations in a room."""
    return [stay.reservation for stay in stays.of(room)]


def test_guests_arrive_and_leave() -> None:
    """A stay is open from its check-in to its check-out, and is known with the event and its maker."""
    stays = Occupancy()
    stays.add("checkin_checkout", "checked_in", "reservation:R1", IN, 7, "desk-1")
    assert stays.of("301") == [("reservation:R1", "301", 7, "desk-1")]
    stays.add("checkin_checkout", "checked_out", "reservation:R1", IN, 8, "desk-1")
    assert (rooms(stays), len(stays)) == ([], 0)


def test_a_guest_who_moves_leaves_the_old_room() -> None:
    """A reservation that names another room takes its guest there; a second check-in does too."""
    stays = Occupancy()
    stays.add("checkin_checkout", "checked_in", "reservation:R1", IN, 1, "desk-1")
    stays.add("reservation", "updated", "reservation:R1", {"room_number": "302", "status": "checked_in"}, 2, "desk-1")
    assert (rooms(stays), rooms(stays, "302")) == ([], ["reservation:R1"])
    stays.add("checkin_checkout", "checked_in", "reservation:R1", IN, 3, "desk-1")
    assert (rooms(stays), rooms(stays, "302")) == (["reservation:R1"], [])


def test_a_check_in_that_is_undone_frees_the_room() -> None:
    """A reservation that was in house and no longer says so has left; an edit that never said so has not."""
    stays = Occupancy()
    stays.add("checkin_checkout", "checked_in", "reservation:R1", IN, 1, "desk-1")
    stays.add("reservation", "updated", "reservation:R1", {"status": "confirmed"}, 2, "desk-1")
    assert rooms(stays) == ["reservation:R1"]
    stays.add("reservation", "checked_in", "reservation:R1", {"status": "checked_in"}, 3, "desk-1")
    stays.add("reservation", "updated", "reservation:R1", {"status": "confirmed"}, 4, "desk-1")
    assert rooms(stays) == []


def test_stays_are_taken_up_from_their_states() -> None:
    """At the beginning a stay may be open that did not end, unless its booking is over; its events say more."""
    stays = Occupancy()
    stays.begin("reservation:R1", IN, {"status": "checked_in"}, 3)
    stays.begin("reservation:R2", IN | {"actual_checkout_time": "2026-07-16T10:00:00+09:00"}, {}, 4)
    stays.begin("reservation:R3", IN, {"status": "checked_out"}, 5)
    stays.begin("reservation:R4", {"room_number": "301"}, {}, 6)
    assert rooms(stays) == ["reservation:R1", "reservation:R4"]
    events = Occupancy()
    events.add("checkin_checkout", "checked_in", "reservation:R1", IN, 2, "desk-1")
    stays.replace("reservation:R1", events)
    stays.replace("reservation:R4", events)
    assert stays.of("301") == [("reservation:R1", "301", 2, "desk-1")]
    stays.add("checkin_checkout", "checked_in", "reservation:R5", IN, 9, "desk-2")
    assert rooms(stays) == ["reservation:R1", "reservation:R5"]
