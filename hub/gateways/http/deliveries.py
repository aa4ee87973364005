"""What became of events: `/deliveries`, and the story of one event."""

from __future__ import annotations

import time
from typing import Annotated, Any, Final, get_args

from fastapi import APIRouter, Query
from fastapi.responses import Response

from hub.gateways.http.context import Asking, Hub, instant, json, listed, page_limit, patterns_of, system_of
from hub.security.tokens import Claims
from hub.services.deliveries import MAX_PAGE, Status, Wanted
from schemas.delivery import DeliveryPage, EventTrace
from schemas.errors import Problem, invalid_request

MAX_AGO: Final = 16
"""Characters of how long ago: a number is not read before its length is known."""
_UNITS_S: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}

router = APIRouter(tags=["deliveries"])


@router.get("/deliveries", responses={200: {"model": DeliveryPage, "description": "Delivery logs and `next`"}})
async def deliveries(
    hub: Hub,
    claims: Asking,
    tenant: Annotated[list[str], Query(description="Tenants; all of the token by default")] = [],  # noqa: B006
    event_id: Annotated[str | None, Query(description="Only this event")] = None,
    system: Annotated[str | None, Query(description="Only events for this system; `status` is then its own")] = None,
    patterns: Annotated[list[str], Query(description="`type.action`, `type.*` or `*`; several, or with commas")] = [],  # noqa: B006
    status: Annotated[
        str | None, Query(description="success, failed, retrying, pending, or outstanding: pending for too long")
    ] = None,
    since: Annotated[
        str | None,
        Query(description="Stored (with failed and retrying: failed) at or after this instant, or so long ago: `1h`"),
    ] = None,
    until: Annotated[str | None, Query(description="Before this instant, or so long ago")] = None,
    limit: Annotated[str | None, Query(description="At most so many, 100 by default")] = None,
    after: Annotated[str | None, Query(description="`next` of the page before")] = None,
) -> Response:
    """Delivery logs (R93), oldest first. A page may be empty and lead on. Scope `ops`."""
    claims.require("ops")
    now_ms = int(time.time() * 1000)
    wanted = Wanted(
        _tenants(claims, listed(tenant)),
        frozenset(patterns_of(patterns)),
        system_of(system),
        _status(status),
        _moment("since", since, now_ms) or 0,
        _moment("until", until, now_ms),
        page_limit(limit, MAX_PAGE),
        after,
    )
    if event_id is not None:
        page = await hub.deliveries.find(claims, event_id.lower(), wanted)
    else:
        page = await hub.deliveries.page(claims, wanted)
    return json(page.model_dump_json().encode())


@router.get(
    "/events/{event_id}/trace",
    responses={
        200: {"model": EventTrace, "description": "The delivery log with its `timeline`"},
        404: {"description": "Not there, or not for this token"},
    },
)
async def trace(
    event_id: str,
    hub: Hub,
    claims: Asking,
    tenant: Annotated[list[str], Query()] = [],  # noqa: B006
) -> Response:
    """The whole story of one event: its append, each system, each attempt, each acknowledgement. Sessions,
    subscriptions and errors of other systems are shown with the scope `ops`."""
    tenants = await hub.reader.tenants(claims, listed(tenant))
    entry = await hub.reader.find(claims, event_id.lower(), tenants)
    if entry is None:
        raise Problem("not_found", f"there is no event {event_id[:64]} for this token")
    found = await hub.deliveries.trace(claims, entry)
    return json(found.model_dump_json().encode())


def _tenants(claims: Claims, named: list[str]) -> frozenset[str] | None:
    for tenant in named:
        claims.require_tenant(tenant)
    if named:
        return frozenset(named)
    return None if claims.all_tenants else claims.tenants


def _status(text: str | None) -> Any:
    if text is not None and text not in get_args(Status):
        raise invalid_request("status", f"must be one of {', '.join(get_args(Status))}")
    return text


def _moment(name: str, text: str | None, now_ms: int) -> int | None:
    """An instant, or how long ago; Unix ms."""
    if text is not None and text[-1:] in _UNITS_S and text[:-1].isascii() and text[:-1].isdigit():
        ago = int(text[:-1]) * _UNITS_S[text[-1]] * 1000 if len(text) <= MAX_AGO else now_ms + 1
        if ago > now_ms:
            raise invalid_request(name, "is longer ago than there were computers")
        return now_ms - ago
    found = instant(name, text)
    if found is not None and found < 0:
        raise invalid_request(name, "must not be before 1970")
    return found
