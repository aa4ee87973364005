"""`/sync/pull`, `/sync/snapshot`, `/sync/digest`: what devices that work offline read."""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic import ValidationError

from hub.gateways.http.context import Asking, Hub, entities_of, json, json_object, listed, whole
from hub.services.sync_digest import MAX_BUCKETS
from hub.services.sync_pull import MAX_CHANGES
from hub.services.sync_reading import MAX_ENTITIES
from hub.services.sync_snapshot import MAX_RECORDS
from schemas import registry
from schemas.errors import invalid_request
from schemas.sync import ComparisonReport, DigestResponse, PullResponse, SnapshotResponse

DEFAULT_LIMIT: Final = 500
MAX_DEVICE: Final = 100

router = APIRouter(tags=["sync"])

Tenant = Annotated[str | None, Query(description="Needed where the token holds several")]
Device = Annotated[str | None, Query(description="The device that asks; by default the token's")]


@router.get("/sync/pull", responses={200: {"description": "Changes, oldest first", "model": PullResponse}})
async def pull(
    hub: Hub,
    claims: Asking,
    tenant: Tenant = None,
    after: Annotated[str | None, Query(description="A cursor; without, from the first event")] = None,
    limit: Annotated[str | None, Query(description=f"At most {MAX_CHANGES}")] = None,
    device_id: Device = None,
) -> Response:
    """What happened after a cursor, as far as the token's system may see it, its own included. Scope `sync`.

    With `more`, ask again from `next` at once, even where there are no changes: the hub is still catching up.
    """
    count = whole("limit", limit, DEFAULT_LIMIT, MAX_CHANGES)
    return json(await hub.sync_reading.pull(claims, tenant, after, count, _device(device_id)))


@router.get("/sync/snapshot", responses={200: {"description": "States", "model": SnapshotResponse}})
async def snapshot(
    hub: Hub,
    claims: Asking,
    tenant: Tenant = None,
    after: Annotated[str | None, Query(description="`next` of the page before")] = None,
    limit: Annotated[str | None, Query(description=f"At most {MAX_RECORDS}")] = None,
    device_id: Device = None,
    type: Annotated[list[str], Query(description="Types of events, like `room`; several, or with commas")] = [],  # noqa: B006
    entity: Annotated[list[str], Query(description=f"Entities, like `reservation:R1`; at most {MAX_ENTITIES}")] = [],  # noqa: B006
) -> Response:
    """States for a device that begins empty, or to repair some. Scope `sync`.

    A state may be newer than `cursor`: changes up to its revision are in it.
    """
    return json(
        await hub.sync_reading.snapshot(
            claims,
            tenant,
            after,
            whole("limit", limit, DEFAULT_LIMIT, MAX_RECORDS),
            _device(device_id),
            types=listed(type),
            entities=entities_of(entity),
        )
    )


@router.get("/sync/digest", responses={200: {"description": "The digest tree", "model": DigestResponse}})
async def digest(
    hub: Hub,
    claims: Asking,
    tenant: Tenant = None,
    bucket: Annotated[
        list[str] | None, Query(description=f"Buckets whose states are wanted, like `7f`; at most {MAX_BUCKETS}")
    ] = None,
) -> Response:
    """The digests of all states that the token's system sees, true at `cursor`. Scope `sync`."""
    return json(await hub.sync_reading.digest(claims, tenant, None if bucket is None else listed(bucket)))


_REPORT: Final = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": ComparisonReport.model_json_schema()}},
    }
}


@router.post(
    "/sync/digest",
    status_code=201,
    openapi_extra=_REPORT,
    responses={201: {"description": "`{tenant_id, device_id, equal}`: the report is kept"}},
)
async def compared(request: Request, hub: Hub, claims: Asking) -> Response:
    """How a device's comparison ended. Scope `sync`."""
    claims.require("sync")
    said = await json_object(request)
    try:
        report = ComparisonReport.model_validate(said)
    except ValidationError as error:
        raise registry.refused(error) from None
    tenant_id = await hub.sync_reading.compared(claims, report)
    return json({"tenant_id": tenant_id, "device_id": report.device_id, "equal": report.equal}, 201)


def _device(text: str | None) -> str | None:
    if text is not None and not (1 <= len(text) <= MAX_DEVICE and all("!" <= one <= "~" for one in text)):
        raise invalid_request("device_id", f"must be 1 to {MAX_DEVICE} visible ASCII characters")
    return text
