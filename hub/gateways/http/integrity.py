"""Whether data are whole: `/integrity`, the daily comparisons and weekly statistics; `/integrity/run`, one now."""

from __future__ import annotations

from typing import Annotated, Any, Final, cast, get_args

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, ValidationError

from hub.core.integrity import Kind
from hub.gateways.http.context import Asking, Hub, json, json_object, page_limit, tenant_id
from hub.services.integrity_requests import MAX_PAGE, shown
from schemas import registry
from schemas.errors import invalid_request
from schemas.types import TenantId

router = APIRouter(tags=["integrity"])


class ComparisonRequest(BaseModel):
    """`POST /integrity/run`."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    tenant: TenantId | None = None
    """Needed where the token holds several."""


_RESULT: Final[dict[int | str, dict[str, Any]]] = {
    200: {"description": '`{"daily": […], "weekly": […], "devices": […]}`, newest first; devices with warnings first'}
}


@router.get("/integrity", responses=_RESULT)
async def list_(
    hub: Hub,
    claims: Asking,
    tenant: Annotated[str | None, Query(description="Only of this tenant")] = None,
    kind: Annotated[str | None, Query(description="daily or weekly; both by default")] = None,
    limit: Annotated[str | None, Query(description="At most so many of each, 30 by default")] = None,
) -> Response:
    """The daily comparisons (R80) and weekly statistics (R81), and how devices compared. Scope `ops` or `sync`."""
    if tenant is not None:
        tenant_id(tenant)
    if kind is not None and kind not in get_args(Kind):
        raise invalid_request("kind", f"must be one of {', '.join(get_args(Kind))}")
    count = page_limit(limit, MAX_PAGE, 30)
    return json(await hub.integrity.listed(claims, tenant, cast("Kind | None", kind), count))


@router.post(
    "/integrity/run",
    openapi_extra={"requestBody": {"content": {"application/json": {"schema": ComparisonRequest.model_json_schema()}}}},
    responses={
        200: {"description": "The comparison, done"},
        202: {"description": '`{"running": true, …}`: it goes on; ask again with the same, which joins it'},
    },
)
async def run(request: Request, hub: Hub, claims: Asking) -> Response:
    """Compare a property's data with its events now. Scope `ops`."""
    said = await json_object(request, may_be_empty=True)
    try:
        asked = ComparisonRequest.model_validate(said)
    except ValidationError as error:
        raise registry.refused(error) from None
    done, progress = await hub.integrity.run(claims, asked.tenant)
    if done is not None:
        return json(shown(done))
    seen = {"chain_events": progress.chain_events, "states": progress.compared.states}
    return json({"running": True} | seen, 202)
