"""Devices that work offline: `/devices`; and one, or all of a tenant, asked to sync now."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query
from fastapi.responses import Response

from hub.gateways.http.context import Asking, Hub, json, listed, page_limit, system_of, tenant_id
from hub.services.devices import ALL, MAX_PAGE
from schemas.errors import Problem

_DEVICE: Final = re.compile(r"[!-~]{1,100}")

router = APIRouter(tags=["sync"])
_MISSING: dict[int | str, dict[str, Any]] = {404: {"description": "It never synced, or is not for this token"}}
_TENANT_OF = Query(description="Its tenant; needed where several have a device of this name")


@router.get("/devices", responses={200: {"description": '`{"devices": […], "next"}`, by tenant and name'}})
async def list_(
    hub: Hub,
    claims: Asking,
    tenant: Annotated[list[str], Query(description="Tenants; all of the token by default")] = [],  # noqa: B006
    system: Annotated[str | None, Query(description="Only of this system")] = None,
    limit: Annotated[str | None, Query(description="At most so many, 100 by default")] = None,
    after: Annotated[str | None, Query(description="`next` of the page before")] = None,
) -> Response:
    """Every device that has pushed or pulled: how it is, how far it is, what it has left. Scope `sync` for those of
    the token's own system, `ops` for all."""
    tenants = listed(tenant)
    for one in tenants:
        tenant_id(one)
    named = system_of(system)
    page = await hub.devices.listed(claims, frozenset(tenants) or None, named, page_limit(limit, MAX_PAGE), after)
    return json({"devices": page.devices, "next": page.next})


@router.get("/devices/{device_id:path}", responses=_MISSING)
async def get(device_id: str, hub: Hub, claims: Asking, tenant: Annotated[str | None, _TENANT_OF] = None) -> Response:
    """One device, with its last syncs and comparisons. Who may see it: as the listing."""
    return json(await hub.devices.get(claims, _named(device_id), None if tenant is None else tenant_id(tenant)))


@router.post("/devices/{device_id:path}/sync", status_code=202, responses=_MISSING)
async def sync(device_id: str, hub: Hub, claims: Asking, tenant: Annotated[str | None, _TENANT_OF] = None) -> Response:
    """Ask a device to sync now, or `*`: all of a tenant. Where it is connected it is told at once, else with its next
    push. Scope `sync` for those of the token's own system, `ops` for all."""
    named = device_id if device_id == ALL else _named(device_id)
    return json(await hub.devices.ask(claims, named, None if tenant is None else tenant_id(tenant)), 202)


def _named(device_id: str) -> str:
    # PostgreSQL knows no NUL: what cannot be a name never comes to the store.
    if not _DEVICE.fullmatch(device_id):
        raise Problem("not_found", "there is no device of this name")
    return device_id
