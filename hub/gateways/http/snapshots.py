"""`/snapshot`: the present state of entities, and the cursor it is true at."""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import APIRouter, Query
from fastapi.responses import Response

from hub.gateways.http.context import Asking, Hub, entities_of, json, listed, types_of, whole
from hub.services.snapshots import Scope
from schemas.errors import invalid_request
from schemas.frames import MAX_PAGE

DEFAULT_LIMIT: Final = 100

router = APIRouter(tags=["events"])

_PAGE = (
    '`{"entities": [{tenant_id, type, entity, revision, sequence, data}], "next", "more", "cursor"}`: `next` is the '
    "token of the next page or null, `cursor` where all pages are true: events after it are what has changed since"
)


@router.get(
    "/snapshot",
    responses={
        200: {"description": _PAGE},
        404: {"description": "With `revision`: no such revision of the entity, or not for this token"},
    },
)
async def snapshot(
    hub: Hub,
    claims: Asking,
    tenant: Annotated[list[str], Query(description="Tenants; all of the token by default")] = [],  # noqa: B006
    type: Annotated[list[str], Query(description="Types of events, like `reservation`; several, or with commas")] = [],  # noqa: B006
    entity: Annotated[list[str], Query(description="Entities, like `reservation:R1`")] = [],  # noqa: B006
    limit: Annotated[str | None, Query(description=f"At most {MAX_PAGE}")] = None,
    after: Annotated[str | None, Query(description="`next` of the page before")] = None,
    revision: Annotated[str | None, Query(description="Of one entity: its state right after this revision")] = None,
) -> Response:
    """The state of each entity, folded from its events by type, as of one cursor however many pages it takes."""
    entities = entities_of(entity)
    _, tenants = await hub.reader.interest(claims, tenants=listed(tenant), entities=entities)
    scope = Scope.of(claims, types=types_of(type), entities=entities)
    if revision is None:
        page = await hub.snapshots.page(scope, tenants, whole("limit", limit, DEFAULT_LIMIT, MAX_PAGE), after)
        return json(page.body())
    if len(entities) != 1 or len(tenants) != 1:
        raise invalid_request("revision", "is of one entity of one tenant: name both")
    if after is not None:
        raise invalid_request("after", "does not go with revision")
    number = whole("revision", revision, 1, 2**53)
    return json((await hub.snapshots.at_revision(scope, tenants[0], entities[0], number)).body())
