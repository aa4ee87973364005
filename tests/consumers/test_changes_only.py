"""`HubClient` that asks for changes only: handlers see whole states, whatever came over the wire."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from client_harness import client_of, running, running_anyhow
from fake_hub import TENANT, FakeHub, cursor, reservation
from hand_clock import HandClock, until

from consumers import HubClient
from consumers.credential import Credential
from consumers.http_api import HubHttp
from consumers.states import States
from schemas.customer import CustomerEvent
from schemas.errors import Problem
from schemas.reservation import ReservationEvent
from schemas.stay import CheckInOutEvent

ONE = "reservation:R1"


def step(number: int, revision: int, *, of: str = "R1", tenant: str = TENANT, **data: Any) -> dict[str, Any]:
    """The event of this number: a revision of a reservation."""
    action = "created" if revision == 1 else "updated"
    event = reservation(number, tenant, action, **{"reservation_id": of, **data})
    return event | {"entity": f"reservation:{of}", "revision": revision}


def customer(number: int, revision: int, **data: Any) -> dict[str, Any]:
    """The event of this number: what changed of a customer."""
    return reservation(number) | {
        "type": "customer",
        "action": "updated",
        "entity": "customer:C1",
        "revision": revision,
        "data": {"customer_id": "C1", "updated_fields": list(data), **data},
    }


def stay(number: int, revision: int, **data: Any) -> dict[str, Any]:
    """The event of this number: the guest of reservation R1 arrives or leaves."""
    return reservation(number) | {
        "type": "checkin_checkout",
        "action": "checked_in",
        "entity": ONE,
        "revision": revision,
        "data": {"reservation_id": "R1", "room_number": "301", "payment_status": "pending", **data},
    }


class Got(list[dict[str, Any]]):
    """A handler that writes down the data of every event, without what is not set."""

    async def __call__(self, event: Any) -> None:
        self.append(event.data.model_dump(mode="json", exclude_none=True))


def states_client(hub: FakeHub, clock: HandClock, *patterns: str, **options: Any) -> tuple[HubClient, Got]:
    """A client for changes with one handler for all."""
    client, got = client_of(hub, clock, changes_only=True, **options), Got()
    for pattern in patterns or ("reservation.*",):
        client.on(pattern)(got)
    return client, got


async def test_handlers_get_whole_states() -> None:
    """A patch is put on what came before; the event keeps its type, and nothing is asked of the hub."""
    async with FakeHub() as hub:
        client, got = states_client(hub, HandClock())
        seen: list[ReservationEvent] = []

        @client.on("reservation.updated")
        async def updated(event: ReservationEvent) -> None:
            seen.append(event)

        async with running(client):
            assert hub.subscribes[0]["changes_only"] is True
            await hub.append(step(1, 1), step(2, 2, total_amount=9), step(3, 3, total_amount=9, room_number="7"))
            await until(lambda: len(got) == 3)
        assert hub.sent_bases == [None, 1, 2]
        assert [one["total_amount"] for one in got] == [16800, 9, 9]
        assert [one["status"] for one in got] == ["confirmed"] * 3
        assert got[2]["room_number"] == "7"
        assert (seen[1].revision, seen[1].data.room_type) == (3, "twin")
        assert (hub.questions, hub.fetched) == ([], [])


async def test_a_late_joiner_asks_for_what_it_misses() -> None:
    """The first patch of an entity it never saw takes one question; the next ones none."""
    async with FakeHub() as hub:
        await hub.append(step(1, 1, special_requests="quiet"), step(2, 2, total_amount=5))
        client, got = states_client(hub, HandClock())
        async with running(client):
            last = step(3, 3, total_amount=6)
            await hub.append(last)
            await until(lambda: len(got) == 1)
            await hub.append(step(4, 4, total_amount=6, room_number="9"))
            await until(lambda: len(got) == 2)
        assert hub.questions == [{"tenant": TENANT, "type": "reservation", "entity": ONE, "revision": "2"}]
        assert got[0] == last["data"] | {"special_requests": "quiet"}
        assert (got[1]["special_requests"], got[1]["room_number"]) == ("quiet", "9")
        assert hub.fetched == []


async def test_a_whole_event_of_a_stranger_is_completed() -> None:
    """A whole event says only what its publisher sent: what earlier ones said is asked for once."""
    async with FakeHub() as hub:
        hub.patches = False
        await hub.append(customer(1, 1, name="Sato", email="s@example.com"))
        client, got = states_client(hub, HandClock(), "customer.*")
        async with running(client):
            await hub.append(customer(2, 2, total_points=10), customer(3, 3, rank_id="gold"))
            await until(lambda: len(got) == 2)
        assert [one["revision"] for one in hub.questions] == ["2"]
        assert got[0]["name"] == got[1]["name"] == "Sato"
        assert (got[1]["total_points"], got[1]["rank_id"]) == (10, "gold")


async def test_what_speaks_of_an_event_alone_is_not_carried_on() -> None:
    """A points delta is counted once, though the customer's state stays."""
    async with FakeHub() as hub:
        client, _ = states_client(hub, HandClock(), "customer.created")
        seen: list[CustomerEvent] = []

        @client.on("customer.*")
        async def changed(event: CustomerEvent) -> None:
            seen.append(event)

        async with running(client):
            await hub.append(customer(1, 1, name="Sato", points_delta=5, points_ledger_id="L1"))
            await hub.append(customer(2, 2, total_points=5, points_delta=5, points_ledger_id="L1"))
            await hub.append(customer(3, 3, total_points=5))
            await until(lambda: len(seen) == 3)
        assert hub.sent_bases == [None, 1, 2]
        assert (seen[0].data.points_delta, seen[0].data.updated_fields[0]) == (5, "name")
        assert (seen[1].data.points_delta, seen[1].data.points_ledger_id) == (5, "L1")
        assert (seen[2].data.points_delta, seen[2].data.points_ledger_id) == (None, None)
        assert seen[2].data.updated_fields == ["total_points"]
        assert (seen[2].data.name, seen[2].data.total_points) == ("Sato", 5)


async def test_two_types_on_one_entity_are_two_states() -> None:
    """A guest's arrival counts as a revision of the reservation, and leaves what is known of the booking alone."""
    async with FakeHub() as hub:
        client, got = states_client(hub, HandClock(), "reservation.*", "checkin_checkout.*")
        stays: list[CheckInOutEvent] = []

        @client.on("checkin_checkout.*")
        async def moved(event: CheckInOutEvent) -> None:
            stays.append(event)

        async with running(client):
            await hub.append(step(1, 1, special_requests="quiet"), stay(2, 2, additional_charges=3))
            await hub.append(step(3, 3, status="checked_in"), stay(4, 4, payment_status="completed"))
            await until(lambda: len(got) == 4)
        assert got[2]["special_requests"] == "quiet"
        assert "special_requests" not in got[1]
        assert float(stays[1].data.additional_charges or 0) == 3
        assert stays[1].data.payment_status == "completed"
        assert hub.questions == []


@pytest.mark.parametrize(("patches", "asked"), [(True, "2"), (False, "3")])
async def test_patterns_that_leave_events_out_ask(patches: bool, asked: str) -> None:
    """Between two events of the subscription there was one it does not ask for: its news are fetched."""
    async with FakeHub() as hub:
        hub.patches = patches
        client, got = states_client(hub, HandClock(), "reservation.created", "reservation.cancelled")
        async with running(client):
            end = step(3, 3, status="cancelled", room_number="5") | {"action": "cancelled"}
            await hub.append(step(1, 1), step(2, 2, room_number="5", special_requests="quiet"), end)
            await until(lambda: len(got) == 2)
        assert [one["revision"] for one in hub.questions] == [asked]
        assert got[1] == end["data"] | {"special_requests": "quiet"}


async def test_without_an_answer_the_event_itself_is_fetched() -> None:
    """The handler gets the event as everybody else does; the next one asks again."""
    async with FakeHub() as hub:
        await hub.append(step(1, 1, special_requests="quiet"), step(2, 2))
        hub.read_problem = Problem("log_unavailable").body()
        client, got = states_client(hub, HandClock())
        async with running(client):
            event = step(3, 3, total_amount=5)
            await hub.append(event)
            await until(lambda: len(got) == 1)
            assert got[0] == event["data"]
            assert hub.fetched == [event["event_id"]]
            hub.read_problem = None
            await hub.append(step(4, 4, total_amount=6))
            await until(lambda: len(got) == 2)
        assert [one["revision"] for one in hub.questions] == ["2", "3"]
        assert (got[1]["total_amount"], got[1]["special_requests"]) == (6, "quiet")


async def test_a_hub_that_refuses_is_not_asked_again() -> None:
    """A refusal holds for the connection: from the events alone each state is known as far as they told."""
    async with FakeHub() as hub:
        await hub.append(step(1, 1), step(2, 2))
        hub.read_problem = Problem("forbidden").body()
        client, got = states_client(hub, HandClock())
        async with running(client):
            await hub.append(step(3, 3, total_amount=5), step(4, 4, total_amount=6))
            await hub.append(step(5, 2, of="R9"), step(6, 3, of="R9", total_amount=7))
            await until(lambda: len(got) == 4)
        assert len(hub.questions) == 1
        assert [one["total_amount"] for one in got] == [5, 6, 16800, 7]
        assert len(hub.fetched) == 1


async def test_an_event_that_cannot_be_put_together_comes_again() -> None:
    """Neither state nor event is to be had: nothing is handled, and over the next connection the event comes whole."""
    clock = HandClock()
    async with FakeHub() as hub:
        await hub.append(step(1, 1), step(2, 2))
        client, got = states_client(hub, clock)
        async with running(client):
            hub.read_problem, hub.hide_events = Problem("internal").body(), True
            event = step(3, 3, total_amount=5)
            await hub.append(event)
            await until(lambda: client.mode == "offline")
            assert got == []
            hub.read_problem, hub.patches = None, False
            await clock.pass_sleep(0.5)
            await until(lambda: len(got) == 1)
        assert got == [event["data"]]


async def test_a_reconnect_goes_on_with_what_is_known() -> None:
    """States outlive the connection: what came meanwhile is merged in, and the next patch fits."""
    clock = HandClock()
    async with FakeHub() as hub:
        client, got = states_client(hub, clock)
        async with running(client):
            await hub.append(step(1, 1, special_requests="quiet"))
            await until(lambda: len(got) == 1)
            hub.cut()
            await until(lambda: client.mode == "offline")
            hub.patches = False
            await hub.append(step(2, 2, total_amount=5))
            await clock.pass_sleep(0.5)
            await until(lambda: len(got) == 2)
            hub.patches = True
            await hub.append(step(3, 3, total_amount=6))
            await until(lambda: len(got) == 3)
        assert hub.sent_bases[-1] == 2
        assert [one["special_requests"] for one in got] == ["quiet"] * 3
        assert hub.questions == []


async def test_after_a_gap_nothing_is_built_on() -> None:
    """What is held of the tenant is dropped: the next patch asks, though its base is the revision last seen."""
    clock = HandClock()
    async with FakeHub() as hub:
        client, got = states_client(hub, clock)
        async with running(client):
            await hub.append(step(1, 1))
            await until(lambda: len(got) == 1)
            await hub.session.send(
                op="gap", id="events", tenant_id=TENANT, reason="expired", resume_from=cursor(1, TENANT)
            )
            await hub.append(step(2, 2, total_amount=5))
            await until(lambda: len(got) == 2)
        assert [one["revision"] for one in hub.questions] == ["1"]
        assert got[1]["total_amount"] == 5


async def test_polling_merges_whole_events() -> None:
    """Pages bring whole events; handlers see the same states."""
    clock = HandClock()
    async with FakeHub() as hub:
        hub.refuse_upgrade = 502
        client, got = states_client(hub, clock, after="earliest", fallback_after=1)
        await hub.append(step(1, 1, special_requests="quiet"), step(2, 2, total_amount=5))
        async with running(client, mode="polling"):
            await until(lambda: len(got) == 2)
        assert got[1] == step(2, 2, total_amount=5)["data"] | {"special_requests": "quiet"}
        assert hub.questions == []


async def test_an_older_hub_sends_whole_events() -> None:
    """A hub that knows no changes is understood."""
    async with FakeHub() as hub:
        hub.patches = False
        client, got = states_client(hub, HandClock())
        async with running(client):
            await hub.append(step(1, 1), step(2, 2, total_amount=5))
            await until(lambda: len(got) == 2)
        assert got[1]["total_amount"] == 5


async def test_the_least_used_states_are_forgotten() -> None:
    """The memory is bounded; what was forgotten is asked for."""
    async with FakeHub() as hub:
        http = HubHttp(hub.url, Credential("good"))
        states = States(http, HandClock(), ["reservation.*"], memory_bytes=1600)
        for number in range(1, 4):
            event = step(number, 1, of=f"R{number}")
            await hub.append(event)
            whole = states.at_hand(event, number, None)
            assert whole is not None
            states.hold(whole)
        assert len(states) == 2
        second = step(4, 2, total_amount=1)
        assert states.at_hand(second, 4, 1) is None
        assert states.at_hand(second, 4, None) is None
        assert states.at_hand(step(4, 2, of="R3", total_amount=1), 4, 1) is not None
        states.drop(TENANT)
        assert len(states) == 0
        assert states._bytes == 0
        await http.close()


async def test_a_state_of_another_schema_version_is_not_built_on() -> None:
    """A hub that was updated meanwhile says the same things in other fields."""
    async with FakeHub() as hub:
        http = HubHttp(hub.url, Credential("good"))
        states = States(http, HandClock(), ["*"])
        whole = states.at_hand(step(1, 1), 1, None)
        assert whole is not None
        states.hold(whole)
        assert states.at_hand(step(2, 2), 2, 1) is not None
        assert states.at_hand(step(2, 2) | {"schema_version": 2}, 2, 1) is None
        assert states.at_hand(step(2, 1), 2, None) is None
        await http.close()


async def test_snapshot_pages_come_first() -> None:
    """Pages, then events from exactly there: the first patch fits what the snapshot said."""
    async with FakeHub() as hub:
        for number in range(1, 6):
            await hub.append(step(number, 1, of=f"R{number}"))
        client, got = states_client(hub, HandClock(), snapshot=True)
        order: list[str] = []

        @client.on_snapshot
        async def page(page: Any) -> None:
            order.append(f"{len(page.entities)} {page.more}")

        @client.on("reservation.*")
        async def event(event: ReservationEvent) -> None:
            order.append(event.data.reservation_id)

        async with running(client):
            assert hub.subscribes[0]["snapshot"] is True
            assert "after" not in hub.subscribes[0]
            await hub.append(step(6, 2, of="R5", total_amount=5), step(7, 4, of="R7"))
            await until(lambda: len(got) == 2)
        assert order == ["2 True", "2 True", "1 False", "R5", "R7"]
        assert got[0]["total_amount"] == 5
        # R7 is not in the snapshot: it is new, whatever its revision, and nothing is missing.
        assert hub.questions == []


async def test_a_snapshot_that_broke_off_begins_again() -> None:
    """Nothing counts as reached before the last page; afterwards a reconnect resumes without another snapshot."""
    clock = HandClock()
    async with FakeHub() as hub:
        hub.cut_in_snapshot = 1
        for number in range(1, 4):
            await hub.append(step(number, 1, of=f"R{number}"))
        client, got = states_client(hub, clock, snapshot=True)
        pages: list[int] = []

        @client.on_snapshot
        async def page(page: Any) -> None:
            pages.append(len(page.entities))

        async with running_anyhow(client):
            await until(lambda: pages)
            assert pages == [2]
            await clock.pass_sleep(0.5)
            await until(lambda: client.mode == "websocket")
            assert pages == [2, 2, 1]
            hub.cut()
            await until(lambda: client.mode == "offline")
            await hub.append(step(4, 2, total_amount=5))
            await clock.pass_sleep(1.0)
            await until(lambda: len(got) == 1)
        assert [bool(one.get("snapshot")) for one in hub.subscribes] == [True, True, False]
        assert hub.subscribes[2]["after"] == {TENANT: cursor(3)}
        assert pages == [2, 2, 1]


async def test_a_snapshot_without_changes_only() -> None:
    """The pages alone: events come as they are."""
    async with FakeHub() as hub:
        await hub.append(step(1, 1))
        client = client_of(hub, HandClock(), snapshot=True, patterns=["reservation.*"])
        pages: list[Any] = []

        @client.on_snapshot
        async def page(page: Any) -> None:
            pages.append(page)

        async with running(client):
            assert "changes_only" not in hub.subscribes[0]
        assert [one.entity for one in pages[0].entities] == [ONE]
        assert pages[0].cursor == cursor(1)


async def test_a_snapshot_over_http() -> None:
    """Where no WebSocket is to be had, the pages are read; a later WebSocket goes on from there."""
    clock = HandClock()
    async with FakeHub(tenants=["a", "b"]) as hub:
        hub.refuse_upgrade = 502
        for number in range(1, 4):
            await hub.append(step(number, 1, of=f"R{number}", tenant="a"))
        await hub.append(stay(4, 1) | {"tenant_id": "b"})
        client, got = states_client(hub, clock, snapshot=True, fallback_after=1, websocket_retry_s=5.0)
        pages: list[Any] = []

        @client.on_snapshot
        async def page(page: Any) -> None:
            pages.append(page)

        async with running(client, mode="polling"):
            await hub.append(step(4, 2, tenant="a", total_amount=5))
            await until(lambda: len(got) == 1)
            hub.refuse_upgrade = None
            await clock.pass_sleep(5.0)
            await until(lambda: client.mode == "websocket")
        assert {one.entity for page in pages for one in page.entities} == {f"reservation:R{n}" for n in (1, 2, 3)}
        ends = {page.tenant_id: page.cursor for page in pages if not page.more}
        # Nothing of `b` is asked for: it has no page.
        assert ends == {"a": cursor(3, "a")}
        assert not hub.subscribes[-1].get("snapshot")
        assert hub.polls[0]["after"] in (f"{cursor(3, 'a')}.{cursor(1, 'b')}", f"{cursor(1, 'b')}.{cursor(3, 'a')}")


async def test_a_snapshot_has_no_other_beginning() -> None:
    """`after` beside `snapshot` is refused at once."""
    with pytest.raises(ValueError, match="exclude each other"):
        HubClient("ws://localhost/ws", token="t", snapshot=True, after="earliest")


async def test_the_fake_hub_answers_as_the_real_one() -> None:
    """The fake one's states are folds of its events."""
    async with FakeHub() as hub:
        await hub.append(step(1, 1, room_number="1"), step(2, 2, room_number=None, total_amount=1))
        root = hub.url.replace("ws://", "http://").replace("/ws", "/api/v1")
        async with httpx.AsyncClient() as http:
            query = {"tenant": TENANT, "type": "reservation", "entity": ONE, "revision": "2"}
            answer = await http.get(f"{root}/snapshot", params=query, headers={"Authorization": "Bearer good"})
        (found,) = answer.json()["entities"]
        assert (found["revision"], found["data"]["total_amount"]) == (2, 1)
        assert "room_number" not in found["data"]
