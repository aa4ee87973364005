"""The devices that work offline, as the sync routes note them and as people see them: state, history, "sync now".

Pulls come by the hundred a second when something happens in a busy house. They are noted in memory, and written some
seconds later in one transaction for all devices; pushes and comparisons are written at once. What was noted and not
written when a hub dies is how far a device had pulled: its next pull says it again.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final, Literal

import structlog
import uuid_utils

from hub.core.delivery import instant
from hub.core.device_states import Device, presence, warnings
from hub.core.recoveries import Recoveries
from hub.log.topology import RedisError
from hub.security.tokens import Claims
from hub.services.announcer import Announcer
from hub.services.ending import end
from hub.services.history import History
from hub.store.database import StoreUnavailable
from hub.store.sync_devices import Comparison, Kind, Place, Sight, Sync, SyncDevices
from hub.store.sync_items import SyncItems
from schemas.errors import Problem, invalid_request
from schemas.sync import ComparisonReport
from schemas.types import HUB, TENANT_FORM

EVERY_S: Final = 5.0
"""How long what was noted waits to be written."""
SUMMED_MS: Final = 60_000
"""A device's pulls become one row of its history a minute."""
MAX_NOTED: Final = 10_000
"""Devices that are remembered; those not heard of for longest are forgotten first."""
PRUNE_EVERY_S: Final = 3600.0
ARCHIVE_DAYS: Final = 400
"""How long items and settled conflicts are kept: as long as events are."""
KEEP_DAYS: Final = 30
MAX_PAGE: Final = 1000
HISTORY: Final = 50
"""Syncs, and comparisons, that are shown with a device."""
MAX_NAMED: Final = 1000
"""Devices that the answer to a request for all of them names."""
ALL: Final = "*"
TOPIC: Final = "device:"
REQUESTED: Final = "sync_requested"
_PLACE: Final = re.compile(rf"({TENANT_FORM[1:-1]}) ([!-~]{{1,100}})")
_DAY_MS: Final = 86_400_000

Key = tuple[str, str]

log = structlog.get_logger("hub.devices")


@dataclass(frozen=True, slots=True)
class Listing:
    """A page of devices as the API says them, and where the next one begins."""

    devices: list[dict[str, Any]]
    next: str | None


@dataclass(slots=True)
class _Noted:
    """What was heard of a device."""

    sight: Sight | None = None
    """To be written."""
    pulls: dict[Kind, Sync] = field(default_factory=dict)
    """Pulls that have no row in the history yet, summed up."""
    row_ms: int = 0
    """When its pulls last got a row."""
    whole_ms: int = -1
    """When it last began to pull and got all there was."""


class DeviceDesk:
    """Its owner calls `start` and awaits `stop`. Methods that read or write raise `StoreUnavailable` when the store
    does not answer; `pulled` only notes."""

    def __init__(
        self,
        devices: SyncDevices,
        history: History,
        announcer: Announcer,
        *,
        items: SyncItems | None = None,
        recovered: Callable[[float], None] = lambda _: None,
        keep_days: int = KEEP_DAYS,
        archive_days: int = ARCHIVE_DAYS,
        wall: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`recovered` hears how many seconds a device took to come back."""
        self._devices = devices
        self._history = history
        self._announcer = announcer
        self._items = items
        self._recovered = recovered
        self._recoveries = Recoveries()
        self._keep_ms = keep_days * _DAY_MS
        self._archive_ms = archive_days * _DAY_MS
        self._wall = wall
        self._sleep = sleep
        self._noted: OrderedDict[Key, _Noted] = OrderedDict()
        self._owners: OrderedDict[Key, str] = OrderedDict()
        self._waiting: set[Key] = set()
        self._something = asyncio.Event()
        self._pruned_at = wall()
        self._task: asyncio.Task[None] | None = None

    # -- life -----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to write what is noted."""
        self._task = asyncio.create_task(self._run(), name="devices")

    async def stop(self) -> None:
        """Write what is noted, and end."""
        await end(self._task)
        try:
            await self.write(everything=True)
        except StoreUnavailable as error:
            log.warning("devices_not_written", devices=len(self._waiting), error=str(error))

    async def _run(self) -> None:
        while True:
            await self._something.wait()
            await self._sleep(EVERY_S)
            try:
                await self.write()
                await self._prune()
            except StoreUnavailable as error:
                log.warning("devices_not_written", devices=len(self._waiting), error=str(error))
            except Exception:  # the notes go on while the hub runs
                log.exception("devices_failed")

    async def write(self, *, everything: bool = False) -> None:
        """Write what is noted; the sum of a device's pulls when its minute is over, or `everything`."""
        now_ms = self._now_ms()
        sights: dict[Key, Sight] = {}
        pulls: list[Sync] = []
        # Taken out while it is written, and put back if it was not: meanwhile more is noted.
        for key in self._waiting:
            noted = self._noted[key]
            if noted.sight is not None:
                sights[key], noted.sight = noted.sight, None
            if noted.pulls and (everything or now_ms - noted.row_ms >= SUMMED_MS):
                pulls += noted.pulls.values()
                noted.pulls, noted.row_ms = {}, now_ms
        self._waiting = {key for key in self._waiting if self._noted[key].pulls}
        if not self._waiting:
            self._something.clear()
        try:
            await self._devices.note(sights.values(), pulls)
        except BaseException:
            for sight in sights.values():
                self._note(sight, earlier=True)
            for sync in pulls:
                self._add(sync, row_ms=0)
            raise

    async def _prune(self) -> None:
        if self._wall() - self._pruned_at < PRUNE_EVERY_S:
            return
        self._pruned_at = self._wall()
        if gone := await self._devices.prune(self._now_ms() - self._keep_ms):
            log.info("sync_history_pruned", rows=gone)
        if self._items is not None and (gone := await self._items.prune(self._now_ms() - self._archive_ms)):
            log.info("sync_items_pruned", rows=gone)

    # -- what the sync routes tell --------------------------------------------------------------------------------

    async def pushed(
        self,
        tenant_id: str,
        device_id: str,
        system: str,
        *,
        items: int,
        outcomes: Mapping[str, int],
        device_sequence: int | None,
        backlog: int | None,
        clock_skew_ms: int | None,
        duration_ms: int,
    ) -> bool:
        """Note a push; whether the device was asked to sync and has not pulled everything since.

        `device_sequence`: the highest of its items. `backlog`: what it has left, these items not included.
        """
        now_ms = self._now_ms()
        sight = Sight(
            tenant_id,
            device_id,
            system,
            now_ms,
            pushed_ms=now_ms,
            device_sequence=device_sequence,
            backlog=backlog,
            clock_skew_ms=clock_skew_ms,
        )
        if items:
            sync = Sync(
                tenant_id, device_id, "push", now_ms, duration_ms, items, dict(outcomes), backlog, clock_skew_ms
            )
            await self._devices.note([sight], [sync])
        else:
            # A device that only shows itself.
            self._note(sight)
        key = (tenant_id, device_id)
        if (seconds := self._recoveries.pushed(key, now_ms - duration_ms, now_ms, items, backlog)) is not None:
            self._recovered(seconds)
        return await self.requested(tenant_id, device_id)

    def pulled(
        self,
        tenant_id: str,
        device_id: str,
        system: str,
        *,
        items: int,
        cursor: str,
        sequence: int,
        more: bool,
        duration_ms: int,
        kind: Literal["pull", "snapshot"] = "pull",
    ) -> None:
        """Note a page that a device was given, up to and with the event `sequence`; `more`: another one follows."""
        now_ms = self._now_ms()
        self._recoveries.heard((tenant_id, device_id), now_ms)
        sight = Sight(tenant_id, device_id, system, now_ms, pulled_ms=now_ms)
        if kind == "pull" or not more:
            # Half of a snapshot is no place to have come to.
            sight = replace(sight, cursor=cursor, sequence=sequence)
        if kind == "pull" and not more:
            sight = replace(sight, whole_ms=now_ms - duration_ms)
        self._note(sight)
        if items:
            self._add(Sync(tenant_id, device_id, kind, now_ms, duration_ms, items))

    async def compared(self, tenant_id: str, system: str, report: ComparisonReport) -> None:
        """Note how a device's states compared with the hub's."""
        now_ms, device_id = self._now_ms(), report.device_id
        sight = Sight(tenant_id, device_id, system, now_ms, compared_ms=now_ms, compared_equal=report.equal)
        outcomes = {"equal": 1} if report.equal else {"differing": len(report.differing), "repaired": report.repaired}
        comparison = Comparison(
            tenant_id,
            device_id,
            now_ms,
            report.cursor,
            report.root,
            report.count,
            report.equal,
            tuple(report.differing),
            report.repaired,
        )
        sync = Sync(tenant_id, device_id, "compare", now_ms, 0, report.count, outcomes)
        await self._devices.note([sight], [sync], [comparison])

    async def system_of(self, tenant_id: str, device_id: str) -> str | None:
        """The system that a device pushes for, which stays; None for one that never pushed."""
        key = (tenant_id, device_id)
        known = self._owners.get(key)
        if known is None:
            device = await self._devices.get(tenant_id, device_id)
            if device is None or device.pushed_ms is None:
                return None
            known = self._owners[key] = device.system
            if len(self._owners) > MAX_NOTED:
                self._owners.popitem(last=False)
        return known

    async def requested(self, tenant_id: str, device_id: str) -> bool:
        """Whether a device was asked to sync, and has not pulled everything since."""
        device = await self._devices.get(tenant_id, device_id)
        if device is None or device.requested_ms is None:
            return False
        noted = self._noted.get((tenant_id, device_id))
        # What it pulled a moment ago may not be written yet.
        return noted is None or noted.whole_ms < device.requested_ms

    def _note(self, sight: Sight, *, earlier: bool = False) -> None:
        key = (sight.tenant_id, sight.device_id)
        noted = self._noted.setdefault(key, _Noted())
        self._noted.move_to_end(key)
        held = noted.sight
        if held is not None:
            sight = _joined(sight, held) if earlier else _joined(held, sight)
        noted.sight = sight
        if sight.whole_ms is not None:
            noted.whole_ms = max(noted.whole_ms, sight.whole_ms)
        self._wake(key)
        if len(self._noted) > MAX_NOTED:
            forgotten, _ = self._noted.popitem(last=False)
            self._waiting.discard(forgotten)

    def _add(self, sync: Sync, row_ms: int | None = None) -> None:
        key = (sync.tenant_id, sync.device_id)
        noted = self._noted.get(key)
        if noted is None:
            return
        if (held := noted.pulls.get(sync.kind)) is not None:
            items, duration = held.items + sync.items, held.duration_ms + sync.duration_ms
            sync = replace(sync, at_ms=max(held.at_ms, sync.at_ms), items=items, duration_ms=duration)
        noted.pulls[sync.kind] = sync
        noted.row_ms = noted.row_ms if row_ms is None else row_ms
        self._wake(key)

    def _wake(self, key: Key) -> None:
        self._waiting.add(key)
        self._something.set()

    # -- asking a device to sync ----------------------------------------------------------------------------------

    async def ask(self, claims: Claims, device_id: str, tenant_id: str | None) -> dict[str, Any]:
        """Ask a device to sync now, or `*`, all of a tenant that the token sees (R59).

        It is told at once where it is connected, and remembered for the others. `notified` is False where only the
        latter could be done.

        Raises:
            Problem: `forbidden`; `not_found`; `invalid_request` where the tenant must be named.
        """
        system, own = _sees(claims)
        if device_id != ALL:
            device = await self._find(claims, device_id, tenant_id)
            tenant_id, system = device.tenant_id, device.system
        elif own is not None:
            raise Problem("forbidden", f"the token is for the device {own} alone")
        else:
            tenant_id = _tenant(claims, tenant_id)
        one = None if device_id == ALL else device_id
        asked = await self._devices.request(
            tenant_id, self._now_ms(), device_id=one, system=system if one is None else None
        )
        log.info("sync_requested", device_id=device_id, devices=len(asked), by=claims.system, subject=claims.subject)
        notified = not asked or await self._tell(tenant_id, device_id, system, claims.subject or claims.system)
        return {
            "tenant_id": tenant_id,
            "devices": len(asked),
            "requested": asked[:MAX_NAMED],
            "notified": notified,
        }

    async def wake(self, tenant_id: str, device_id: str, why: str) -> None:
        """Ask a device to sync because the hub has something for it. What fails is logged: it syncs by itself later."""
        try:
            await self._devices.request(tenant_id, self._now_ms(), device_id=device_id)
        except StoreUnavailable as error:
            log.warning("sync_request_not_kept", device_id=device_id, error=str(error))
        await self._tell(tenant_id, device_id, None, why)

    async def _tell(self, tenant_id: str, device_id: str, system: str | None, why: str) -> bool:
        whom = "every device" if device_id == ALL else f"the device {device_id}"
        try:
            await self._announcer.announce(
                tenant_id,
                "notice",
                f"{TOPIC}{device_id}",
                f"Asked {whom} to sync now: {why}"[:500],
                event_id=str(uuid_utils.uuid7()),
                severity="info",
                detail={"code": REQUESTED, "device_id": device_id, "system": system},
                system=system,
            )
        except (Problem, StoreUnavailable, RedisError, OSError) as error:
            log.warning("sync_request_not_told", device_id=device_id, error=str(error) or type(error).__name__)
            return False
        return True

    # -- for people -----------------------------------------------------------------------------------------------

    async def listed(
        self, claims: Claims, tenants: Collection[str] | None, system: str | None, limit: int, after: str | None
    ) -> Listing:
        """Devices of the token's tenants, by tenant and name: those of its own system, or with the scope `ops` all.

        Raises:
            Problem: `forbidden`; `invalid_request` for an `after` that is none.
        """
        own, device_id = _sees(claims)
        for one in tenants or ():
            claims.require_tenant(one)
        if own is not None and system not in (None, own):
            raise Problem("forbidden", f"the token sees the devices of {own} alone; others need the scope ops")
        place = None
        if after is not None:
            found = _PLACE.fullmatch(after)
            if found is None:
                raise invalid_request("after", "must be the `next` of a page, as it was given")
            place = Place(found[1], found[2])
        devices = await self._devices.listed(
            limit + 1, tenants=_within(claims, tenants), system=system or own, device_id=device_id, after=place
        )
        last = devices[limit - 1] if len(devices) > limit else None
        return Listing(
            await self._shown(devices[:limit]), None if last is None else f"{last.tenant_id} {last.device_id}"
        )

    async def get(self, claims: Claims, device_id: str, tenant_id: str | None) -> dict[str, Any]:
        """One device with its last syncs and comparisons, newest first.

        Raises:
            Problem: `not_found`, also for one that the token may not see; `invalid_request` where the tenant must be
                named.
        """
        device = await self._find(claims, device_id, tenant_id)
        [shown] = await self._shown([device])
        syncs = await self._devices.history(device.tenant_id, device_id, HISTORY)
        comparisons = await self._devices.comparisons(device.tenant_id, device_id, HISTORY)
        return shown | {
            "history": [_shown_sync(one) for one in syncs],
            "comparisons": [_shown_comparison(one) for one in comparisons],
        }

    async def _find(self, claims: Claims, device_id: str, tenant_id: str | None) -> Device:
        system, own = _sees(claims)
        within = None if tenant_id is None else [tenant_id]
        missing = Problem("not_found", f"there is no device {device_id[:100]} that has ever synced")
        if own not in (None, device_id) or (tenant_id is not None and not claims.holds(tenant_id)):
            raise missing
        found = await self._devices.listed(3, tenants=_within(claims, within), system=system, device_id=device_id)
        if not found:
            raise missing
        if len(found) > 1:
            names = ", ".join(one.tenant_id for one in found)
            raise invalid_request("tenant", f"is missing: several have a device of this name, like {names}; name one")
        return found[0]

    async def _shown(self, devices: list[Device]) -> list[dict[str, Any]]:
        now_ms = self._now_ms()
        heads = await self._history.heads({one.tenant_id for one in devices}) if devices else {}
        return [_shown(one, now_ms, heads[one.tenant_id].sequence) for one in devices]

    def _now_ms(self) -> int:
        return int(self._wall() * 1000)


def _joined(held: Sight, later: Sight) -> Sight:
    """Both, the later one where they differ."""
    told = {one.name: getattr(later, one.name) for one in fields(later)}
    return replace(held, **{name: value for name, value in told.items() if value is not None})


# -- who may see which --------------------------------------------------------------------------------------------


def _sees(claims: Claims) -> tuple[str | None, str | None]:
    """The system and the device that a token is bound to; None: whatever."""
    if claims.has("ops"):
        return None, None
    if not claims.has("sync"):
        raise Problem("forbidden", "the token lacks the scope sync or ops")
    return None if claims.system == HUB else claims.system, claims.device_id


def _within(claims: Claims, tenants: Collection[str] | None) -> Collection[str] | None:
    return tenants or (None if claims.all_tenants else claims.tenants)


def _tenant(claims: Claims, named: str | None) -> str:
    if named is None:
        if claims.all_tenants or len(claims.tenants) != 1:
            raise invalid_request("tenant", "is missing: the token holds several; name one")
        named = next(iter(claims.tenants))
    claims.require_tenant(named)
    return named


# -- as the API says it -------------------------------------------------------------------------------------------


def _shown(device: Device, now_ms: int, head: int) -> dict[str, Any]:
    return {
        "tenant_id": device.tenant_id,
        "device_id": device.device_id,
        "system": device.system,
        "state": presence(device, now_ms),
        "warnings": list(warnings(device, now_ms)),
        "first_seen_at": instant(device.first_seen_ms),
        "last_seen_at": instant(device.last_seen_ms),
        "pushed_at": _at(device.pushed_ms),
        "pulled_at": _at(device.pulled_ms),
        "device_sequence": device.device_sequence,
        "backlog": device.backlog,
        "clock_skew_ms": device.clock_skew_ms,
        "cursor": device.cursor,
        "sequence": device.sequence,
        "behind": None if device.sequence is None else max(0, head - device.sequence),
        "sync_requested_at": _at(device.requested_ms),
        "compared_at": _at(device.compared_ms),
        "compared_equal": device.compared_equal,
    }


def _shown_sync(sync: Sync) -> dict[str, Any]:
    return {
        "kind": sync.kind,
        "at": instant(sync.at_ms),
        "duration_ms": sync.duration_ms,
        "items": sync.items,
        "outcomes": dict(sync.outcomes),
        "backlog": sync.backlog,
        "clock_skew_ms": sync.clock_skew_ms,
    }


def _shown_comparison(one: Comparison) -> dict[str, Any]:
    return {
        "at": instant(one.at_ms),
        "cursor": one.cursor,
        "root": one.root,
        "count": one.count,
        "equal": one.equal,
        "differing": list(one.differing),
        "repaired": one.repaired,
    }


def _at(ms: int | None) -> str | None:
    return None if ms is None else instant(ms)
