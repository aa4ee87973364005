"""Sending parts of the history again: `/replays`, and `/replays/export` as a stream of lines."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response, StreamingResponse
from pydantic import ValidationError

from hub.gateways.http.context import Asking, Hub, Services, body, entities_of, json, listed
from hub.security.tokens import Claims
from hub.services.replay_export import Export
from schemas import registry, strict_json
from schemas.replay import ReplayRequest, Selection

router = APIRouter(tags=["replays"])

_REQUEST = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": ReplayRequest.model_json_schema(by_alias=True)}},
    }
}
_LINES: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {"application/x-ndjson": {}},
        "description": '`{"cursor", "sequence", "replay": true, "event"}` a line; the last one of a whole export is '
        '`{"end": true, "events", "skipped", "cursor"}`; `skipped`: entries that are no event any more',
    }
}


@router.post(
    "/replays",
    status_code=201,
    openapi_extra=_REQUEST,
    responses={200: {"description": "A dry run's counts, or the replay that has this `replay_id` already"}},
)
async def create(request: Request, hub: Hub, claims: Asking) -> Response:
    """Begin a replay, or with `dry_run` only count what it would send. Scope `ops`; only what the token's `subscribe:`
    scopes cover goes out."""
    claims.require("ops")
    try:
        asked = ReplayRequest.model_validate(strict_json.loads(await body(request)))
    except ValidationError as error:
        raise registry.refused(error) from None
    if asked.dry_run:
        return json(await hub.replays.look(claims, asked))
    replay, new = await hub.replays.create(claims, asked)
    return json(replay, 201 if new else 200)


@router.get("/replays")
async def list_(hub: Hub, claims: Asking) -> Response:
    """The newest replays, newest first. Scope `ops`."""
    claims.require("ops")
    return json({"replays": await hub.replays.listed(claims)})


@router.get("/replays/export", responses=_LINES)
async def export(
    hub: Hub,
    claims: Asking,
    tenant: Annotated[list[str], Query(description="Tenants; all of the token by default")] = [],  # noqa: B006
    patterns: Annotated[list[str], Query(description="`type.action`, `type.*` or `*`; several, or with commas")] = [],  # noqa: B006
    entity: Annotated[list[str], Query(description="Entities, like `reservation:R1`")] = [],  # noqa: B006
    from_: Annotated[str | None, Query(alias="from", description="Recorded from, an instant or a local date")] = None,
    to: Annotated[str | None, Query(description="Recorded before this instant, or up to this local date")] = None,
    after: Annotated[str | None, Query(description="Only what follows this cursor")] = None,
    until: Annotated[str | None, Query(description="Nothing past this cursor")] = None,
    speed: Annotated[str, Query(description="`full`, `recorded`, or how many times faster than recorded")] = "full",
) -> Response:
    """Events as lines of JSON, oldest first. Scope `ops`; only what the token's `subscribe:` scopes cover."""
    claims.require("ops")
    given = {
        "tenants": listed(tenant),
        "patterns": listed(patterns),
        "entities": entities_of(entity),
        # In a query string an unescaped + is a space.
        "from": None if from_ is None else from_.replace(" ", "+"),
        "to": None if to is None else to.replace(" ", "+"),
        "after": after,
        "until": until,
        "speed": speed,
    }
    try:
        asked = Selection.model_validate({name: value for name, value in given.items() if value})
    except ValidationError as error:
        raise registry.refused(error) from None
    made = Export(
        hub.replays.reading,
        await hub.replays.plan(claims, asked),
        claims,
        may_go_on=lambda: not hub.stopping.is_set() and not hub.tokens.expired(claims),
    )
    lines = made.lines()
    # Read before anything is answered: what cannot be read is a problem, not an empty stream.
    first = await anext(lines, b"")
    return StreamingResponse(
        _counted(hub, claims, made, first, lines),
        media_type="application/x-ndjson",
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


async def _counted(
    hub: Services, claims: Claims, made: Export, first: bytes, lines: AsyncIterator[bytes]
) -> AsyncIterator[bytes]:
    try:
        async with aclosing(lines):  # type: ignore[type-var]
            yield first
            async for chunk in lines:
                yield chunk
    finally:
        hub.metrics.deliveries.labels("export", claims.system, "replayed").inc(made.events)


@router.get("/replays/{replay_id}", responses={404: {"description": "Not there, or not for this token"}})
async def get(replay_id: str, hub: Hub, claims: Asking) -> Response:
    """One replay: state, counts, progress and when it should be over. Scope `ops`."""
    claims.require("ops")
    return json(await hub.replays.get(claims, replay_id.lower()))


@router.post("/replays/{replay_id}/pause", responses={409: {"description": "It is over"}})
async def pause(replay_id: str, hub: Hub, claims: Asking) -> Response:
    """Stop sending until it is resumed. Scope `ops`."""
    claims.require("ops")
    return json(await hub.replays.move(claims, replay_id.lower(), "pause"))


@router.post("/replays/{replay_id}/resume", responses={409: {"description": "It is over"}})
async def resume(replay_id: str, hub: Hub, claims: Asking) -> Response:
    """Go on; the time it was paused does not count for its pace. Scope `ops`."""
    claims.require("ops")
    return json(await hub.replays.move(claims, replay_id.lower(), "resume"))


@router.post("/replays/{replay_id}/cancel", responses={409: {"description": "It is over"}})
async def cancel(replay_id: str, hub: Hub, claims: Asking) -> Response:
    """End it where it is. Scope `ops`."""
    claims.require("ops")
    return json(await hub.replays.move(claims, replay_id.lower(), "cancel"))
