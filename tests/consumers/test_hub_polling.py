"""`HubClient` where no WebSocket is to be had: long polling, and the way back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from client_harness import Seen, client_of, queue_of, running, running_anyhow
from fake_hub import TENANT, FakeHub, cursor, reservation
from hand_clock import HandClock, until

from consumers import AccessRefused, FileCursors, Gap, HubClient, MemoryCursors


@pytest.fixture
async def hub() -> AsyncIterator[FakeHub]:
    async with FakeHub(refuse_upgrade=502) as hub:
        yield hub


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


def polling_client(hub: FakeHub, clock: HandClock, **options: Any) -> HubClient:
    """A client that tries to leave polling every 15 s, which is less than a long poll lasts."""
    return client_of(hub, clock, websocket_retry_s=15.0, **options)


async def fall_back(clock: HandClock) -> None:
    """Let the pauses after the first two refusals pass; the third leads to polling."""
    await clock.pass_sleep(0.5)
    await clock.pass_sleep(1.0)


async def test_three_refused_upgrades_lead_to_polling(hub: FakeHub, clock: HandClock) -> None:
    """Behind a proxy that refuses upgrades events come by long poll, with the same handlers, from one position on."""
    await hub.append(reservation(1))
    client = polling_client(hub, clock)
    seen = Seen()
    client.on("reservation.*")(seen)
    client.on("room.status_changed")(Seen())
    async with running_anyhow(client):
        await fall_back(clock)
        await until(lambda: len(hub.polls) == 2)
        assert client.mode == "polling"
        await hub.append(reservation(2), reservation(3))
        await until(lambda: len(seen) == 2)
        await hub.append(reservation(4))
        await until(lambda: len(seen) == 3)
    assert seen == ["R2", "R3", "R4"]
    assert hub.upgrades == 3
    assert [(poll["after"], poll["wait"]) for poll in hub.polls[:3]] == [
        ("latest", "0"),
        (cursor(1), "30"),
        (cursor(3), "30"),
    ]
    assert hub.polls[0]["patterns"] == "reservation.*,room.status_changed"


async def test_the_client_climbs_back_without_hole_or_double(hub: FakeHub, clock: HandClock) -> None:
    """From time to time the WebSocket is tried; when it opens, it goes on exactly behind the last page."""
    client = polling_client(hub, clock)
    seen = Seen()
    client.on("reservation.*")(seen)
    async with running_anyhow(client):
        await fall_back(clock)
        await until(lambda: len(hub.polls) == 2)
        await hub.append(reservation(1))
        await until(lambda: seen == ["R1"])
        await clock.pass_sleep(15.0)
        await until(lambda: hub.upgrades == 4)
        assert client.mode == "polling"
        hub.refuse_upgrade = None
        await clock.pass_sleep(15.0)
        await until(lambda: client.mode == "websocket")
        await hub.append(reservation(2))
        await until(lambda: len(seen) == 2)
    assert seen == ["R1", "R2"]
    assert hub.subscribes[0]["after"] == {TENANT: cursor(1)}


async def test_events_in_the_middle_of_a_page_survive_the_climb(hub: FakeHub, clock: HandClock) -> None:
    """A page cut short by the return of the WebSocket, with a full queue, loses and doubles nothing."""
    client = polling_client(hub, clock, queue_size=1)
    seen, release = Seen(), asyncio.Event()

    @client.on("reservation.*")
    async def handle(event: object) -> None:
        await release.wait()
        await seen(event)  # type: ignore[arg-type]

    async with running_anyhow(client):
        await fall_back(clock)
        await until(lambda: len(hub.polls) == 2)
        await hub.append(*(reservation(number) for number in range(1, 11)))
        await until(queue_of(client).full)
        hub.refuse_upgrade = None
        await clock.pass_sleep(15.0)
        await until(lambda: hub.subscribes)
        release.set()
        await until(lambda: len(seen) >= 10)
        await hub.append(reservation(11))
        await until(lambda: seen[-1] == "R11")
    assert seen == [f"R{number}" for number in range(1, 12)]
    # The page was really left in its middle.
    assert hub.subscribes[0]["after"] != {TENANT: cursor(10)}


async def test_a_durable_client_tells_the_hub_what_it_handled_while_polling(hub: FakeHub, clock: HandClock) -> None:
    """The hub's position is behind after polling: its redelivery is dropped, and acknowledged."""
    hub.refuse_upgrade = None
    client = polling_client(hub, clock, name="sync")
    seen = Seen()
    client.on("reservation.*")(seen)
    async with running(client):
        await hub.append(reservation(1))
        await until(lambda: hub.positions[TENANT] == 1)
        hub.refuse_upgrade = 502
        hub.cut()
        await clock.pass_sleep(0.5)
        await clock.pass_sleep(1.0)
        await clock.pass_sleep(2.0)
        await until(lambda: client.mode == "polling")
        await hub.append(reservation(2))
        await until(lambda: seen == ["R1", "R2"])
        assert hub.positions[TENANT] == 1
        hub.refuse_upgrade = None
        await clock.pass_sleep(15.0)
        await until(lambda: hub.positions[TENANT] == 2)
    assert seen == ["R1", "R2"]
    assert hub.polls[0]["after"] == cursor(1)


async def test_a_durable_client_that_had_to_guess_takes_the_hubs_position(hub: FakeHub, clock: HandClock) -> None:
    """A named client with no kept cursor polls from the latest; on the WebSocket it gets what lay before, too."""
    hub.positions[TENANT] = 1
    await hub.append(*(reservation(number) for number in range(1, 4)))
    client = polling_client(hub, clock, name="sync")
    seen = Seen()
    client.on("reservation.*")(seen)
    async with running_anyhow(client):
        await fall_back(clock)
        await until(lambda: len(hub.polls) == 2)
        await hub.append(reservation(4))
        await until(lambda: seen == ["R4"])
        hub.refuse_upgrade = None
        await clock.pass_sleep(15.0)
        await until(lambda: hub.positions[TENANT] == 4)
    # R4 comes twice: at least once, and nothing is missing.
    assert seen == ["R4", "R2", "R3", "R4"]


async def test_a_new_durable_name_misses_nothing_between_poll_and_websocket(hub: FakeHub, clock: HandClock) -> None:
    """The hub begins a new name at its latest; what came after the last page is asked for again."""
    client = polling_client(hub, clock, name="sync")
    seen = Seen()
    client.on("reservation.*")(seen)
    async with running_anyhow(client):
        await fall_back(clock)
        await until(lambda: len(hub.polls) == 2)
        await hub.append(reservation(1))
        await until(lambda: seen == ["R1"])
        await until(lambda: len(hub.polls) == 3)
        # An event that no poll sees any more.
        hub.history[TENANT].append(reservation(2))
        hub.refuse_upgrade = None
        await clock.pass_sleep(15.0)
        await clock.pass_sleep(2.0)
        await until(lambda: len(seen) == 2)
    assert seen == ["R1", "R2"]
    assert [frame.get("after") for frame in hub.subscribes] == [None, {TENANT: cursor(1)}]


async def test_gaps_in_the_middle_of_a_page_stand_between_their_events(hub: FakeHub, clock: HandClock) -> None:
    """An event before the hole is handled although the page names the hole first."""
    order: list[str] = []

    async def on_gap(gap: Gap) -> None:
        order.append(gap.resume_from)

    client = polling_client(hub, clock, on_gap=on_gap)

    @client.on("reservation.*")
    async def handle(event: Any) -> None:
        order.append(event.data.reservation_id)

    async with running_anyhow(client):
        await fall_back(clock)
        await until(lambda: len(hub.polls) == 2)
        hub.gap = {"tenant_id": TENANT, "reason": "expired", "resume_from": cursor(2)}
        await hub.append(*(reservation(number) for number in range(1, 5)))
        await until(lambda: "R4" in order)
        await until(lambda: len(order) == 5)
    assert [one for one in order if one != cursor(2)] == ["R1", "R2", "R3", "R4"]
    assert cursor(2) in order


async def test_several_tenants_without_names_resume_from_a_joined_cursor(hub: FakeHub, clock: HandClock) -> None:
    """With a token of all tenants, quiet tenants' positions survive the climb and the process."""
    hub.tenants = ["default", "second"]
    store = MemoryCursors()
    client = polling_client(hub, clock, cursors=store)
    seen = Seen()
    client.on("reservation.*")(seen)
    async with running_anyhow(client):
        await fall_back(clock)
        await until(lambda: len(hub.polls) == 2)
        await hub.append(reservation(1))
        await until(lambda: seen == ["R1"])
        await until(lambda: hub.polls[-1]["after"].count(".") == 1)
    assert set(await store.load()) == {"default", "*"}

    await hub.append(reservation(2, tenant="second"))
    hub.tenants, hub.refuse_upgrade = ["*"], None
    client = polling_client(hub, clock, cursors=store)
    client.on("reservation.*")(seen)
    async with running(client):
        await until(lambda: len(seen) == 2)
    assert seen == ["R1", "R2"]
    assert set(await store.load()) == {"default", "second"}


async def test_named_tenants_are_polled_one_by_one(hub: FakeHub, clock: HandClock, tmp_path: object) -> None:
    """Explicit tenants have a poll each, and each its kept cursor."""
    hub.tenants = ["default", "second"]
    store = FileCursors(f"{tmp_path}/cursors.json")
    client = polling_client(hub, clock, tenants=["default", "second"], cursors=store)
    seen = Seen()
    client.on("reservation.*")(seen)
    async with running_anyhow(client):
        await fall_back(clock)
        await until(lambda: len(hub.polls) == 4)
        await hub.append(reservation(1), reservation(2, tenant="second"))
        await until(lambda: len(seen) == 2)
    assert {poll["tenant"] for poll in hub.polls} == {"default", "second"}
    assert await store.load() == {"default": cursor(1), "second": cursor(1, "second")}


async def test_a_gap_in_a_page_is_told(hub: FakeHub, clock: HandClock) -> None:
    """A page that carries a gap reaches the same hook."""
    gaps: list[Gap] = []

    async def on_gap(gap: Gap) -> None:
        gaps.append(gap)

    hub.gap = {"tenant_id": TENANT, "reason": "expired", "resume_from": cursor(0)}
    client = polling_client(hub, clock, on_gap=on_gap, after="earliest")
    client.on("reservation.*")(Seen())
    async with running_anyhow(client):
        await fall_back(clock)
        await until(lambda: gaps)
    assert gaps[0].reason == "expired"


async def test_without_http_either_the_client_is_offline_and_keeps_trying(hub: FakeHub, clock: HandClock) -> None:
    """When polling fails too, attempts go on with growing pauses, and succeed when the hub is back."""
    hub.http_down = True
    client = polling_client(hub, clock)
    seen = Seen()
    client.on("reservation.*")(seen)
    async with running_anyhow(client):
        await fall_back(clock)
        await clock.pass_sleep(2.0)
        await until(lambda: clock.asleep(4.0))
        assert (client.mode, hub.upgrades) == ("offline", 4)
        hub.refuse_upgrade = None
        await clock.pass_sleep(4.0)
        await until(lambda: client.mode == "websocket")
        await hub.append(reservation(1))
        await until(lambda: seen == ["R1"])


async def test_a_poll_that_hangs_is_given_up(hub: FakeHub, clock: HandClock) -> None:
    """A page that is 10 s later than asked for counts as lost touch."""
    client = polling_client(hub, clock)
    client.on("*")(Seen())
    async with running_anyhow(client):
        await fall_back(clock)
        await until(lambda: len(hub.polls) == 2 and clock.timed(40.0))
        clock.advance(40.0)
        await until(lambda: client.mode == "offline")
        await clock.pass_sleep(0.5)
        await until(lambda: hub.upgrades == 4)


async def test_a_token_refused_over_http_ends_run(hub: FakeHub, clock: HandClock) -> None:
    """401 with the hub's problem is final for a fixed token."""
    hub.bad_tokens = {"good"}
    client = polling_client(hub, clock)
    client.on("*")(Seen())
    async with running_anyhow(client) as task:
        await fall_back(clock)
        await until(task.done)
    error = task.exception()
    assert isinstance(error, AccessRefused)
    assert error.code == 401
