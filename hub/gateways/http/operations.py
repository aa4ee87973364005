"""For operators: health, metrics, consumer groups, dead letters, tenants."""

from __future__ import annotations

import time
from typing import Annotated, Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hub.core.delivery import class_of
from hub.core.entry import NOT_AN_EVENT
from hub.gateways.http.context import Asking, Hub, Services, body, json
from hub.log.dead_letters import DeadLetter
from hub.log.groups import group_states
from hub.security.tokens import Claims
from schemas import registry, strict_json
from schemas.errors import Problem

health = APIRouter(tags=["operations"])
router = APIRouter(tags=["operations"])


@health.get("/healthz")
async def healthz() -> Response:
    """The process lives."""
    return json({"status": "ok"})


@health.get("/readyz", responses={503: {"description": "Not ready; `checks` says why"}})
async def readyz(hub: Hub) -> Response:
    """Whether this process can take and deliver events, and how durable an acknowledgement is."""
    found = hub.readiness()
    return json(found, 200 if found["ready"] else 503)


@health.get("/metrics", responses={200: {"content": {"text/plain": {}}}})
async def metrics(hub: Hub) -> Response:
    """Prometheus metrics."""
    return Response(hub.metrics_page(), media_type="text/plain; version=0.0.4; charset=utf-8")


@router.get("/groups")
async def groups(hub: Hub, claims: Asking) -> Response:
    """Per consumer group and partition: lag (null: unknown), pending, oldest pending age, consumers. Scope `ops`."""
    claims.require("ops")
    states = await group_states(hub.log, int(time.time() * 1000))
    return json(
        {
            "groups": [
                {
                    "group": state.group,
                    "partition": f"p{state.partition:02d}",
                    "lag": state.lag,
                    "pending": state.pending,
                    "oldest_pending_seconds": state.oldest_pending_s,
                    "consumers": state.consumers,
                    "last_delivered_id": str(state.last_delivered),
                }
                for state in sorted(states, key=lambda one: (one.group, one.partition))
            ]
        }
    )


@router.get("/dead-letters")
async def dead_letters(hub: Hub, claims: Asking, group: str | None = None, limit: int = 100) -> Response:
    """Dead letters of one group or of all, oldest first, with their events. Scope `ops`."""
    claims.require("ops")
    names = [group] if group else await hub.dead_letters.groups()
    tenants = None if claims.all_tenants else claims.tenants
    letters: list[DeadLetter] = []
    for name in names:
        letters += await hub.dead_letters.listed(name, min(max(limit, 1), 1000) - len(letters), tenants)
    return json({"dead_letters": [_shown(letter, claims) for letter in letters]})


def _shown(letter: DeadLetter, claims: Claims) -> dict[str, Any]:
    event = letter.event()
    if claims.view == "masked":
        try:
            event = registry.mask(event)
        except NOT_AN_EVENT:  # whose fields are whose is not known
            event = None
    summary = letter.summary()
    if claims.view == "masked":
        summary["reason"] = class_of(letter.reason)
    return summary | {"event": event}


class Chosen(BaseModel):
    """Which dead letters; without `ids` all of the group that the token's tenants allow."""

    model_config = ConfigDict(strict=True, extra="forbid")

    group: Annotated[str, Field(min_length=1)]
    ids: Annotated[list[str], Field(min_length=1, max_length=1000)] | None = None


_CHOSEN = {"requestBody": {"required": True, "content": {"application/json": {"schema": Chosen.model_json_schema()}}}}


async def _chosen(request: Request, hub: Services, claims: Claims) -> tuple[str, list[DeadLetter]]:
    claims.require("ops")
    try:
        chosen = Chosen.model_validate(strict_json.loads(await body(request)))
    except ValidationError as error:
        raise registry.refused(error) from None
    if chosen.ids is None:
        tenants = None if claims.all_tenants else claims.tenants
        return chosen.group, await hub.dead_letters.listed(chosen.group, 1000, tenants)
    mine = []
    for id in chosen.ids:
        letter = await hub.dead_letters.get(chosen.group, id)
        # Another hotel's letter is not there for this token.
        if letter is not None and claims.holds(letter.tenant_id):
            mine.append(letter)
    return chosen.group, mine


@router.post("/dead-letters/redrive", openapi_extra=_CHOSEN)
async def redrive(request: Request, hub: Hub, claims: Asking) -> Response:
    """Hand dead letters to their group again. Repeating it moves nothing twice. Scope `ops`."""
    group, letters = await _chosen(request, hub, claims)
    moved = await hub.dead_letters.redrive(group, [letter.id for letter in letters])
    hub.recorder.redriven(letters, moved)
    return json({"redriven": len(moved)})


@router.post("/dead-letters/discard", openapi_extra=_CHOSEN)
async def discard(request: Request, hub: Hub, claims: Asking) -> Response:
    """Remove dead letters for good; their events stay in the log. Scope `ops`."""
    group, letters = await _chosen(request, hub, claims)
    removed = await hub.dead_letters.discard(group, [letter.id for letter in letters])
    if removed == len(letters):
        hub.recorder.discarded(letters)
    return json({"discarded": removed})


@router.get("/tenants")
async def tenants(hub: Hub, claims: Asking) -> Response:
    """The properties this token holds, with their settings and last sequence."""
    return json(
        {
            "tenants": [
                tenant.model_dump() | {"sequence": 0 if head is None else head.sequence}
                for tenant, head in await hub.tenants.listed()
                if claims.holds(tenant.tenant_id)
            ]
        }
    )


@router.post("/tenants", status_code=201)
async def put_tenant(request: Request, hub: Hub, claims: Asking) -> Response:
    """Describe a property: name, currency, timezone, rollover_hour. Scope `admin`."""
    claims.require("admin")
    values = strict_json.loads(await body(request))
    if not isinstance(values, dict):
        raise Problem("invalid_request", "the body is a JSON object with tenant_id")
    claims.require_tenant(str(values.get("tenant_id", "")))
    return json((await hub.tenants.put(values)).model_dump(), 201)
