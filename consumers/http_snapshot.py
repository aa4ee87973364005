"""A snapshot read page by page over HTTP, for a client that has no WebSocket to be sent it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from consumers.clock import Clock
from consumers.errors import Disconnected, HubRefused, SubscriptionRefused
from consumers.http_api import HubHttp, StatePage
from consumers.intake import SUBSCRIPTION, Intake
from schemas.cursor import Cursor, tenant_mark
from schemas.frames import MAX_PAGE, Snapshot, SnapshotEntity

_ANSWER_S: Final = 10.0


async def take(
    http: HubHttp,
    clock: Clock,
    intake: Intake,
    *,
    patterns: Sequence[str],
    tenants: Sequence[str] | None,
    entities: Sequence[str] | None,
) -> None:
    """Hand every page to the intake, and let events follow from where they are true.

    Raises:
        AccessRefused: the hub does not let the token in.
        SubscriptionRefused: the hub does not give it.
        Disconnected: the hub cannot be read now; nothing counts as reached.
    """
    types = {pattern.partition(".")[0] for pattern in patterns}
    ends: list[tuple[str | None, str]] = []
    for tenant in tenants or (None,):
        owners = set() if tenant is None else {tenant}
        query = {"limit": str(MAX_PAGE)} | ({} if tenant is None else {"tenant": tenant})
        if "*" not in types:
            query["type"] = ",".join(sorted(types))
        while True:
            page = await _page(http, clock, query)
            pages: dict[str, list[SnapshotEntity]] = {}
            for one in page.entities:
                owners.add(one.tenant_id)
                # Up to a thousand entities may be asked for: too many for an address.
                if entities is None or one.entity in entities:
                    pages.setdefault(one.tenant_id, []).append(one)
            for owner, found in pages.items():
                await intake.snapshot(_frame(owner, found, None))
            if page.next is None:
                break
            query["after"] = page.next
        marks = {Cursor.decode(part).tenant: part for part in (page.cursor or "").split(".") if part}
        for owner in sorted(owners):
            await intake.snapshot(_frame(owner, [], marks.get(tenant_mark(owner))))
        if page.cursor:
            ends.append((tenant, page.cursor))
    intake.snapshot_taken()
    for tenant, cursor in ends:
        intake.progress.move_to(cursor, tenant=tenant, guessed=False)


def _frame(tenant: str, entities: list[SnapshotEntity], cursor: str | None) -> Snapshot:
    return Snapshot(
        op="snapshot", id=SUBSCRIPTION, tenant_id=tenant, entities=entities, more=cursor is None, cursor=cursor
    )


async def _page(http: HubHttp, clock: Clock, query: dict[str, str]) -> StatePage:
    try:
        async with clock.timeout(_ANSWER_S):
            return await http.snapshot(query)
    except TimeoutError as error:
        raise Disconnected("no page in time") from error
    except HubRefused as problem:
        if problem.retryable:
            raise Disconnected(f"no page now: {problem.code}") from problem
        raise SubscriptionRefused(problem.code, problem.message) from problem
