"""A desk beside a hub behind a port: work goes on whatever the line does, and all is synced when it is back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from desk_rig import DeskClock, booked, checked_in, reservation
from hand_clock import BOUND_S, HandClock, until
from sync_hub_server import SyncHubServer

from consumers.errors import ClientClosed
from consumers.offline.connectivity import AGAIN_S, INTERVAL_S, PROBE_S
from consumers.offline.desk import BROKEN_S, CLOSE_S, Desk, OfflineModeDisabled
from consumers.offline.engine import COALESCE_S
from consumers.offline.errors import InvalidChange, LocalFull, LocalInUse
from consumers.offline.items import LocalChange, QueueItem
from consumers.offline.live import PONG_S, PULSE_S, REFUSED_S
from consumers.offline.recovery import PinNeeded
from consumers.offline.settings import DeskSettings
from schemas.sync import ItemError, ItemResult


@pytest.fixture
async def hub() -> AsyncIterator[SyncHubServer]:
    """A hub with one reservation."""
    async with SyncHubServer() as hub:
        hub.sync.happen("Reservation", "R0", reservation("R0"))
        await hub.told()
        yield hub


@dataclass
class AtDesk:
    """A desk and its clock."""

    desk: Desk
    clock: HandClock
    day: DeskClock
    seen: list[str] = field(default_factory=list)

    async def do(self, *changes: LocalChange) -> list[QueueItem]:
        return await self.desk.operate(changes, operator="佐藤", operation="front desk", role="front")

    async def until_state(self, state: str) -> None:
        await until(lambda: self.desk.status.current.state == state)

    async def settle(self) -> None:
        """Let the line be quiet: a WebSocket stands, and the next probe is the usual one."""
        await until(lambda: self.desk.line.heard)
        await self.until_state("all_synced")
        # Time for the pull that follows a subscription.
        self.clock.advance(1.0)
        self.desk.line.suspect()
        await until(lambda: self.clock.timed(INTERVAL_S))


@asynccontextmanager
async def at_desk(
    hub: SyncHubServer, path: Path, *, device: str = "desk-1", day: DeskClock | None = None, **named: Any
) -> AsyncIterator[AtDesk]:
    clock, day = HandClock(), DeskClock() if day is None else day
    wanted: dict[str, Any] = {
        "url": hub.url,
        "token": "good",
        "tenant_id": "default",
        "system": "hotel-pms",
        "device_id": device,
        "settings": DeskSettings(),
        **named,
    }
    async with await Desk.open(path, clock=clock, now=day.now, random=lambda: 0.5, **wanted) as desk:
        one = AtDesk(desk, clock, day)

        async def follow() -> None:
            async with aclosing(desk.status.follow()) as states:
                async for status in states:
                    one.seen.append(status.state)

        following = asyncio.create_task(follow())
        try:
            yield one
        finally:
            # Closing waits for an answer by a clock that nobody moves any more.
            if not hub._sounds.is_set():
                hub.sound_again()
    async with asyncio.timeout(BOUND_S):
        await following


@pytest.fixture
async def one(hub: SyncHubServer, tmp_path: Path) -> AsyncIterator[AtDesk]:
    """A desk that is online and synced."""
    async with at_desk(hub, tmp_path / "desk.db") as found:
        await found.settle()
        yield found


def models(hub: SyncHubServer) -> list[str]:
    """What had an effect at the hub, without the operation log."""
    return [item["model"] for item in hub.sync.taken if item["model"] != "OperationLog"]


async def test_a_desk_works_without_any_hub(hub: SyncHubServer, tmp_path: Path) -> None:
    """With nobody at the other end an operation is kept, read back, and waits; also for the next process."""
    hub.http_down = True
    async with at_desk(hub, tmp_path / "desk.db") as one:
        await one.do(booked("R1"), checked_in("R1"))
        record = await one.desk.record("reservation", "reservation:R1")
        assert record is not None
        assert record.pending == 1
        assert [found.entity for found in await one.desk.records("reservation")] == ["reservation:R1"]
        status = one.desk.status.current
        assert (status.state, status.counts.waiting) == ("offline", 3)
        assert status.banner is not None
        assert status.banner.ja == "オフライン中"
        assert (await one.desk.sync_now()).state == "offline"
    hub.http_down = False
    async with at_desk(hub, tmp_path / "desk.db") as one:
        await one.until_state("all_synced")
    assert sorted(models(hub)) == ["CheckIn", "Reservation"]


async def test_an_operation_never_waits_for_the_network(hub: SyncHubServer, one: AtDesk) -> None:
    """While a push hangs on a silent line, operations and reads go on."""
    hub.fall_silent()
    await one.do(checked_in("R0"))
    await until(lambda: one.desk.hub._asking)
    for number in range(5):
        await one.do(booked(f"R{number + 1}"))
    assert len(await one.desk.records("reservation")) == 6
    assert one.desk.status.current.counts.waiting == 12


async def test_urgent_operations_go_at_once_and_others_a_moment_later(hub: SyncHubServer, one: AtDesk) -> None:
    """A check-in is at the hub without the clock moving; a booking gathers for a moment (R60)."""
    await one.do(checked_in("R0"))
    await until(lambda: models(hub) == ["CheckIn"])
    await one.until_state("all_synced")
    await one.do(booked("R1"))
    assert "operation" in one.desk.engine._wants
    assert models(hub) == ["CheckIn"]
    one.clock.advance(COALESCE_S)
    await until(lambda: models(hub) == ["CheckIn", "Reservation"])
    await one.until_state("all_synced")
    assert (one.desk.counters.operations, one.desk.counters.pushed, one.desk.counters.clock_skew_ms) == (2, 4, 12)


async def test_a_settled_bill_is_urgent(hub: SyncHubServer, one: AtDesk) -> None:
    """It goes at once, like a check-out (R61)."""
    bill = {"reservation_id": "R0", "amount": 16800, "balance": 0, "payment_method": "cash"}
    await one.do(LocalChange("Billing", "CREATE", "F1", bill))
    await until(lambda: models(hub) == ["Billing"])


async def test_what_one_desk_does_another_sees(hub: SyncHubServer, one: AtDesk, tmp_path: Path) -> None:
    """A live event makes the other desk pull at once, without its clock moving (R106)."""
    async with at_desk(hub, tmp_path / "other.db", device="desk-2", day=DeskClock(first=2)) as other:
        await other.settle()
        await one.do(checked_in("R0", "512"))
        await until(lambda: other.desk.counters.pulled > 1)
        record = await other.desk.record("checkin_checkout", "reservation:R0")
        assert record is not None
        assert record.data["room_number"] == "512"
    assert set(hub.devices) == {"desk-1", "desk-2"}


async def test_a_wish_of_the_hub_is_a_reason_to_sync(hub: SyncHubServer, one: AtDesk) -> None:
    """A notice on the desk's WebSocket makes it sync (R59)."""
    await hub.notice("sync_requested", device_id="desk-1")
    triggers: list[str] = []
    async with asyncio.timeout(BOUND_S):
        while "requested" not in triggers:
            triggers = await one.desk.local.call(lambda database: [one.trigger for one in database.sync_history()])


async def test_a_broken_line_is_noticed_at_once(hub: SyncHubServer, one: AtDesk) -> None:
    """Connections that are cut, and refused from then on, make the desk go offline without the clock moving."""
    hub.http_down = True
    hub.cut()
    await one.until_state("offline")
    assert one.desk.counters.outages == 1


async def test_a_line_that_falls_silent_is_noticed_within_three_seconds(hub: SyncHubServer, one: AtDesk) -> None:
    """The desk misses a sign of life, looks, and is offline (R101); whoever waits for an answer is told."""
    await until(lambda: one.clock.asleep(PULSE_S))
    hub.fall_silent()
    began = one.clock.now
    syncing = asyncio.create_task(one.desk.sync_now())
    await until(lambda: one.desk.hub._asking)
    one.clock.advance(PULSE_S)
    await until(lambda: one.clock.timed(PONG_S))
    one.clock.advance(PONG_S)
    await until(lambda: one.clock.timed(PROBE_S))
    assert one.desk.status.current.online
    one.clock.advance(PROBE_S)
    await one.until_state("offline")
    assert one.clock.now - began < 3.0
    # Where another sync was under way, this one had not begun.
    assert (await syncing).state in ("interrupted", "offline")
    await until(lambda: not one.desk.hub._asking)


async def test_a_socket_goes_with_the_line(hub: SyncHubServer, one: AtDesk) -> None:
    """Where the hub is not there for requests, its WebSocket counts for nothing; both come back together."""
    hub.sick = True
    one.desk.line.suspect()
    await one.until_state("offline")
    await until(lambda: one.clock.asleep(PULSE_S))
    one.clock.advance(PULSE_S)
    await until(lambda: not one.desk.line.heard)
    hub.sick = False
    assert await one.desk.line.check()
    await until(lambda: one.clock.timed(0.25))
    one.clock.advance(0.25)
    await until(lambda: one.desk.line.heard)


async def test_a_slow_sign_of_life_does_not_make_the_desk_go_offline(hub: SyncHubServer, one: AtDesk) -> None:
    """A busy hub answers late; the probe that follows says that it is there."""
    await until(lambda: one.clock.asleep(PULSE_S))
    probes = len(hub.raw)
    hub._sounds.clear()
    one.clock.advance(PULSE_S)
    await until(lambda: one.clock.timed(PONG_S))
    one.clock.advance(PONG_S)
    await until(lambda: one.desk.line.line.suspected)
    hub._sounds.set()
    await until(lambda: len(hub.raw) > probes and not one.desk.line.line.suspected)
    assert one.desk.status.current.online
    assert one.desk.counters.outages == 0


async def test_the_way_back(hub: SyncHubServer, one: AtDesk) -> None:
    """Two good probes, then everything is synced; the states on the way are shown, the time is taken (R97, R101)."""
    hub.http_down = True
    hub.cut()
    await one.until_state("offline")
    await one.do(checked_in("R0"))
    await one.do(booked("R1"))
    await until(lambda: one.clock.timed(INTERVAL_S))
    hub.http_down = False
    one.seen.clear()
    one.clock.advance(INTERVAL_S)
    await until(lambda: one.clock.timed(AGAIN_S))
    assert models(hub) == []
    one.clock.advance(AGAIN_S)
    await until(lambda: one.seen[-1:] == ["all_synced"])
    assert models(hub) == ["CheckIn", "Reservation"]
    assert [state for state in dict.fromkeys(one.seen) if state != "offline"] == ["recovering", "all_synced"]
    counters = one.desk.counters
    assert (counters.recoveries, counters.last_recovery_s, counters.longest_recovery_s) == (1, AGAIN_S, AGAIN_S)
    # The WebSocket comes back too, and is heard.
    one.clock.advance(1.0)
    await until(lambda: one.desk.line.heard)


async def test_the_button_looks_at_the_line_first(hub: SyncHubServer, one: AtDesk) -> None:
    """Pressed while the desk counts as offline, it finds that the hub is there again, and syncs (R59)."""
    hub.http_down = True
    hub.cut()
    await one.until_state("offline")
    await one.do(booked("R1"))
    hub.http_down = False
    outcome = await one.desk.sync_now()
    assert outcome.state == "done"
    assert models(hub) == ["Reservation"]


async def test_an_expired_session_is_shown_and_gone_on_with(hub: SyncHubServer, tmp_path: Path) -> None:
    """No token can be had without a person: the desk says so, works on, and syncs once somebody has signed in."""
    tokens = ["good"]

    async def source() -> str:
        if not tokens:
            raise PinNeeded
        return tokens[-1]

    async with at_desk(hub, tmp_path / "desk.db", token=source) as one:
        await one.settle()
        hub.bad_tokens = {"good"}
        tokens.clear()
        await one.do(checked_in("R0"))
        await one.until_state("session_expired")
        status = one.desk.status.current
        assert status.banner is not None
        assert status.banner.ja == "セッション期限切れ・復旧時再認証"
        assert status.counts.waiting == 2
        await one.do(booked("R1"))
        # The WebSocket is not let in either.
        hub.cut()
        await until(lambda: one.clock.timed(0.25))
        one.clock.advance(0.25)
        await until(lambda: one.clock.timed(REFUSED_S))
        tokens.append("fresh")
        one.desk.signed_in()
        await until(lambda: models(hub) == ["CheckIn", "Reservation"])
        await one.until_state("all_synced")
        await until(lambda: hub.session.token == "fresh" and one.desk.line.heard)


async def test_a_refused_item_is_shown_and_sent_again_or_given_up(hub: SyncHubServer, one: AtDesk) -> None:
    """The failure has its warning; by hand the item goes out again, or is discarded (R52, R53)."""
    no = ItemResult(outcome="rejected", errors=[ItemError(path="payload", message="no")])
    hub.sync.answers = {"reservation:R0": no, "reservation:R1": no}
    first, second = await one.do(checked_in("R0"), booked("R1"))
    await one.until_state("failed")
    assert one.desk.status.current.footer.ja == "同期失敗 2件"
    hub.sync.answers = {}
    await one.desk.resend(first.uuid, operator="佐藤")
    await until(lambda: models(hub) == ["CheckIn"])
    await one.desk.discard(second.uuid, operator="佐藤", reason="a mistake")
    await one.until_state("all_synced")
    assert models(hub) == ["CheckIn"]


async def test_a_disk_without_room_is_shown(hub: SyncHubServer, one: AtDesk) -> None:
    """The operation fails as failed, the banner says what to do, and goes when something could be kept again (R100)."""

    def fails(*_: Any, **__: Any) -> Any:
        raise LocalFull("desk.db", "no space left")

    whole = await one.desk.local.call(lambda database: database.operate)
    await one.desk.local.call(lambda database: setattr(database, "operate", fails))
    with pytest.raises(LocalFull):
        await one.do(booked("R1"))
    status = one.desk.status.current
    assert status.banner is not None
    assert (status.state, status.banner.ja) == ("local_error", "保存エラー・データ修復")
    await one.desk.local.call(lambda database: setattr(database, "operate", whole))
    await one.do(checked_in("R0"))
    await one.until_state("all_synced")


async def test_a_wrong_change_is_the_callers_alone(one: AtDesk) -> None:
    """It is refused with its fields, and is no state of the desk's."""
    with pytest.raises(InvalidChange):
        await one.do(booked("R1", total_amount="much"))
    assert one.desk.status.current.state == "all_synced"


async def test_a_desk_may_be_one_that_works_online_only(hub: SyncHubServer, tmp_path: Path) -> None:
    """With OFFLINE_MODE_ENABLED off nothing is kept while the hub is not reached (R63)."""
    async with at_desk(hub, tmp_path / "desk.db", settings=DeskSettings(offline_mode_enabled=False)) as one:
        await one.settle()
        await one.do(checked_in("R0"))
        hub.http_down = True
        hub.cut()
        await one.until_state("offline")
        with pytest.raises(OfflineModeDisabled):
            await one.do(booked("R1"))
        assert await one.desk.record("reservation", "reservation:R1") is None


async def test_closing_sends_what_was_done_just_now(hub: SyncHubServer, tmp_path: Path) -> None:
    """Then nothing can be done any more, the file is free, and closing again is no error."""
    async with at_desk(hub, tmp_path / "desk.db") as one:
        await one.settle()
        await one.do(booked("R1"))
        assert models(hub) == []
        with pytest.raises(LocalInUse):
            await Desk.open(tmp_path / "desk.db", url=hub.url, token="good", tenant_id="default", system="hotel-pms")
        await one.desk.close()
        assert models(hub) == ["Reservation"]
        for refused in (lambda: one.do(booked("R2")), one.desk.sync_now):
            with pytest.raises(ClientClosed):
                await refused()
    async with at_desk(hub, tmp_path / "desk.db", device="desk-1"):
        pass


async def test_closing_does_not_wait_for_a_line_that_is_silent(hub: SyncHubServer, tmp_path: Path) -> None:
    """A push without an answer is given up after a while; its item waits, no retry counted, for the next process."""
    async with at_desk(hub, tmp_path / "desk.db") as one:
        await one.settle()
        hub.fall_silent()
        (item,) = await one.do(checked_in("R0"))
        await until(lambda: one.desk.hub._asking)
        closing = asyncio.create_task(one.desk.close())
        await until(lambda: one.desk.engine._stopping)
        one.clock.advance(CLOSE_S)
        await closing
    hub.sound_again()
    hub.http_down = True
    async with at_desk(hub, tmp_path / "desk.db") as one:
        found = await one.desk.local.call(lambda database: database.item(item.uuid))
        assert found is not None
        assert (found.status, found.retries) == ("queued", 0)


async def test_a_task_that_breaks_is_started_again(hub: SyncHubServer, one: AtDesk) -> None:
    """A fault of the desk's own is logged and shown, and does not end its touch with the hub (R107)."""
    whole: Callable[..., Any] = one.desk.engine._outcome
    one.desk.engine._outcome = _broken  # type: ignore[method-assign,assignment]
    await one.do(checked_in("R0"))
    await one.until_state("failed")
    one.desk.engine._outcome = whole  # type: ignore[method-assign]
    await until(lambda: one.clock.asleep(BROKEN_S))
    one.clock.advance(BROKEN_S)
    one.desk.engine.request("manual")
    await one.until_state("all_synced")
    assert models(hub) == ["CheckIn"]


async def _broken(*_: Any) -> Any:
    raise RuntimeError("a fault")
