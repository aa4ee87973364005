"""What a daily comparison (R80) and a week's statistics (R81) say of a property: looked up, not yet told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Any, Final

from hub.core.anomalies import LEAST_WEEKS, WEEKS, Anomaly, Figure, anomalies
from hub.core.calendar import Period, closes_ms, number_of, opens_ms
from hub.core.delivery import instant
from hub.core.device_states import Device, presence
from hub.core.integrity import MAX_TOLD, Examined, Finding, data_findings, device_findings
from hub.log.tenants import Tenant
from hub.services.report_maker import ReportMaker
from hub.services.state_comparison import Compared, StateComparison
from hub.store import chain
from hub.store.integrity import Integrity
from hub.store.places import Archived, Mark
from hub.store.refolds import Refolds
from hub.store.store import Store
from hub.store.sync_devices import Place

CHAIN_ROWS: Final = 100
"""Events of a chain that are checked before it is others' turn: some 2 ms."""
PATIENCE_S: Final = 10.0
POLL_S: Final = 0.25
DEVICES: Final = 500
LEAST_ITEMS: Final = 20
"""Items of a week of whose lateness something can be said."""


@dataclass(slots=True)
class Progress:
    """How far a comparison is."""

    chain_events: int = 0
    compared: Compared = field(default_factory=Compared)


@dataclass(frozen=True, slots=True)
class Examination:
    """The body of a run, and what is to be told of it."""

    body: dict[str, Any]
    findings: tuple[Finding, ...]
    unusual: tuple[Anomaly, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.unusual and not any(one.wrong for one in self.findings)


class IntegrityChecks:
    """Looks at properties, one or several at a time."""

    def __init__(
        self,
        store: Store,
        maker: ReportMaker,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        all_events: int | None = None,
    ) -> None:
        self._store = store
        self._maker = maker
        self._integrity = Integrity(store.database)
        self._refolds = Refolds(store.database)
        self._devices = store.sync_devices
        more = {} if all_events is None else {"all_events": all_events}
        self._comparison = StateComparison(store, sleep=sleep, **more)
        self._sleep = sleep

    # -- daily ----------------------------------------------------------------------------------------------------

    async def daily(self, tenant: Tenant, day: date, now_ms: int, progress: Progress) -> Examination:
        """Compare what there is of a property now; the events are looked through from the run before on, at first all.

        Raises:
            StoreUnavailable: nothing is known.
        """
        name, begun = tenant.tenant_id, time.monotonic()
        archived = (await self._store.archive.tenants([name])).get(name)
        if archived is None:
            body = {"chain": {"events": 0, "broken": None}, "findings": []}
            return Examination(body, ())
        before = await self._integrity.before(name, "daily", day)
        opened_ms = opens_ms(day, tenant.zone, tenant.rollover_hour)
        since_ms = 0 if before is None else min(opened_ms, before.made_ms)
        broken = await self._chain(archived, name, since_ms, progress)
        behind = await self._behind(archived, name)
        compared = progress.compared
        await self._comparison.compare(archived, compared, since_ms=since_ms, part=number_of(day))
        devices = await self._all_devices(name)
        seen = Examined(progress.chain_events, broken, compared.states, compared.differing, compared.examples, behind)
        findings = (*data_findings(seen), *device_findings(devices, now_ms))
        return Examination(
            {
                "since": instant(since_ms) if since_ms else None,
                "chain": {"events": progress.chain_events, "broken": broken},
                "states": {
                    "compared": compared.states,
                    "partial": compared.partial,
                    "entities": compared.entities,
                    "left_out": compared.left_out,
                    "events": compared.events,
                    "differing": compared.differing,
                    "examples": compared.examples,
                },
                "behind": behind,
                "counts": {
                    "states": await self._integrity.states(archived.tenant_no),
                    "events": await self._integrity.volume(
                        archived.tenant_no, opened_ms, closes_ms(day, tenant.zone, tenant.rollover_hour)
                    ),
                },
                "devices": _counted(devices, findings, now_ms),
                "findings": [one.body() for one in findings[:MAX_TOLD]],
                "duration_ms": int((time.monotonic() - begun) * 1000),
            },
            findings,
        )

    async def _chain(self, archived: Archived, name: str, since_ms: int, progress: Progress) -> str | None:
        """What is wrong with a tenant's chain since a time, and in what came meanwhile."""
        first = await self._refolds.position_before(archived.tenant_no, since_ms) if since_ms else 0
        # The one before is taken along, so that the day hangs together with what was there.
        newest = None if first <= archived.base_position else archived.position - first + 1
        broken = None
        async for result in chain.verify(self._store.database, name, newest=newest, page=CHAIN_ROWS):
            progress.chain_events, broken = result.events, result.broken
            await asyncio.sleep(0)
        return broken

    async def _behind(self, archived: Archived, name: str) -> int:
        """How many of the events that are archived now are in no state, after the projector had time for them."""
        waited = 0.0
        while True:
            _, reached = (await self._store.entities.marks([name]))[name]
            behind = archived.position - max(reached.position, archived.base_position)
            if behind <= 0 or waited >= PATIENCE_S:
                return max(0, behind)
            await self._sleep(POLL_S)
            waited += POLL_S

    async def _all_devices(self, name: str) -> list[Device]:
        found: list[Device] = []
        after: Place | None = None
        while page := await self._devices.listed(DEVICES, tenants=[name], after=after):
            found += page
            after = Place(page[-1].tenant_id, page[-1].device_id)
            if len(page) < DEVICES:
                break
        return found

    # -- weekly ---------------------------------------------------------------------------------------------------

    async def weekly(self, tenant: Tenant, week: Period) -> Examination:
        """A week's statistics, and what of them is out of the ordinary.

        Raises:
            Behind: the facts are not true up to now yet.
            StoreUnavailable, RedisError, OSError: the store or the log does not answer.
        """
        name = tenant.tenant_id
        mark = await self._maker.caught_up(name)
        archived = (await self._store.archive.tenants([name])).get(name)
        if archived is None:
            return Examination({"figures": {}, "anomalies": [], "weeks": 0}, ())
        first = await self._integrity.first_ms(archived.tenant_no)
        history = []
        for back in range(WEEKS, 0, -1):
            earlier = Period(week.start - timedelta(days=7 * back), week.end - timedelta(days=7 * back))
            # A week in which the property was not there yet says nothing of it.
            if first is not None and first <= opens_ms(earlier.start, tenant.zone, tenant.rollover_hour):
                history.append(await self._statistics(tenant, archived.tenant_no, earlier, mark))
        figures = await self._statistics(tenant, archived.tenant_no, week, mark)
        unusual = anomalies(figures, history)
        body = {
            "period_end": week.end.isoformat(),
            "currency": tenant.currency,
            "figures": {figure: one.value for figure, one in figures.items()},
            "weeks": len(history),
            "anomalies": [_anomaly(one) for one in unusual[:MAX_TOLD]],
        }
        if len(history) < LEAST_WEEKS:
            body["note"] = f"nothing to compare with yet: {LEAST_WEEKS} weeks are needed"
        return Examination(body, (), tuple(unusual))

    async def _statistics(self, tenant: Tenant, tenant_no: int, week: Period, mark: Mark) -> Mapping[str, Figure]:
        facts = await self._maker.counted(tenant, week, mark)
        opened = opens_ms(week.start, tenant.zone, tenant.rollover_hour)
        closed = closes_ms(week.end, tenant.zone, tenant.rollover_hour)
        volume = await self._integrity.volume(tenant_no, opened, closed)
        late = await self._integrity.lateness(tenant.tenant_id, opened, closed)
        said = late.items >= LEAST_ITEMS
        return {
            "events": Figure("count", sum(volume.values())),
            **{f"events of {type}": Figure("count", count) for type, count in sorted(volume.items())},
            "room revenue": Figure("money", float(facts.room_revenue)),
            "other revenue": Figure("money", float(facts.other_revenue)),
            "occupancy": Figure("share", facts.occupancy_rate if facts.available_room_nights else None),
            "items synced": Figure("count", late.items),
            "lateness of synced items, median": Figure("seconds", late.p50 if said else None),
            "lateness of synced items, 95 in 100": Figure("seconds", late.p95 if said else None),
        }


def _anomaly(one: Anomaly) -> dict[str, Any]:
    return {
        "figure": one.figure,
        "value": one.value,
        "usual": one.usual,
        "low": one.low,
        "high": one.high,
        "score": one.score,
        "words": one.words,
    }


def _counted(devices: list[Device], findings: tuple[Finding, ...], now_ms: int) -> dict[str, Any]:
    counts: dict[str, int] = {}
    for one in devices:
        state = presence(one, now_ms)
        counts[state] = counts.get(state, 0) + 1
    return {
        "by_state": counts,
        "unequal": [one.about for one in findings if one.what == "device_unequal"][:MAX_TOLD],
        "silent": [one.about for one in findings if one.what == "device_silent"][:MAX_TOLD],
    }
