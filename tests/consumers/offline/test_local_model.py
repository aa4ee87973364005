"""The local database against a model of it that fits on a page: whatever happens in whatever order."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from desk_rig import DEVICE, DeskRig, booked, changed, do, event, reservation, result
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from consumers.offline.database import LocalDatabase
from schemas.errors import FieldError
from schemas.sync import Change, ItemResult

ENTITIES = ("A", "B", "C")
entities = st.sampled_from(ENTITIES)
numbers = st.integers(0, 99)


@dataclass
class Item:
    """One item as the model knows it."""

    uuid: str
    entity: str
    payload: dict[str, Any]
    status: str = "queued"
    laid: bool = True
    retries: int = 0
    not_before: float = 0.0
    held: bool = False
    """It waits for a person to decide on another one."""


@dataclass
class Hub:
    """What the hub has: a log, and which items are in it at which revision."""

    log: list[Change] = field(default_factory=list)
    has: dict[str, int] = field(default_factory=dict)

    def publish(self, entity: str, data: dict[str, Any], uuid: str | None = None) -> int:
        mine = [one for one in self.log if one.entity == f"reservation:{entity}"]
        revision = len(mine) + 1
        version = dict(mine[-1].version) if mine else {}
        actor = "hotel-pms" if uuid is None else DEVICE
        version[actor] = version.get(actor, 0) + 1
        said = {"uuid": uuid} if uuid is not None else {}
        # Of a first event the hub requires a whole state.
        whole = data if mine else reservation(entity) | data
        self.log.append(event(whole | {"reservation_id": entity}, revision, version=version, **said))
        if uuid is not None:
            self.has[uuid] = revision
        return revision


class Desk(RuleBasedStateMachine):
    """Operates, pushes, pulls, fails and crashes."""

    @initialize()
    def begin(self) -> None:
        self.directory = tempfile.mkdtemp()
        self.rig = DeskRig(Path(self.directory) / "desk.db")
        self.local = self.rig.open()
        self.hub = Hub()
        self.items: dict[str, Item] = {}
        self.pulled = 0
        self.on_the_way: list[str] = []
        self.dead: list[LocalDatabase] = []

    def base(self, entity: str) -> dict[str, Any] | None:
        state: dict[str, Any] = {}
        mine = [one for one in self.hub.log[: self.pulled] if one.entity == f"reservation:{entity}"]
        for one in mine:
            state |= one.data
        return state if mine else None

    def shown(self, entity: str) -> dict[str, Any] | None:
        state = self.base(entity)
        for item in self.items.values():
            # A change of a booking that was refused shows nothing by itself.
            if item.entity == entity and item.laid and (state is not None or "room_type" in item.payload):
                state = (state or {}) | item.payload
        return state

    # -- what happens ----------------------------------------------------------------------------------------------

    @rule(entity=entities, number=numbers)
    def operate(self, entity: str, number: int) -> None:
        # Built on what the desk shows of it, as a person would.
        change = changed(entity, adults=number) if self.shown(entity) else booked(entity, adults=number)
        for item in do(self.local, change):
            self.items[item.uuid] = Item(item.uuid, entity, item.payload)

    @rule(entity=entities, number=numbers)
    def others_work(self, entity: str, number: int) -> None:
        self.hub.publish(entity, reservation(entity, children=number))

    @rule(limit=st.integers(1, 6))
    def batch(self, limit: int) -> None:
        batch = self.local.batch(limit, now=self.rig.clock.now())
        sent = [item.uuid for item in batch if item.uuid in self.items]
        held: set[str] = set()
        now = self.rig.clock.now().timestamp()
        free: dict[str, list[str]] = {entity: [] for entity in ENTITIES}
        for item in self.items.values():
            if item.status in ("failed", "conflict", "syncing") or (item.status == "queued" and item.not_before > now):
                held.add(item.entity)
            elif item.status == "queued" and item.entity not in held:
                free[item.entity].append(item.uuid)
        for entity, lane in free.items():
            mine = [uuid for uuid in sent if self.items[uuid].entity == entity]
            assert mine == lane[: len(mine)]
        if len(batch) < limit:
            assert len(sent) == sum(map(len, free.values()))
        for uuid in sent:
            self.items[uuid].status = "syncing"
        self.on_the_way += sent

    def answer(self, item: Item, outcome: str) -> ItemResult:
        """The hub takes an item, or not, and says so."""
        if item.uuid in self.hub.has:
            return result(item.uuid, "duplicate", revision=self.hub.has[item.uuid])
        if outcome not in ("applied", "resolved"):
            person = [FieldError("conflict", "is being decided")] if outcome == "person" else []
            errors = [{"path": one.path, "message": one.message} for one in person]
            return result(item.uuid, "retry" if person else outcome, errors=errors or None)
        data = item.payload if outcome == "applied" else {"adults": 1000}
        revision = self.hub.publish(item.entity, data, item.uuid)
        return result(item.uuid, outcome, revision=revision, version=self.hub.log[-1].version)

    @precondition(lambda self: self.on_the_way)
    @rule(data=st.data(), lost=st.booleans())
    def push(self, data: st.DataObject, lost: bool) -> None:
        count = data.draw(st.integers(1, len(self.on_the_way)))
        outcomes = st.sampled_from(["applied"] * 4 + ["resolved", "rejected", "conflict", "retry", "retry", "person"])
        results = [self.answer(self.items[uuid], data.draw(outcomes)) for uuid in self.on_the_way[:count]]
        if lost:
            # The answer does not arrive.
            self.release()
            return
        self.local.settle(results, now=self.rig.clock.now())
        del self.on_the_way[:count]
        now = self.rig.clock.now().timestamp()
        for one in results:
            item = self.items[one.uuid or ""]
            if item.status == "synced":
                continue
            item.held = one.outcome == "retry" and one.errors is not None
            if one.outcome in ("applied", "resolved", "duplicate"):
                item.status = "synced"
                pulled = [event.revision for event in self.hub.log[: self.pulled] if event.entity[12:] == item.entity]
                item.laid = (one.revision or 0) > max(pulled, default=0)
            elif one.outcome == "rejected":
                item.status, item.laid = "failed", False
            elif one.outcome == "conflict":
                item.status = "conflict"
            elif one.errors:
                item.status, item.not_before = "queued", now + 30
            elif item.retries == 3:
                item.status, item.not_before = "failed", 0
            else:
                item.status, item.not_before = "queued", now + 2**item.retries
                item.retries += 1

    @rule()
    def release(self) -> None:
        self.local.release()
        for item in self.items.values():
            if item.status == "syncing":
                item.status = "queued"
        self.on_the_way.clear()

    @precondition(lambda self: self.pulled < len(self.hub.log))
    @rule(data=st.data())
    def pull(self, data: st.DataObject) -> None:
        start = data.draw(st.integers(0, self.pulled))
        end = data.draw(st.integers(self.pulled + 1, len(self.hub.log)))
        self.local.apply_changes(self.hub.log[start:end], str(end))
        decided = {self.items[one.uuid].entity for one in self.hub.log[start:end] if self.waits(one.uuid)}
        for one in self.hub.log[start:end]:
            if one.uuid in self.items:
                self.items[one.uuid].status, self.items[one.uuid].laid = "synced", False
        for item in self.of("queued"):
            if item.held and item.entity in decided and not any(map(self.waits, self.of_entity(item.entity))):
                item.held, item.not_before = False, 0
        self.pulled = end
        self.on_the_way = [uuid for uuid in self.on_the_way if self.items[uuid].status == "syncing"]

    def waits(self, uuid: str) -> bool:
        """Whether a person is to decide on this item."""
        return uuid in self.items and self.items[uuid].status == "conflict"

    def of_entity(self, entity: str) -> list[str]:
        return [item.uuid for item in self.items.values() if item.entity == entity]

    def of(self, status: str) -> list[Item]:
        return [item for item in self.items.values() if item.status == status]

    @precondition(lambda self: self.of("conflict"))
    @rule(number=numbers)
    def somebody_decides(self, number: int) -> None:
        item = self.of("conflict")[0]
        if item.uuid not in self.hub.has:
            self.hub.publish(item.entity, {"adults": number}, item.uuid)

    @precondition(lambda self: self.of("failed"))
    @rule(again=st.booleans())
    def by_hand(self, again: bool) -> None:
        item = self.of("failed")[0]
        if again:
            self.local.resend(item.uuid, operator="佐藤")
            item.status, item.laid, item.retries, item.not_before = "queued", True, 0, 0
        else:
            self.local.discard(item.uuid, operator="佐藤", reason="test")
            item.status, item.laid = "discarded", False

    @rule(seconds=st.sampled_from([1, 4, 30]))
    def time_passes(self, seconds: int) -> None:
        self.rig.clock.pass_by(seconds)

    @rule()
    def crash(self) -> None:
        # The dead process lets go of the lock and does nothing more.
        self.local._file._lock.release()
        self.dead.append(self.local)
        self.local = self.rig.open()
        for item in self.items.values():
            if item.status == "syncing":
                item.status = "queued"
        self.on_the_way.clear()

    # -- what holds ------------------------------------------------------------------------------------------------

    @invariant()
    def the_desk_is_as_the_model(self) -> None:
        for entity in ENTITIES:
            record = self.local.record("reservation", f"reservation:{entity}")
            assert (None if record is None else record.data) == self.shown(entity)
            if record is not None:
                assert record.base == self.base(entity)
        for item in self.items.values():
            kept = self.local.item(item.uuid)
            assert kept is not None
            assert (kept.status, kept.laid, kept.retries) == (item.status, item.laid, item.retries)
        logs = sum(1 for item in self.local.pending(limit=10_000) if item.model == "OperationLog")
        counts = self.local.counts()
        assert counts.unsettled - logs == sum(
            item.status in ("queued", "syncing", "failed", "conflict") for item in self.items.values()
        )
        assert counts.unconfirmed == sum(item.status == "synced" and item.laid for item in self.items.values())

    def teardown(self) -> None:
        for database in [*getattr(self, "dead", []), getattr(self, "local", None)]:
            if database is not None:
                database.close()
        if hasattr(self, "directory"):
            shutil.rmtree(self.directory)


TestDesk = Desk.TestCase
TestDesk.settings = settings(
    max_examples=25, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
