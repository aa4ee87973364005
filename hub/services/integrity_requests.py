"""What operators ask of integrity: the runs there are, the devices, and a comparison now."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import structlog

from hub.core.delivery import instant
from hub.core.device_states import Device, presence, warnings
from hub.core.integrity import KINDS, Kind
from hub.log.tenants import Tenants
from hub.security.tokens import Claims
from hub.services.ending import end
from hub.services.integrity import IntegrityJob
from hub.services.integrity_checks import Progress
from hub.services.named_tenant import named_tenant
from hub.store.integrity import Integrity, IntegrityRun
from hub.store.store import Store

MAX_PAGE: Final = 400
MAX_DEVICES: Final = 500
PATIENCE_S: Final = 20.0
"""How long an answer waits for a comparison that goes on."""
KEPT_S: Final = 60.0
"""How long a comparison that is done is there for those who ask again."""

log = structlog.get_logger("hub.integrity")


@dataclass(slots=True)
class _Running:
    task: asyncio.Task[IntegrityRun]
    progress: Progress
    done_at: float = 0.0

    def ended(self, task: asyncio.Task[IntegrityRun]) -> None:
        """Note that it is over. Its error is looked at, or it would be complained of where nobody waits any more."""
        self.done_at = time.monotonic()
        if not task.cancelled() and (error := task.exception()) is not None:
            log.warning("comparison_failed", error=str(error) or type(error).__name__)


class IntegrityRequests:
    """Answers them. Owned by the composition root, which awaits `stop`."""

    def __init__(
        self,
        store: Store,
        tenants: Tenants,
        job: IntegrityJob,
        *,
        wall: Callable[[], float] = time.time,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._integrity = Integrity(store.database)
        self._devices = store.sync_devices
        self._tenants = tenants
        self._job = job
        self._wall = wall
        self._patience_s = patience_s
        self._running: dict[str, _Running] = {}

    async def stop(self) -> None:
        """End comparisons that were asked for and go on."""
        for one in list(self._running.values()):
            await end(one.task)

    async def listed(self, claims: Claims, tenant: str | None, kind: Kind | None, limit: int) -> dict[str, Any]:
        """The newest runs, and how every device compared last, those that should be looked at first: with the scope
        `sync` alone, the devices of the token's own system.

        Raises:
            Problem: `forbidden`.
        """
        if not claims.has("ops"):
            claims.require("sync")
        if tenant is not None:
            claims.require_tenant(tenant)
        tenants = [tenant] if tenant is not None else None if claims.all_tenants else sorted(claims.tenants)
        found: dict[str, Any] = {}
        for one in KINDS:
            runs = [] if kind not in (None, one) else await self._integrity.listed(one, limit, tenants=tenants)
            found[one] = [shown(run) for run in runs]
        now = int(self._wall() * 1000)
        system = None if claims.has("ops") else claims.system
        devices = await self._devices.listed(MAX_DEVICES, tenants=tenants, system=system)
        found["devices"] = [_device(one, now) for one in sorted(devices, key=lambda one: not warnings(one, now))]
        return found

    async def run(self, claims: Claims, tenant: str | None) -> tuple[IntegrityRun | None, Progress]:
        """Compare a property's data now, or join those who do already; the run, None while it goes on: ask again.

        Raises:
            Problem: `forbidden`, `not_found`; or it cannot be done now.
            StoreUnavailable, RedisError, OSError: the store or the log does not answer.
        """
        claims.require("ops")
        described = await named_tenant(self._tenants, claims, tenant)
        name = described.tenant_id
        running = self._running.get(name)
        if running is None or (running.task.done() and time.monotonic() - running.done_at > KEPT_S):
            progress = Progress()
            task = asyncio.create_task(self._job.daily_now(described, progress), name=f"integrity-{name}")
            running = self._running[name] = _Running(task, progress)
            task.add_done_callback(running.ended)
            log.info("comparison_asked_for", tenant=name, by=claims.system)
        await asyncio.wait([running.task], timeout=self._patience_s)
        if not running.task.done():
            return None, running.progress
        # Who asks next begins anew; who waited beside us has the task itself.
        if self._running.get(name) is running:
            del self._running[name]
        return running.task.result(), running.progress


def shown(run: IntegrityRun) -> dict[str, Any]:
    """A run as the API says it."""
    return {
        "tenant_id": run.tenant_id,
        "kind": run.kind,
        "day": run.day.isoformat(),
        "made_at": instant(run.made_ms),
        "ok": run.ok,
    } | run.body


def _device(one: Device, now_ms: int) -> dict[str, Any]:
    return {
        "tenant_id": one.tenant_id,
        "device_id": one.device_id,
        "system": one.system,
        "state": presence(one, now_ms),
        "last_seen_at": instant(one.last_seen_ms),
        "backlog": one.backlog,
        "compared_at": None if one.compared_ms is None else instant(one.compared_ms),
        "equal": one.compared_equal,
        "warnings": list(warnings(one, now_ms)),
    }
