"""Who sees conflicts, and that resolving one puts its item into the log exactly once."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

import pytest
from conflict_house import ANNA, ARRIVED, BOOKED, DEVICE, TENANT, ConflictHouse, person
from feed_rig import Rig, claims
from pydantic import ValidationError
from replay_desk import T0

from hub.services.announcer import Announcer
from hub.services.conflict_desk import ATTEMPTS, ResolveRequest
from hub.store.database import StoreUnavailable
from hub.store.sync_conflicts import ConflictFilter, SyncConflicts
from schemas.errors import Problem

BEN = person("ben")


@pytest.fixture
async def house(rig: Rig) -> ConflictHouse:
    """A log without events."""
    return ConflictHouse(rig)


async def refused(attempt: Any) -> Problem:
    """What an attempt ends with."""
    with pytest.raises(Problem) as caught:
        await attempt
    return caught.value


# -- what is decided ------------------------------------------------------------------------------------------------


async def test_incoming_is_what_the_desk_said(house: ConflictHouse) -> None:
    """As the event that the item would have been, made at the desk when it was; the item is settled with it."""
    conflict_id = await house.checked_in_twice()
    house.clock.now += 59
    done = await house.resolve(conflict_id, "incoming", reason="the guest moved")

    [entry] = await house.of(conflict_id)
    event = entry.event
    assert (entry.type, entry.action, entry.entity, entry.source) == (
        "checkin_checkout",
        "checked_in",
        "reservation:R1",
        "hub",
    )
    assert (event["device_id"], event["created_offline"], event["causation_id"]) == (DEVICE, True, conflict_id)
    assert (event["occurred_at"], event["data"]["origin_system"]) == ("2026-07-15T01:03:00.000Z", "hotel-pms")
    assert await house.state() == ARRIVED | {"room_number": "302", "payment_status": "completed"}

    assert (done["state"], done["resolving"]) == ("resolved", None)
    assert done["resolved"] == {
        "at": "2026-07-15T01:05:00.000Z",
        "by": "tests (hotel-pms)",
        "choice": "incoming",
        "data": None,
        "reason": "the guest moved",
        "winner": DEVICE,
        "revision": 3,
        "cursor": entry.cursor,
    }
    item = (await house.items.known(TENANT, [done["uuid"]]))[done["uuid"]]
    assert (item.outcome, item.policy, item.winner, item.revision, item.cursor) == (
        "resolved",
        "manual",
        DEVICE,
        3,
        entry.cursor,
    )
    assert item.touched == {"reservation_id", "room_number", "payment_status", "currency"}
    assert house.woken == [(TENANT, DEVICE)]
    assert house.counted("incoming") == 1
    assert house.rig.metrics.conflict_resolution_seconds._sum.get() == 60


async def test_current_leaves_everything_as_it_is(house: ConflictHouse) -> None:
    """And is in the log all the same: the last event of its type again, now, by the item's uuid."""
    conflict_id = await house.checked_in_twice()
    before = await house.state()
    done = await house.resolve(conflict_id, "current")

    [entry] = await house.of(conflict_id)
    assert (entry.type, entry.action, entry.revision) == ("checkin_checkout", "checked_in", 3)
    assert entry.event["device_id"] == DEVICE
    assert entry.event["occurred_at"] == entry.event["recorded_at"]
    assert await house.state() == before == ARRIVED
    assert (done["resolved"]["choice"], done["resolved"]["winner"]) == ("current", "hotel-pms")
    item = (await house.items.known(TENANT, [done["uuid"]]))[done["uuid"]]
    assert (item.outcome, item.touched) == ("resolved", frozenset())


async def test_current_says_again_what_was_said_last(house: ConflictHouse) -> None:
    """Not the item's own action: of a guest who never came nobody is to hear that they left."""
    await house.publish("reservation", "created", BOOKED)
    await house.publish("checkin_checkout", "checked_in", ARRIVED)
    await house.publish("checkin_checkout", "no_show", ARRIVED)
    conflict_id = await house.open(ARRIVED, model="CheckOut", contested=())
    await house.resolve(conflict_id, "current")

    [entry] = await house.of(conflict_id)
    assert entry.action == "no_show"


async def test_current_where_the_item_would_have_been_the_first_of_its_type(house: ConflictHouse) -> None:
    """What else is known of the entity is said again, as no second booking: nobody is checked in by it."""
    await house.publish("reservation", "created", BOOKED)
    conflict_id = await house.open(ARRIVED, contested=())
    await house.resolve(conflict_id, "current")

    [entry] = await house.of(conflict_id)
    assert (entry.type, entry.action, entry.entity) == ("reservation", "updated", "reservation:R1")
    assert await house.state() == {}
    assert await house.state("reservation") == BOOKED


async def test_current_of_nothing_is_no_decision(house: ConflictHouse) -> None:
    """It says what can be done instead, and leaves the conflict open to others."""
    conflict_id = await house.open(ARRIVED, contested=())
    problem = await refused(house.resolve(conflict_id, "current"))

    assert (problem.code, problem.errors[0].path) == ("invalid_request", "choice")
    assert (await house.resolve(conflict_id, "incoming", BEN))["state"] == "resolved"


async def test_current_moves_no_money(house: ConflictHouse) -> None:
    """An event of a folio is a movement: what stays as it is, is a correction by nothing."""
    await house.publish("billing", "charged", {"folio_id": "F1", "amount": 16800, "currency": "USD", "balance": 16800})
    await house.publish("billing", "settled", {"folio_id": "F1", "amount": 16800, "balance": 0})
    paid = {"folio_id": "F1", "amount": 16800, "balance": 0, "payment_method": "cash"}
    before = await house.state("billing", "billing:F1")
    conflict_id = await house.open(paid, model="Billing", entity_id="F1", contested=(), action="settled")
    await house.resolve(conflict_id, "current")

    [entry] = await house.of(conflict_id)
    assert (entry.action, entry.event["data"]["amount"]) == ("corrected", 0)
    assert entry.event["data"]["currency"] == before["currency"]
    assert entry.event["data"]["origin_system"] == "hotel-pms"
    assert conflict_id in entry.event["data"]["reason"]
    assert await house.state("billing", "billing:F1") == before


async def test_incoming_keeps_the_items_own_action(house: ConflictHouse) -> None:
    """Where its operation may mean several."""
    await house.publish("billing", "charged", {"folio_id": "F1", "amount": 16800, "balance": 16800})
    back = {"folio_id": "F1", "amount": 800, "balance": 0}
    conflict_id = await house.open(
        back, model="Billing", operation="UPDATE", entity_id="F1", contested=(), action="refunded"
    )
    await house.resolve(conflict_id, "incoming")

    [entry] = await house.of(conflict_id)
    assert (entry.action, entry.event["data"]["amount"]) == ("refunded", 800)


@pytest.mark.parametrize(
    ("choice", "data", "balance"),
    [("incoming", None, 1000), ("edited", {"amount": 600}, 1400), ("edited", {"balance": 0}, 0)],
)
async def test_what_a_person_takes_in_leaves_the_balance_of_all_movements(
    house: ConflictHouse, choice: str, data: dict[str, Any] | None, balance: int
) -> None:
    """The desk did not know of the second charge when it reckoned; who decides may say otherwise."""
    await house.publish("billing", "charged", {"folio_id": "F1", "amount": 1000, "balance": 1000})
    await house.publish("billing", "charged", {"folio_id": "F1", "amount": 1000, "balance": 2000})
    paid = {"folio_id": "F1", "amount": 1000, "balance": 0, "payment_method": "cash"}
    conflict_id = await house.open(paid, model="Billing", entity_id="F1", contested=())
    await house.resolve(conflict_id, choice, data=data)

    [entry] = await house.of(conflict_id)
    assert (entry.action, entry.event["data"]["balance"]) == ("settled", balance)
    assert (await house.state("billing", "billing:F1"))["balance"] == balance


async def test_current_of_a_customer_counts_no_points(house: ConflictHouse) -> None:
    """A delta is a movement, too."""
    profile = {"customer_id": "C1", "name": "Tanaka", "total_points": 10}
    await house.publish("customer", "created", profile)
    await house.publish(
        "customer", "points_changed", {"customer_id": "C1", "points_delta": 5, "points_ledger_id": "L1"}
    )
    conflict_id = await house.open(
        {"customer_id": "C1", "name": "Sato"}, model="Customer", operation="UPDATE", entity_id="C1", contested=("name",)
    )
    await house.resolve(conflict_id, "current", BEN)

    [entry] = await house.of(conflict_id)
    assert (entry.action, "points_delta" in entry.event["data"]) == ("updated", False)
    assert (await house.state("customer", "customer:C1"))["name"] == "Tanaka"


async def test_edited_is_what_the_desk_said_with_some_fields_otherwise(house: ConflictHouse) -> None:
    """Null takes one out; both have won."""
    conflict_id = await house.checked_in_twice()
    data = {"room_number": "303", "customer_id": None}
    done = await house.resolve(conflict_id, "edited", data=data)

    assert await house.state() == ARRIVED | {"room_number": "303", "payment_status": "completed"}
    assert (done["resolved"]["data"], done["resolved"]["winner"]) == (data, "both")
    item = (await house.items.known(TENANT, [done["uuid"]]))[done["uuid"]]
    assert item.touched is not None
    assert {"room_number", "customer_id"} <= item.touched


async def test_who_edits_what_was_deleted_keeps_it(house: ConflictHouse) -> None:
    """Incoming would take it away."""
    await house.publish("reservation", "created", BOOKED)
    said = {"reservation_id": "R1", "status": "cancelled"}
    for choice, data, status in (("edited", {"status": "tentative"}, "tentative"), ("incoming", None, "cancelled")):
        conflict_id = await house.open(said, model="Reservation", operation="DELETE", contested=())
        await house.resolve(conflict_id, choice, **({} if data is None else {"data": data}))
        [entry] = await house.of(conflict_id)
        assert (entry.action, (await house.state("reservation"))["status"]) == (
            "cancelled" if status == "cancelled" else "updated",
            status,
        )


async def test_what_makes_no_event_is_refused_by_field(house: ConflictHouse) -> None:
    """And claims nothing: another person may decide."""
    conflict_id = await house.checked_in_twice()
    for data, path in (
        ({"room_number": 7}, "data.room_number"),
        ({"colour": "red"}, "data.colour"),
        ({"actual_checkin_time": "noon"}, "data.actual_checkin_time"),
        ({"payment_status": None}, "data.payment_status"),
        ({"reservation_id": "R2"}, "data.reservation_id"),
        ({"synced_at": "2026-07-15T01:03:00Z"}, "data.synced_at"),
    ):
        problem = await refused(house.resolve(conflict_id, "edited", data=data))
        assert (problem.code, problem.errors[0].path) == ("invalid_event", path)
    assert await house.of(conflict_id) == []
    assert (await house.resolve(conflict_id, "incoming", BEN))["resolved"]["by"] == "ben (hotel-pms)"


@pytest.mark.parametrize(
    "body",
    [
        {"choice": "both"},
        {"choice": "edited"},
        {"choice": "edited", "data": {}},
        {"choice": "incoming", "data": {"a": 1}},
    ],
)
def test_what_is_no_decision(body: dict[str, Any]) -> None:
    """Fields go with `edited`, and with that alone."""
    with pytest.raises(ValidationError):
        ResolveRequest.model_validate(body)


# -- exactly once ---------------------------------------------------------------------------------------------------


async def test_the_same_again_changes_nothing(house: ConflictHouse) -> None:
    """Nor does it fail: an answer may be lost."""
    conflict_id = await house.checked_in_twice()
    first = await house.resolve(conflict_id, "incoming")
    assert await house.resolve(conflict_id, "incoming") == first
    assert len(await house.of(conflict_id)) == 1
    assert house.counted("incoming") == 1
    assert len(house.woken) == 1


async def test_an_entity_that_moves_on_meanwhile(house: ConflictHouse, monkeypatch: pytest.MonkeyPatch) -> None:
    """Is looked at anew: a decision is made on what is so, and loses nobody's change."""
    conflict_id = await house.checked_in_twice()
    publish, moves = Announcer.publish, 3

    async def racing(self: Announcer, tenant: str, event: Any) -> Any:
        nonlocal moves
        if moves:
            moves -= 1
            said = {"reservation_id": "R1", "room_number": f"31{moves}", "payment_status": "pending"}
            await house.publish("checkin_checkout", "checked_in", said)
        return await publish(self, tenant, event)

    monkeypatch.setattr(Announcer, "publish", racing)
    done = await house.resolve(conflict_id, "current")
    assert done["resolved"]["revision"] == 6
    assert (await house.state())["room_number"] == "310"

    moves = ATTEMPTS
    another = await house.open(ARRIVED)
    problem = await refused(house.resolve(another, "incoming"))
    assert (problem.code, "keeps changing" in problem.detail) == ("conflict", True)
    assert (await house.resolve(another, "incoming", BEN))["state"] == "resolved"


@pytest.mark.parametrize("again", ["incoming", "current", "listed"])
async def test_a_hub_that_dies_between_event_and_row(
    house: ConflictHouse, monkeypatch: pytest.MonkeyPatch, again: str
) -> None:
    """Done again the event is found, and the conflict closed by whose it is, whatever the next one decides."""
    conflict_id = await house.checked_in_twice()
    with monkeypatch.context() as patch:

        async def dies(*_: Any) -> Any:
            raise asyncio.CancelledError

        patch.setattr(SyncConflicts, "resolve", dies)
        with pytest.raises(asyncio.CancelledError):
            await house.resolve(conflict_id, "incoming")
    assert len(await house.of(conflict_id)) == 1

    if again == "incoming":
        done = await house.resolve(conflict_id, "incoming", desk=house.another())
        assert done["resolved"]["choice"] == "incoming"
    elif again == "listed":
        [found] = (await house.another().listed(ANNA, ConflictFilter(), 10, None)).conflicts
        assert (found["state"], found["resolved"]["choice"]) == ("resolved", "incoming")
        assert (await house.another().listed(ANNA, ConflictFilter(state="open"), 10, None)).conflicts == []
    else:
        # Another person is told who it was.
        problem = await refused(house.resolve(conflict_id, "current", BEN, house.another()))
        assert (problem.code, problem.extra["choice"]) == ("conflict", "incoming")
        assert problem.extra["resolved_by"] == "tests (hotel-pms)"
    assert len(await house.of(conflict_id)) == 1
    assert (await house.state())["room_number"] == "302"
    found = await house.desk.get(ANNA, conflict_id)
    assert (found["state"], found["resolved"]["choice"]) == ("resolved", "incoming")


async def test_the_log_forgets_ids_and_the_archive_does_not(
    house: ConflictHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An event that was published days before its conflict is closed is not published again."""
    conflict_id = await house.checked_in_twice()
    with monkeypatch.context() as patch:

        async def dies(*_: Any) -> Any:
            raise StoreUnavailable("away")

        patch.setattr(SyncConflicts, "resolve", dies)
        problem = await refused(house.resolve(conflict_id, "incoming"))
    assert (problem.code, problem.retryable) == ("outcome_unknown", True)
    await house.archive()
    client = house.rig.log.source.client
    receipts = [key async for key in client.scan_iter(match=f"*{house.rig.prefix}*receipts*")]
    assert receipts
    await client.delete(*receipts)

    await house.resolve(conflict_id, "incoming")
    assert len(await house.of(conflict_id)) == 1


async def test_an_outcome_that_is_not_known_keeps_the_claim(
    house: ConflictHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others wait; what was refused for sure gives it up at once."""
    conflict_id = await house.checked_in_twice()
    with monkeypatch.context() as patch:

        async def fails(*_: Any) -> Any:
            raise Problem(code)

        patch.setattr(Announcer, "publish", fails)
        for code in ("log_unavailable", "outcome_unknown"):
            assert (await refused(house.resolve(conflict_id, "incoming"))).code == code
            found = await house.desk.get(ANNA, conflict_id)
            assert (found["resolving"] is None) == (code == "log_unavailable")
        # Not by a second failure either: the first one's event may be there.
        code = "log_unavailable"
        assert (await refused(house.resolve(conflict_id, "incoming"))).code == code
    assert (await refused(house.resolve(conflict_id, "current", BEN))).code == "conflict"
    assert (await house.resolve(conflict_id, "incoming"))["state"] == "resolved"


async def test_of_two_at_once_one_decides(house: ConflictHouse) -> None:
    """The other hears who; the log has one of them."""
    conflict_id = await house.checked_in_twice()
    ended = await asyncio.gather(
        house.resolve(conflict_id, "incoming", person("anna")),
        house.resolve(conflict_id, "current", BEN, house.another()),
        return_exceptions=True,
    )
    [winner] = [one for one in ended if isinstance(one, dict)]
    [loser] = [one for one in ended if isinstance(one, Problem)]
    assert (loser.code, loser.extra["resolved_by"]) == ("conflict", winner["resolved"]["by"])
    assert len(await house.of(conflict_id)) == 1


async def test_one_person_who_decides_twice_at_once(house: ConflictHouse) -> None:
    """The log has one of the two, and the row says which."""
    conflict_id = await house.checked_in_twice()
    ended = await asyncio.gather(
        house.resolve(conflict_id, "incoming", BEN),
        house.resolve(conflict_id, "current", BEN, house.another()),
        return_exceptions=True,
    )
    assert sum(isinstance(one, Problem) and one.code == "conflict" for one in ended) == 1
    [entry] = await house.of(conflict_id)
    choice = (await house.desk.get(BEN, conflict_id))["resolved"]["choice"]
    assert (await house.state())["room_number"] == entry.event["data"]["room_number"]
    assert entry.event["data"]["room_number"] == ("302" if choice == "incoming" else "301")


async def test_a_hub_that_is_slow_to_close_what_it_decided(
    house: ConflictHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Finds it closed by who came after, as its own; it is counted once."""
    conflict_id = await house.checked_in_twice()
    published, go_on = asyncio.Event(), asyncio.Event()
    close = SyncConflicts.resolve

    async def slow(self: SyncConflicts, *given: Any) -> Any:
        if not published.is_set():
            published.set()
            await go_on.wait()
        return await close(self, *given)

    monkeypatch.setattr(SyncConflicts, "resolve", slow)
    first = asyncio.create_task(house.resolve(conflict_id, "incoming", BEN))
    await published.wait()
    assert (await refused(house.resolve(conflict_id, "current", BEN, house.another()))).code == "conflict"
    go_on.set()

    assert (await first)["resolved"]["choice"] == "incoming"
    assert (house.counted("incoming"), house.counted("current"), len(house.woken)) == (1, 0, 1)


async def test_an_id_that_another_event_has(house: ConflictHouse) -> None:
    """Whoever published it, the item is in the log: the conflict is over, and says by what."""
    conflict_id = await house.checked_in_twice()
    found = await house.conflicts.get(conflict_id)
    assert found is not None
    room = {
        "room_id": "1",
        "room_number": "1",
        "room_type": "x",
        "status": "occupied",
        "availability_date": "2026-07-15",
    }
    await house.publish("room", "status_changed", room, event_id=found.uuid)

    problem = await refused(house.resolve(conflict_id, "incoming"))
    assert (problem.code, problem.extra["choice"]) == ("conflict", "elsewhere")
    assert problem.extra["resolved_by"] == "hotel-pms: room.status_changed"
    assert len(await house.of(conflict_id)) == 1


async def test_a_duplicate_whose_event_is_not_found(house: ConflictHouse, monkeypatch: pytest.MonkeyPatch) -> None:
    """Is to be done again: nothing is said of whose it is."""
    conflict_id = await house.checked_in_twice()

    async def duplicate(*_: Any) -> Any:
        return {"duplicate": True}

    monkeypatch.setattr(Announcer, "publish", duplicate)
    assert (await refused(house.resolve(conflict_id, "incoming"))).code == "outcome_unknown"


# -- who, and what they see -----------------------------------------------------------------------------------------


async def test_a_conflict_field_by_field(house: ConflictHouse) -> None:
    """What the desk had seen, what it says, what others said, who and when; and what is so now."""
    conflict_id = await house.checked_in_twice()
    await house.publish("checkin_checkout", "checked_in", ARRIVED | {"room_number": "305"})

    found = await house.desk.get(ANNA, conflict_id)
    room, *others = found["fields"]
    [_, arrived, _] = await house.events()
    assert room == {
        "field": "room_number",
        "contested": True,
        "base": None,
        "current": "301",
        "current_by": "hotel-pms",
        "current_at": arrived.event["occurred_at"],
        "incoming": "302",
        "incoming_by": DEVICE,
        "incoming_at": "2026-07-15T01:03:00.000Z",
        "present": "305",
    }
    assert [(one["field"], one["contested"], one["current"]) for one in others] == [
        ("reservation_id", False, "R1"),
        ("payment_status", False, "pending"),
        ("currency", False, "JPY"),
    ]
    assert (found["operation"], found["action"]) == ("CREATE", None)
    assert found["current"] == {"revision": 2, "data": (found["current"]["data"])}
    assert found["present"]["revision"] == 3
    assert found["incoming"]["created_at"] == "2026-07-15T10:03:00+09:00"
    assert found["incoming"]["received_at"] == "2026-07-15T01:04:00.000Z"


async def test_who_sees_which_conflicts(house: ConflictHouse) -> None:
    """A token with `sync` what is for its system, with `ops` everything; each of its tenants, and nobody a masked
    copy."""
    mine = await house.checked_in_twice()
    report = {"business_date": "2026-07-15", "total_revenue": 1}
    closing = await house.open(report, model="DailyReport", entity_id="2026-07-15", contested=())
    elsewhere = await house.open(ARRIVED, tenant="t-2", contested=())

    async def seen(token: Any, **wanted: Any) -> set[str]:
        wanted.setdefault("state", "open")
        page = await house.desk.listed(token, ConflictFilter(**wanted), 9, None)
        return {one["conflict_id"] for one in page.conflicts}

    saas = claims([TENANT], "hotel-saas", ("sync",))
    assert await seen(ANNA) == {mine, closing}
    assert await seen(saas) == {mine}
    assert await seen(person("ops", "hotel-saas")) == {mine, closing}
    assert await seen(claims(["*"], "hub", ("sync",))) == {mine, closing, elsewhere}
    assert await seen(claims(["*"], "hub", ("sync",)), tenants=["t-2"]) == {elsewhere}
    assert await seen(ANNA, state="resolved") == set()

    assert (await refused(seen(ANNA, tenants=["t-2"]))).code == "forbidden"
    for attempt, code in (
        (house.desk.get(ANNA, elsewhere), "not_found"),
        (house.desk.get(saas, closing), "not_found"),
        (house.desk.get(ANNA, str(uuid4())), "not_found"),
        (house.desk.get(claims([TENANT], "hotel-pms"), mine), "forbidden"),
        (house.desk.get(claims([TENANT], "hotel-pms", ("ops",), view="masked"), mine), "forbidden"),
        (house.desk.listed(ANNA, ConflictFilter(), 9, "x"), "invalid_request"),
        (house.resolve(elsewhere, "incoming"), "not_found"),
        (house.resolve(closing, "incoming", saas), "not_found"),
    ):
        assert (await refused(attempt)).code == code


async def test_nobody_decides_beyond_their_systems_authority(house: ConflictHouse) -> None:
    """Though the hub publishes it; whoever has `ops` may."""
    conflict_id = await house.checked_in_twice()
    saas = claims([TENANT], "hotel-saas", ("sync",))
    for choice, more in (("incoming", {}), ("current", {}), ("edited", {"data": {"room_number": "303"}})):
        assert (await refused(house.resolve(conflict_id, choice, saas, **more))).code == "not_authority"
    assert (await house.resolve(conflict_id, "incoming", person("ops", "hotel-saas")))["state"] == "resolved"


async def test_pages_of_conflicts(house: ConflictHouse) -> None:
    """Each says where the next begins, also of those that were opened at once."""
    made = {await house.open(ARRIVED, contested=()) for _ in range(3)}
    seen: list[str] = []
    after = None
    while True:
        page = await house.desk.listed(ANNA, ConflictFilter(), 2, after)
        seen += [one["conflict_id"] for one in page.conflicts]
        if (after := page.next) is None:
            break
    assert len(seen) == 3
    assert set(seen) == made
    assert page.conflicts[0]["opened_at"] == "2026-07-15T01:04:00.000Z"
    assert T0 == 1_784_077_441_000
