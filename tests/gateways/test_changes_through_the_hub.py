"""Changes only, from a whole hub to the SDK: its handlers see what a reader of whole events can work out."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import orjson
from house import House

from consumers import HubClient
from consumers.connection import Connection
from consumers.http_api import HubHttp
from schemas.cursor import Cursor
from schemas.envelope import Event
from schemas.frames import EventFrame, Snapshot
from schemas.registry import EVENT_TYPES
from schemas.state import merged

LONG = "a quiet room far from the lift, with a view of the garden, and a late breakfast"


class Follower:
    """A client, what its handlers got, and the frames that came."""

    def __init__(self, house: House, *, changes_only: bool, system: str = "hotel-member", **options: Any) -> None:
        scopes = ("subscribe:*",)
        self.client = HubClient(
            f"ws://127.0.0.1:{house.hub.port}/ws",
            token=house.token(system, scopes=scopes),
            patterns=options.pop("patterns", ["*"]),
            changes_only=changes_only,
            random=lambda: 0.0,
            **options,
        )
        self.changes_only = changes_only
        self.states: list[tuple[str, str, int, dict[str, Any]]] = []
        self._held: dict[tuple[str, str], dict[str, Any]] = {}
        self._grown = asyncio.Event()
        self._house = house

        @self.client.on("*")
        async def note(event: Event[Any]) -> None:
            data = orjson.loads(event.data.model_dump_json(exclude_unset=True))
            key, transient = (event.type, event.entity), EVENT_TYPES[event.type].transient
            self._held[key] = merged({} if changes_only else self._held.get(key, {}), data, transient)
            self.states.append((*key, event.revision, dict(self._held[key])))
            self._grown.set()

    async def __aenter__(self) -> Follower:
        self._task = asyncio.create_task(self.client.run())
        await self._house.until(lambda: self.client.mode == "websocket" or self._task.done())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.client.aclose()
        await self._task

    async def until(self, count: int) -> None:
        """Until so many events were handled."""
        while len(self.states) < count:
            self._grown.clear()
            async with asyncio.timeout(20):
                await self._grown.wait()

    def cut(self) -> None:
        """Break the connection without a word."""
        assert self.client._link is not None
        assert self.client._link.connection is not None
        self.client._link.connection._socket.transport.abort()


class Wire:
    """Counts the events that came as patches, and as whole ones."""

    def __init__(self, monkeypatch: Any) -> None:
        self.bases: list[int | None] = []
        frames = Connection.frames

        async def counted(connection: Connection) -> Any:
            async for frame in frames(connection):
                if isinstance(frame, EventFrame):
                    self.bases.append(frame.base_revision)
                yield frame

        monkeypatch.setattr(Connection, "frames", counted)

    @property
    def patches(self) -> int:
        """Events that were patches."""
        return sum(base is not None for base in self.bases)


def drafts(house: House, count: int, seed: int) -> list[dict[str, Any]]:
    """Events of a few entities, several types on some, fields coming and going."""
    pick = random.Random(seed)
    made = []
    for _ in range(count):
        id = f"R{pick.randint(1, 3)}"
        kind = pick.choice(["reservation", "reservation", "reservation", "checkin_checkout", "room"])
        if kind == "reservation":
            data = house.reservation(id)["data"] | {"special_requests": pick.choice([LONG, LONG, "none"])}
            data |= pick.choice([{}, {"room_number": "301"}, {"room_number": None}, {"adults": pick.randint(1, 4)}])
            made.append({"type": kind, "action": "updated", "data": data})
        elif kind == "checkin_checkout":
            data = {"reservation_id": id, "room_number": "301", "payment_status": pick.choice(["pending", "completed"])}
            data |= pick.choice([{}, {"additional_charges": pick.randint(0, 9)}])
            made.append({"type": kind, "action": "checked_in", "data": data})
        else:
            data = {"room_id": id, "room_number": id, "room_type": "twin", "availability_date": "2026-07-15"}
            data |= {"status": pick.choice(["vacant_clean", "occupied"]), "maintenance_notes": LONG}
            made.append({"type": kind, "action": "status_changed", "data": data})
    return made


def comparable(data: dict[str, Any]) -> dict[str, Any]:
    """A state without the moment of its last word, which readers spell in their own ways."""
    return {name: value for name, value in data.items() if name != "synced_at"}


async def test_both_readers_know_the_same(start: Callable[..., Any], monkeypatch: Any) -> None:
    """After every event, over reconnects, the states are equal; most updates came as patches."""
    wire = Wire(monkeypatch)
    async with start() as house:
        async with (
            Follower(house, changes_only=True, after="earliest") as changes,
            Follower(house, changes_only=False, after="earliest") as plain,
        ):
            total = 0
            for round in range(4):
                made = drafts(house, 40, round)
                if round:
                    changes.cut()
                for draft in made[:20]:
                    await house.publish(draft)
                await house.publish(*made[20:])
                total += len(made)
                await changes.until(total)
                await plain.until(total)
        assert changes.states == plain.states
        assert wire.patches > 30


async def test_a_late_joiner_knows_what_was_said_before(start: Callable[..., Any], monkeypatch: Any) -> None:
    """It was not there when the events came that a patch builds on, and handles the whole state all the same."""
    wire = Wire(monkeypatch)
    async with start() as house, Follower(house, changes_only=True) as first:
        await house.publish(house.reservation("R1", data_special_requests=LONG))
        await first.until(1)
        async with Follower(house, changes_only=True) as late:
            for amount in (1, 2):
                await house.publish(
                    house.reservation("R1", data_special_requests=LONG, data_total_amount=amount)
                    | {"action": "updated"}
                )
            await first.until(3)
            await late.until(2)
        assert wire.patches == 4
        assert late.states == first.states[1:]
        assert late.states[0][3]["special_requests"] == LONG


async def test_a_late_joiner_of_partial_events_knows_the_rest(start: Callable[..., Any], monkeypatch: Any) -> None:
    """A customer's events say what changed: what they leave out is asked of the hub, once."""
    asked: list[str] = []
    snapshot = HubHttp.snapshot

    async def counted(http: HubHttp, query: Any) -> Any:
        asked.append(query["revision"])
        return await snapshot(http, query)

    monkeypatch.setattr(HubHttp, "snapshot", counted)
    async with start() as house:

        async def change(**data: Any) -> None:
            event = {"type": "customer", "action": "updated", "data": {"customer_id": "C1", **data}}
            await house.publish(event, system="hotel-member")

        await change(name="Sato", email="s@example.com")
        async with Follower(house, changes_only=True, system="hotel-pms") as late:
            await change(total_points=10)
            await change(total_points=20, updated_fields=["total_points"])
            await late.until(2)
        assert asked == ["2"]
        first, second = (state[3] for state in late.states)
        assert (first["name"], first["email"], first["total_points"]) == ("Sato", "s@example.com", 10)
        assert (second["name"], second["total_points"]) == ("Sato", 20)


async def test_a_snapshot_and_then_changes(start: Callable[..., Any], monkeypatch: Any) -> None:
    """Pages of one state, then events from exactly there, without a question; a reconnect needs no second snapshot."""
    monkeypatch.setattr(HubHttp, "snapshot", None)
    async with start() as house:
        plain = Follower(house, changes_only=False, after="earliest")
        async with plain:
            for number, draft in enumerate(drafts(house, 60, 1)):
                await house.publish(draft)
                await plain.until(number + 1)
            late = Follower(house, changes_only=True, snapshot=True)
            pages: list[Snapshot] = []

            @late.client.on_snapshot
            async def page(page: Snapshot) -> None:
                pages.append(page)

            async with late:
                known = {(one.type, one.entity): one.data for page in pages for one in page.entities}
                assert pages[-1].cursor is not None
                taken = Cursor.decode(pages[-1].cursor).sequence
                last = {(type, entity): state for type, entity, _, state in plain.states[:taken]}
                assert {key: comparable(data) for key, data in known.items()} == {
                    key: comparable(data) for key, data in last.items()
                }
                assert not pages[-1].more
                count = len(pages)
                for round, made in enumerate((drafts(house, 20, 2), drafts(house, 20, 3)), 1):
                    for draft in made:
                        await house.publish(draft)
                    await late.until(60 - taken + 20 * round)
                    late.cut()
                await plain.until(100)
                assert len(pages) == count
        assert late.states == plain.states[taken:]


async def test_masked_readers_of_changes(start: Callable[..., Any]) -> None:
    """A masked token's patches are of masked data."""
    async with start() as house, house.socket(token=house.token(view="masked")) as socket:
        await socket.ask("subscribe", id=1, patterns=["reservation.*"], changes_only=True)
        await house.publish(house.reservation("R1", data_guest_name="Sato", data_special_requests=LONG))
        await house.publish(
            house.reservation("R1", data_guest_name="Suzuki", data_special_requests=LONG, data_total_amount=5)
            | {"action": "updated"}
        )
        whole, patch = await socket.take(2)
        assert whole["event"]["data"]["guest_name"] == "***"
        assert patch["base_revision"] == 1
        assert "guest_name" not in patch["event"]["data"]
        assert patch["event"]["data"]["total_amount"] == 5
