"""Conflicts between devices that worked offline and the others: `/conflicts`."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, cast

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic import ValidationError

from hub.gateways.http.context import Asking, Hub, body, json, listed, page_limit, tenant_id
from hub.services.conflict_desk import MAX_PAGE, ResolveRequest
from hub.store.sync_conflicts import STATES, ConflictFilter, State
from schemas import registry, strict_json
from schemas.errors import Problem, invalid_request
from schemas.types import ENTITY_FORM

_ID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_DEVICE: Final = re.compile(r"[!-~]{1,100}")
_ENTITY: Final = re.compile(ENTITY_FORM.removesuffix("$"))

router = APIRouter(tags=["sync"])
_MISSING: dict[int | str, dict[str, Any]] = {404: {"description": "Not there, or not for this token"}}
_REQUEST = {
    "requestBody": {"required": True, "content": {"application/json": {"schema": ResolveRequest.model_json_schema()}}}
}


@router.get("/conflicts", responses={200: {"description": '`{"conflicts": […], "next"}`, the oldest first'}})
async def list_(
    hub: Hub,
    claims: Asking,
    tenant: Annotated[list[str], Query(description="Tenants; all of the token by default")] = [],  # noqa: B006
    state: Annotated[str, Query(description="open (default), resolved or all")] = "open",
    entity: Annotated[str | None, Query(description="Only about this entity, like reservation:R1")] = None,
    device: Annotated[str | None, Query(description="Only from this device")] = None,
    limit: Annotated[str | None, Query(description="At most so many, 100 by default")] = None,
    after: Annotated[str | None, Query(description="`next` of the page before")] = None,
) -> Response:
    """Conflicts, the oldest first: those that wait for a person, and those that a policy or a person settled. Scope
    `sync` for what is for the token's own system, `ops` for all."""
    if state not in (*STATES, "all"):
        raise invalid_request("state", "must be open, resolved or all")
    tenants = listed(tenant)
    for one in tenants:
        tenant_id(one)
    # PostgreSQL knows no NUL: what cannot be a name never comes to the store.
    if entity is not None and not _ENTITY.fullmatch(entity):
        raise invalid_request("entity", "must be an entity, like reservation:R1")
    if device is not None and not _DEVICE.fullmatch(device):
        raise invalid_request("device", "must be the id of a device")
    wanted = ConflictFilter(
        frozenset(tenants) or None,
        state=None if state == "all" else cast("State", state),
        entity=entity,
        device_id=device,
    )
    page = await hub.conflicts.listed(claims, wanted, page_limit(limit, MAX_PAGE), after)
    return json({"conflicts": page.conflicts, "next": page.next})


@router.get("/conflicts/{conflict_id}", responses=_MISSING)
async def get(conflict_id: str, hub: Hub, claims: Asking) -> Response:
    """One conflict, field by field: what the desk had seen, what others said, what it says, and what is so now. Who
    may see it: as the listing."""
    return json(await hub.conflicts.get(claims, _id(conflict_id)))


@router.post(
    "/conflicts/{conflict_id}/resolve",
    openapi_extra=_REQUEST,
    responses=_MISSING
    | {
        409: {"description": "Another person has resolved it, or is at it; `resolved_by` names who"},
        422: {"description": "The decision makes no event that fits"},
    },
)
async def resolve(conflict_id: str, request: Request, hub: Hub, claims: Asking) -> Response:
    """Decide a conflict: `incoming`, `current`, or `edited` with the fields to set. Done again in the same way it
    changes nothing. Who may: as the listing, within the authority of the token's system."""
    said = strict_json.loads(await body(request))
    if not isinstance(said, dict):
        raise invalid_request("body", "must be a JSON object")
    try:
        asked = ResolveRequest.model_validate(said)
    except ValidationError as error:
        found = registry.field_errors(error)
        raise Problem("invalid_request", f"{found[0].path}: {found[0].message}".removeprefix(": "), found) from None
    resolved = await hub.conflicts.resolve(claims, _id(conflict_id), asked)
    request.state.event_id = resolved["uuid"]
    return json(resolved)


def _id(text: str) -> str:
    text = text.lower()
    if not _ID.fullmatch(text):
        raise Problem("not_found", f"there is no conflict {text[:64]}")
    return text
