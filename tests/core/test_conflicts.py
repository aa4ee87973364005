"""What becomes of operations that were made without knowing of each other."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hub.core.conflicts import Decision, Registers, Write, simple
from hub.core.versions import includes
from schemas.state import merged

FIELDS = ("guest_name", "adults", "status", "special_requests")


def write(
    actor: str,
    said: Mapping[str, Any],
    base: Mapping[str, int] | None,
    *,
    type: str = "reservation",
    action: str = "updated",
    at: int = 0,
    system: str = "hotel-pms",
    id: str = "",
    deletes: bool = False,
    undoes: bool = False,
) -> Write:
    """One operation."""
    return Write(actor, system, type, action, at, id or f"{actor}{at}", said, base, deletes, undoes=undoes)


class House:
    """An entity as the hub holds it: items go in one by one."""

    def __init__(self, *history: Write) -> None:
        self.history: list[Write] = []
        self.registers: Registers | None = None
        self.version: dict[str, int] = {}
        self.state: dict[str, Any] = {}
        self.deleted = False
        for one in history:
            self._keep(one, one.said)

    def _keep(self, one: Write, fields: Mapping[str, Any]) -> None:
        self.history.append(one)
        if self.registers is not None:
            self.registers.add(one)
        self.version[one.actor] = self.version.get(one.actor, 0) + 1
        self.state = merged(self.state, fields)

    def take(self, item: Write) -> Decision:
        """What the syncer does with an item, in memory."""
        assert item.base is not None
        if includes(item.base, self.version):
            decision = simple(item, self.state)
            self.deleted = decision.deleted
        else:
            if self.registers is None:
                self.registers = Registers(self.history, self.version)
            decision = self.registers.decide(item)
            # Kept up as it is read anew.
            assert decision == Registers(self.history, self.version).decide(item)
            self.deleted = decision.deleted
        if decision.outcome != "conflict":
            self._keep(item._replace(touched=decision.touched), decision.fields)
        return decision


CREATED = write("hotel-pms", {"guest_name": "Ito", "adults": 1, "status": "confirmed"}, None, action="created")


def test_what_nobody_else_changed_is_applied() -> None:
    """An item made on the newest version is applied as it is."""
    house = House(CREATED)
    decision = house.take(write("desk-1", {"adults": 2}, {"hotel-pms": 1}))
    assert (decision.outcome, house.state["adults"]) == ("applied", 2)


def test_fields_edited_apart_merge() -> None:
    """Two desks that edit different fields both have their way, and nobody is asked."""
    house = House(CREATED)
    house.take(write("desk-1", {"adults": 2}, {"hotel-pms": 1}))
    decision = house.take(write("desk-2", {"guest_name": "Itoh"}, {"hotel-pms": 1}))
    assert (decision.outcome, decision.policy, decision.winner, decision.contests) == ("resolved", "merge", "both", ())
    assert (house.state["adults"], house.state["guest_name"]) == (2, "Itoh")


def test_a_whole_payload_only_counts_for_what_it_changed() -> None:
    """A desk that sends the whole record does not put back what others changed of it meanwhile."""
    house = House(CREATED)
    house.take(write("desk-1", {"adults": 2}, {"hotel-pms": 1}))
    whole = {"guest_name": "Itoh", "adults": 1, "status": "confirmed"}
    decision = house.take(write("desk-2", whole, {"hotel-pms": 1}))
    assert decision.touched == {"guest_name"}
    assert (house.state["adults"], house.state["guest_name"]) == (2, "Itoh")


def test_the_authority_goes_before_a_newer_clock() -> None:
    """Of a reservation the front desk's edit stands against another system's later one (R74)."""
    house = House(CREATED)
    house.take(write("desk-1", {"adults": 2}, {"hotel-pms": 1}, at=10))
    decision = house.take(write("kiosk", {"adults": 3}, {"hotel-pms": 1}, at=20, system="hotel-saas"))
    assert (decision.outcome, decision.policy, decision.winner) == ("resolved", "system", "desk-1")
    assert house.state["adults"] == 2
    assert decision.contests[0][:4] == ("adults", 1, 2, 3)


@pytest.mark.parametrize(("late", "wins"), [(20, True), (5, False)])
def test_the_newer_of_two_room_states_stands(late: int, wins: bool) -> None:
    """Of a room the later time stands, whichever arrives last (R70)."""
    house = House(write("hotel-pms", {"status": "occupied"}, None, type="room"))
    house.take(write("desk-1", {"status": "vacant_dirty"}, {"hotel-pms": 1}, type="room", at=10))
    decision = house.take(write("desk-2", {"status": "cleaning"}, {"hotel-pms": 1}, type="room", at=late))
    assert decision.policy == "timestamp"
    assert house.state["status"] == ("cleaning" if wins else "vacant_dirty")
    assert decision.winner == ("desk-2" if wins else "desk-1")


def test_the_same_value_twice_is_no_contest() -> None:
    """Two that say the same agree."""
    house = House(CREATED)
    house.take(write("desk-1", {"adults": 2}, {"hotel-pms": 1}))
    assert house.take(write("desk-2", {"adults": 2}, {"hotel-pms": 1})).contests == ()


def test_a_deletion_stands_against_an_edit_that_came_before_it() -> None:
    """Who deletes overrules edits it did not know of, and they are named (R72)."""
    house = House(CREATED)
    house.take(write("desk-1", {"status": "confirmed", "adults": 2}, {"hotel-pms": 1}, at=90))
    decision = house.take(write("desk-2", {"status": "cancelled"}, {"hotel-pms": 1}, at=10, deletes=True))
    assert (decision.outcome, decision.policy, decision.overruled) == ("resolved", "delete_wins", ("desk-1",))
    assert house.deleted
    assert house.state["status"] == "cancelled"


def test_a_deletion_stands_against_an_edit_that_comes_after_it() -> None:
    """An edit by somebody who did not know of the deletion does not bring the entity back."""
    house = House(CREATED)
    house.take(write("desk-2", {"status": "cancelled"}, {"hotel-pms": 1}, at=10, deletes=True))
    decision = house.take(write("desk-1", {"status": "tentative", "adults": 2}, {"hotel-pms": 1}, at=90))
    assert (decision.policy, decision.winner, decision.deleted) == ("delete_wins", "desk-2", True)
    assert (house.state["status"], house.state["adults"]) == ("cancelled", 2)


def test_who_knows_of_a_deletion_may_take_it_back() -> None:
    """An edit made on the deleted entity brings it back, also against edits that did not know."""
    house = House(CREATED)
    house.take(write("desk-2", {"status": "cancelled"}, {"hotel-pms": 1}, at=10, deletes=True))
    house.take(write("desk-3", {"status": "confirmed"}, {"hotel-pms": 1, "desk-2": 1}, at=5))
    late = house.take(write("desk-1", {"status": "tentative"}, {"hotel-pms": 1}, at=90))
    assert not late.deleted
    assert house.state["status"] == "confirmed"


def test_points_add_up() -> None:
    """Points earned at two places at once both count; nobody wins."""
    house = House(
        write("hotel-member", {"name": "Ito", "total_points": 10}, None, type="customer", system="hotel-member")
    )
    for desk in ("desk-1", "desk-2"):
        said = {"points_delta": 5, "points_ledger_id": f"L-{desk}"}
        decision = house.take(write(desk, said, {"hotel-member": 1}, type="customer", action="points_changed"))
        assert decision.outcome != "conflict"
        assert decision.fields["points_delta"] == 5
        assert decision.contests == ()


def test_charges_add_up_and_settlements_are_seen_by_people() -> None:
    """Two charges on one folio both go through; a charge on a folio that was settled meanwhile waits for a person."""
    folio = {"type": "billing", "action": "charged"}
    house = House(write("hotel-pms", {"amount": 100}, None, **folio))
    first = house.take(write("desk-1", {"amount": 5, "charge_id": "a"}, {"hotel-pms": 1}, **folio))
    second = house.take(write("desk-2", {"amount": 7, "charge_id": "b"}, {"hotel-pms": 1}, **folio))
    assert (first.outcome, second.outcome, second.policy) == ("applied", "resolved", "additive")
    seen = {"hotel-pms": 1, "desk-1": 1, "desk-2": 1}
    house.take(write("desk-1", {"amount": 112}, seen, type="billing", action="settled"))
    late = house.take(write("desk-3", {"amount": 9, "charge_id": "c"}, seen, **folio))
    assert (late.outcome, late.policy) == ("conflict", "manual")
    assert "settled" in (late.reason or "")


def test_the_same_charge_from_two_desks_is_not_made_twice() -> None:
    """An order that two desks put on the folio is shown to a person, not charged twice (R105)."""
    folio = {"type": "billing", "action": "charged"}
    house = House(write("hotel-pms", {"amount": 100}, None, **folio))
    house.take(write("desk-1", {"amount": 5, "order_id": "O1"}, {"hotel-pms": 1}, **folio))
    again = house.take(write("desk-2", {"amount": 5, "order_id": "O1"}, {"hotel-pms": 1}, **folio))
    assert again.outcome == "conflict"
    assert "order_id" in (again.reason or "")


def test_two_rooms_for_one_guest_are_a_persons_to_decide() -> None:
    """Two desks that check one reservation into different rooms are not settled by a clock."""
    house = House(CREATED)
    stay = {"type": "checkin_checkout", "action": "checked_in"}
    house.take(write("desk-1", {"room_number": "301", "payment_status": "pending"}, {"hotel-pms": 1}, **stay))
    decision = house.take(
        write("desk-2", {"room_number": "302", "payment_status": "pending"}, {"hotel-pms": 1}, **stay)
    )
    assert decision.outcome == "conflict"
    assert decision.contests[0][:4] == ("room_number", None, "301", "302")


def test_a_guest_who_arrives_though_the_booking_was_cancelled_is_a_persons_to_decide() -> None:
    """A check-in beside a cancellation that the desk did not know of is neither dropped nor pushed through."""
    house = House(CREATED)
    house.take(write("app", {"status": "cancelled"}, {"hotel-pms": 1}, system="hotel-member", deletes=True))
    stay = {"room_number": "301", "payment_status": "pending"}
    decision = house.take(write("desk-1", stay, {"hotel-pms": 1}, type="checkin_checkout", action="checked_in"))
    assert (decision.outcome, decision.reason) == ("conflict", "the reservation was cancelled meanwhile")


@pytest.mark.parametrize("kept", ["cancelled", "undone"])
@pytest.mark.parametrize("first", ["stay", "booking"])
def test_what_happened_to_the_guest_and_what_takes_it_back_meet_at_a_person(kept: str, first: str) -> None:
    """A guest who leaves at one desk, and whose booking is cancelled or check-in undone at another: in any order."""
    house = House(CREATED)
    left = write("desk-1", {"room_number": "301"}, {"hotel-pms": 1}, type="checkin_checkout", action="checked_out")
    taken = {"deletes": True} if kept == "cancelled" else {"undoes": True}
    status = "cancelled" if kept == "cancelled" else "confirmed"
    back = write("desk-2", {"status": status}, {"hotel-pms": 1}, **taken)
    earlier, later = (left, back) if first == "stay" else (back, left)
    assert house.take(earlier).outcome == "applied"
    assert house.take(later).outcome == "conflict"


# -- whatever the order of arrival ------------------------------------------------------------------------------------


@st.composite
def operations(draw: st.DrawFn) -> tuple[str, list[Write]]:
    """Operations of several desks, each on what it had seen: its own, and of the others' what they had built on."""
    type = draw(st.sampled_from(["reservation", "room", "order"]))
    desks = [f"desk-{number}" for number in range(draw(st.integers(2, 4)))]
    seen: dict[str, dict[str, int]] = {desk: {"hotel-pms": 1} for desk in desks}
    made: list[Write] = []
    for number in range(draw(st.integers(2, 9))):
        desk = draw(st.sampled_from(desks))
        if draw(st.booleans()) and made:
            other = draw(st.sampled_from(made))
            # Somebody's operation is seen with everything that it was made on.
            past = dict(other.base or {})
            past[other.actor] = past.get(other.actor, 0) + 1
            for name, count in past.items():
                seen[desk][name] = max(seen[desk].get(name, 0), count)
        deletes = draw(st.integers(0, 5)) == 0
        said = (
            {"status": "cancelled"}
            if deletes
            else draw(st.dictionaries(st.sampled_from(FIELDS), st.integers(0, 3), min_size=1, max_size=3))
        )
        system = draw(st.sampled_from(["hotel-pms", "hotel-saas"]))
        made.append(
            Write(
                desk,
                system,
                type,
                "updated",
                draw(st.integers(0, 20)),
                f"{number:02d}",
                said,
                dict(seen[desk]),
                deletes,
            )
        )
        seen[desk][desk] = seen[desk].get(desk, 0) + 1
    return type, made


def arrival(made: Sequence[Write], chance: random.Random) -> list[Write]:
    """The operations in another order in which they may come: after what they were made on."""
    left, come, counts = list(made), list[Write](), {"hotel-pms": 1}
    while left:
        ready = [one for one in left if includes(counts, one.base or {})]
        one = chance.choice(ready)
        left.remove(one)
        come.append(one)
        counts[one.actor] = counts.get(one.actor, 0) + 1
    return come


def outcome(type: str, made: Sequence[Write]) -> tuple[dict[str, Any], bool]:
    """The entity after all of them."""
    house = House(write("hotel-pms", {"guest_name": 0, "adults": 0, "status": 0}, None, type=type, action="created"))
    for one in made:
        decision = house.take(one)
        assert decision.outcome != "conflict"
        # Nothing is lost silently: what does not stand is named, with the one that does.
        for contest in decision.contests:
            assert contest.wins or house.state[contest.field] == contest.current
    assert len(house.history) == len(made) + 1
    return house.state, house.deleted


@settings(max_examples=400)
@given(operations(), st.randoms(use_true_random=False))
def test_the_order_of_arrival_changes_nothing(drawn: tuple[str, list[Write]], chance: random.Random) -> None:
    """Whatever order the same operations come in, the entity ends up the same."""
    type, made = drawn
    first = outcome(type, made)
    for _ in range(3):
        assert outcome(type, arrival(made, chance)) == first


@settings(max_examples=200)
@given(operations())
def test_who_saw_everything_always_wins(drawn: tuple[str, list[Write]]) -> None:
    """An operation made with all others known stands, whatever the clocks and ranks say."""
    type, made = drawn
    house = House(write("hotel-pms", {"guest_name": 0, "adults": 0, "status": 0}, None, type=type, action="created"))
    for one in made:
        house.take(one)
    last = Write("desk-9", "hotel-saas", type, "updated", -5, "zz", {"adults": 77}, dict(house.version))
    assert house.take(last).outcome == "applied"
    assert house.state["adults"] == 77
