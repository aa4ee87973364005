"""What devices ask of the hub: changes, states, digests; and how their comparisons ended. On behalf of tokens."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from typing import Final, Literal, Protocol

from hub.security.tokens import Claims
from hub.services.history import History
from hub.services.sync_asker import Owners, device_of, require_owner, tenant_of
from hub.services.sync_digest import MAX_BUCKETS, SyncDigests
from hub.services.sync_pull import SyncPull
from hub.services.sync_snapshot import Asked, SyncSnapshots
from hub.services.sync_view import TYPES, SyncView
from hub.store.database import StoreUnavailable
from hub.telemetry import Metrics
from schemas.cursor import Cursor
from schemas.errors import Problem, invalid_request
from schemas.sync import BUCKETS, ComparisonReport

MAX_ENTITIES: Final = 500


class Devices(Owners, Protocol):
    """What is kept of devices: `hub.services.devices.DeviceDesk`."""

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
        """Note a page that a device was given."""
        ...

    async def compared(self, tenant_id: str, system: str, report: ComparisonReport) -> None:
        """Keep how a device's comparison ended. Raises `StoreUnavailable`."""
        ...


class SyncReading:
    """Every method needs the scope `sync` and the whole view, and raises `Problem`: `forbidden` without."""

    def __init__(
        self, history: History, devices: Devices, metrics: Metrics, *, now: Callable[[], float] = time.monotonic
    ) -> None:
        view = SyncView(history)
        self._pull = SyncPull(view, metrics)
        self._snapshots = SyncSnapshots(view)
        self._digests = SyncDigests(view)
        self._devices = devices
        self._now = now

    async def pull(
        self, claims: Claims, tenant: str | None, after: str | None, limit: int, device_id: str | None = None
    ) -> bytes:
        """A page of changes, as JSON.

        Raises:
            Problem: `forbidden`, `invalid_request`; as `SyncPull.page`.
        """
        tenant_id, device = await self._asking(claims, tenant, device_id)
        begun = self._now()
        page = await self._pull.page(claims.system, tenant_id, after, limit)
        if device is not None and page.gap is None:
            self._note(claims, tenant_id, device, "pull", page.next, len(page.changes), page.more, begun)
        return page.body()

    async def snapshot(
        self,
        claims: Claims,
        tenant: str | None,
        after: str | None,
        limit: int,
        device_id: str | None = None,
        *,
        types: Collection[str] = (),
        entities: Sequence[str] = (),
    ) -> bytes:
        """A page of states, as JSON.

        Raises:
            Problem: `forbidden`, `invalid_request`; as `SyncSnapshots.page`.
        """
        tenant_id, device = await self._asking(claims, tenant, device_id)
        for type in types:
            if type not in TYPES:
                raise invalid_request("type", f"{type[:100]!r} is not held by devices; there are {', '.join(TYPES)}")
        if len(entities) > MAX_ENTITIES:
            raise invalid_request("entity", f"at most {MAX_ENTITIES} at once; ask for the others in another question")
        asked = Asked(claims.system, tenant_id, tuple(sorted(set(types))) or TYPES, frozenset(entities))
        begun = self._now()
        page = await self._snapshots.page(asked, limit, after)
        if device is not None and not types and not entities:
            # Some of them are a repair, and no place to have come to.
            more = page.next is not None
            self._note(claims, tenant_id, device, "snapshot", page.cursor, len(page.records), more, begun)
        return page.body()

    def _note(
        self,
        claims: Claims,
        tenant_id: str,
        device_id: str,
        kind: Literal["pull", "snapshot"],
        cursor: str,
        items: int,
        more: bool,
        begun: float,
    ) -> None:
        self._devices.pulled(
            tenant_id,
            device_id,
            claims.system,
            items=items,
            cursor=cursor,
            sequence=Cursor.decode(cursor).sequence,
            more=more,
            duration_ms=int((self._now() - begun) * 1000),
            kind=kind,
        )

    async def digest(self, claims: Claims, tenant: str | None, buckets: Sequence[str] | None = None) -> bytes:
        """The digest tree, as JSON, and of `buckets` (two hex digits each) the states.

        Raises:
            Problem: `forbidden`, `invalid_request`; as `SyncDigests.digest`.
        """
        tenant_id, _ = await self._asking(claims, tenant, None)
        wanted = None if buckets is None else {_bucket(one) for one in buckets}
        if wanted is not None and len(wanted) > MAX_BUCKETS:
            raise invalid_request("bucket", f"at most {MAX_BUCKETS} at once; ask for the others in another question")
        return (await self._digests.digest(claims.system, tenant_id, wanted)).model_dump_json().encode()

    async def compared(self, claims: Claims, report: ComparisonReport) -> str:
        """Keep how a device's comparison ended; the tenant.

        Raises:
            Problem: `forbidden`, `invalid_request`, `invalid_cursor`; `store_unavailable`, `log_unavailable`: it was
                not kept.
        """
        tenant_id, _ = await self._asking(claims, report.tenant_id, report.device_id, "tenant_id")
        Cursor.decode(report.cursor, tenant_id)
        if report.equal and report.differing:
            raise invalid_request("equal", "is true, and `differing` names states; say false where any differed")
        if report.equal:
            # What was true at an earlier cursor can no longer be told.
            now = await self._digests.digest(claims.system, tenant_id)
            if now.cursor == report.cursor and now.root != report.root:
                raise invalid_request(
                    "root", f"is not the hub's at this cursor, {now.root}; compare again, or say false"
                )
        try:
            await self._devices.compared(tenant_id, claims.system, report)
        except StoreUnavailable as error:
            raise Problem("store_unavailable", "the report was not kept; send it again") from error
        return tenant_id

    async def _asking(
        self, claims: Claims, tenant: str | None, device_id: str | None, parameter: str = "tenant"
    ) -> tuple[str, str | None]:
        """Whose states are asked for, and which device asks, if one does: one of this system, as for a push."""
        claims.syncing()
        tenant_id, device = tenant_of(claims, tenant, parameter), device_of(claims, device_id)
        if device is not None:
            # What is in the log can be read without the store.
            with suppress(StoreUnavailable):
                await require_owner(self._devices, claims, tenant_id, device)
        return tenant_id, device


def _bucket(text: str) -> int:
    if len(text) != 2 or not all(one in "0123456789abcdef" for one in text):
        raise invalid_request("bucket", f"{text[:20]!r} is not two hex digits, 00 to {BUCKETS - 1:02x}")
    return int(text, 16)
