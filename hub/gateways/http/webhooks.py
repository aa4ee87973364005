"""Webhook endpoints: `/webhooks`."""

from __future__ import annotations

import re
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, ValidationError

from hub.gateways.http.context import Asking, Hub, body, json, listed
from schemas import registry, strict_json
from schemas.errors import invalid_request
from schemas.types import TENANT_FORM
from schemas.webhooks import RecoverRequest, RotateRequest, WebhookChange, WebhookRequest

router = APIRouter(tags=["webhooks"])

_Model = TypeVar("_Model", bound=BaseModel)
_TENANT = re.compile(TENANT_FORM.removesuffix("$"))
_MISSING: dict[int | str, dict[str, Any]] = {404: {"description": "Not there, or not for this token"}}


def _takes(model: type[BaseModel], *, required: bool = True) -> dict[str, Any]:
    return {
        "requestBody": {
            "required": required,
            "content": {"application/json": {"schema": model.model_json_schema(by_alias=True)}},
        }
    }


async def _read(request: Request, model: type[_Model]) -> _Model:
    raw = await body(request)
    values = strict_json.loads(raw) if raw else {}
    if not isinstance(values, dict):
        raise invalid_request("body", "must be a JSON object")
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise registry.refused(error) from None


@router.post("/webhooks", status_code=201, openapi_extra=_takes(WebhookRequest))
async def create(request: Request, hub: Hub, claims: Asking) -> Response:
    """Make an endpoint: of the token's own system, or with the scope `ops` of any. The answer has its `secret`, which
    is never shown again."""
    return json(await hub.webhooks.create(claims, await _read(request, WebhookRequest)), 201)


@router.get("/webhooks")
async def list_(
    hub: Hub,
    claims: Asking,
    tenant: Annotated[list[str], Query(description="Tenants; all of the token by default")] = [],  # noqa: B006
) -> Response:
    """The endpoints that the token may manage: `{"webhooks": [...]}`, oldest first."""
    named = listed(tenant)
    for one in named:
        if not _TENANT.fullmatch(one):
            raise invalid_request("tenant", "is no tenant's id")
        claims.require_tenant(one)
    tenants = named or (None if claims.all_tenants else sorted(claims.tenants))
    return json({"webhooks": await hub.webhooks.listed(claims, tenants)})


@router.get("/webhooks/{id}", responses=_MISSING)
async def get(id: str, hub: Hub, claims: Asking) -> Response:
    """One endpoint."""
    return json(await hub.webhooks.get(claims, id))


@router.patch("/webhooks/{id}", openapi_extra=_takes(WebhookChange), responses=_MISSING)
async def change(id: str, request: Request, hub: Hub, claims: Asking) -> Response:
    """Change an endpoint, disable or enable it."""
    return json(await hub.webhooks.change(claims, id, await _read(request, WebhookChange)))


@router.delete("/webhooks/{id}", status_code=204, responses=_MISSING)
async def delete(id: str, hub: Hub, claims: Asking) -> Response:
    """Remove an endpoint with everything it is still owed."""
    await hub.webhooks.delete(claims, id)
    return Response(status_code=204)


@router.post("/webhooks/{id}/test", responses=_MISSING)
async def test(id: str, hub: Hub, claims: Asking) -> Response:
    """Send a sample, and show what the endpoint answered."""
    return json(await hub.webhooks.test(claims, id))


@router.post("/webhooks/{id}/rotate", openapi_extra=_takes(RotateRequest, required=False), responses=_MISSING)
async def rotate(id: str, request: Request, hub: Hub, claims: Asking) -> Response:
    """Give it another secret. For 24 hours messages are signed with the old one too."""
    asked = await _read(request, RotateRequest)
    return json(await hub.webhooks.rotate(claims, id, asked.secret))


@router.post(
    "/webhooks/{id}/recover",
    status_code=202,
    openapi_extra=_takes(RecoverRequest),
    responses=_MISSING | {409: {"description": "The endpoint is disabled"}},
)
async def recover(id: str, request: Request, hub: Hub, claims: Asking) -> Response:
    """Send again what lies after a cursor, or was recorded since a time."""
    return json(await hub.webhooks.recover(claims, id, await _read(request, RecoverRequest)), 202)
