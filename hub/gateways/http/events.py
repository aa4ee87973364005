"""`/events` and `/stream`: publish, list, long poll, Server-Sent Events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Annotated, Any, Final

import orjson
from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response, StreamingResponse

from hub.gateways.http.context import Asking, Hub, Services, body, entities_of, instant, json, listed, patterns_of
from hub.security.tokens import Claims
from hub.services import reader
from schemas import strict_json
from schemas.errors import Problem, invalid_event, invalid_request
from schemas.frames import MAX_BATCH_EVENTS, MAX_PAGE, MAX_WAIT_S, Receipt

KEEP_ALIVE_S: Final = 15.0
STREAM_PAGE: Final = 500

router = APIRouter(tags=["events"])

_EVENT = {"$ref": "#/components/schemas/Event"}
_PUBLISHED: dict[int | str, dict[str, Any]] = {
    201: {"description": "Stored durably: the receipt, or a batch's `receipts` in order", "model": Receipt},
    207: {"description": "A batch of which some events failed: each failed item carries `problem` in its place"},
}


@router.post(
    "/events",
    status_code=201,
    responses=_PUBLISHED,
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": {
                        "oneOf": [
                            _EVENT,
                            {
                                "type": "object",
                                "required": ["events"],
                                "properties": {
                                    "events": {"type": "array", "maxItems": MAX_BATCH_EVENTS, "items": _EVENT}
                                },
                            },
                        ]
                    }
                }
            },
        }
    },
)
async def publish(request: Request, hub: Hub, claims: Asking) -> Response:
    """Publish one event, or a batch of up to 500. Safe to repeat with the same event_id."""
    parsed = strict_json.parse(await body(request))
    tree = parsed.tree
    if isinstance(tree, dict) and "events" in tree and "type" not in tree:
        request.state.events = len(tree["events"]) if isinstance(tree["events"], list) else 0
        return await _publish_batch(hub, claims, parsed, tree)
    receipt = await hub.publisher.submit(parsed, tree, claims)
    request.state.event_id, request.state.correlation_id = receipt["event_id"], tree.get("correlation_id")
    return json(receipt, 201)


async def _publish_batch(hub: Services, claims: Claims, parsed: strict_json.Parsed, tree: dict[str, Any]) -> Response:
    events = tree["events"]
    rest = {key: value for key, value in tree.items() if key != "events"}
    if errors := parsed.refusals(rest):
        raise invalid_event(errors)
    if not isinstance(events, list) or rest:
        raise invalid_request("events", 'a batch is {"events": [...]}')
    if not events:
        raise invalid_request("events", "a batch has at least one event")
    if len(events) > MAX_BATCH_EVENTS:
        raise Problem("too_large", f"a batch has at most {MAX_BATCH_EVENTS} events, this one has {len(events)}")
    results: list[Any] = []
    for event in events:
        try:
            results.append(hub.publisher.submit(parsed, event, claims))
        except Problem as problem:
            results.append(problem)
    waiting = [result for result in results if isinstance(result, asyncio.Future)]
    if waiting:
        await asyncio.wait(waiting)
    receipts, failed = [], False
    for result in results:
        refusal = result if isinstance(result, Problem) else result.exception()
        if refusal is None:
            receipts.append(result.result())
        elif isinstance(refusal, Problem):
            failed = True
            held = {"event_id": refusal.extra["event_id"]} if "event_id" in refusal.extra else {}
            receipts.append(held | {"problem": refusal.body()})
        else:
            raise refusal
    return json({"receipts": receipts}, 207 if failed else 201)


@dataclass(frozen=True, slots=True)
class Filter:
    """The parameters that `GET /events` and `GET /stream` share."""

    after: str | None
    patterns: list[str]
    tenants: list[str]
    entities: list[str]
    from_ms: int | None
    to_ms: int | None

    async def query(self, hub: Services, claims: Claims, limit: int, after: str | None = None) -> reader.Query:
        """The query, as far as the token allows it."""
        interest, tenants = await hub.reader.interest(
            claims, wanted=self.patterns, tenants=self.tenants, entities=self.entities
        )
        every = claims.all_tenants and not self.tenants
        return reader.Query(interest, tenants, after or self.after, self.from_ms, self.to_ms, limit, every)


async def _filter(
    after: Annotated[str | None, Query(description="A cursor, `earliest` (default) or `latest`")] = None,
    patterns: Annotated[list[str], Query(description="`type.action`, `type.*` or `*`; several, or with commas")] = [],  # noqa: B006
    tenant: Annotated[list[str], Query(description="Tenants; all of the token by default")] = [],  # noqa: B006
    entity: Annotated[list[str], Query(description="Entities, like `reservation:R1`")] = [],  # noqa: B006
    from_: Annotated[str | None, Query(alias="from", description="recorded_at at or after this instant")] = None,
    to: Annotated[str | None, Query(description="recorded_at before this instant")] = None,
) -> Filter:
    wanted = patterns_of(patterns)
    return Filter(after, wanted, listed(tenant), entities_of(entity), instant("from", from_), instant("to", to))


def _number(name: str, text: str | None, default: float, low: float, high: float) -> float:
    try:
        value = default if text is None else float(text)
    except ValueError:
        raise invalid_request(name, "must be a number") from None
    if not low <= value <= high:
        raise invalid_request(name, f"must be between {low:g} and {high:g}")
    return value


Filtered = Annotated[Filter, Depends(_filter)]


@router.get("/events", responses={200: {"description": '`{"events": [{cursor, sequence, event}], "next", "gap"?}`'}})
async def list_events(
    hub: Hub, claims: Asking, filter: Filtered, limit: str | None = None, wait: str | None = None
) -> Response:
    """Events after a cursor, oldest first. With `wait` (seconds, at most 30) a long poll; `next` is always good."""
    count = int(_number("limit", limit, 100, 1, MAX_PAGE))
    seconds = _number("wait", wait, 0, 0, MAX_WAIT_S)
    query = await filter.query(hub, claims, count)
    if seconds:
        page = await hub.reader.wait(claims, query, seconds, hub.stopping)
    else:
        page = await hub.reader.page(claims, query)
    hub.delivered("poll", claims.system, query, page.entries)
    return json(page.body(claims.view))


@router.get("/events/{event_id}", responses={404: {"description": "Not there, or not for this token"}})
async def get_event(
    event_id: str,
    hub: Hub,
    claims: Asking,
    tenant: Annotated[list[str], Query()] = [],  # noqa: B006
) -> Response:
    """One event, also for the system that published it."""
    tenants = await hub.reader.tenants(claims, listed(tenant))
    entry = await hub.reader.find(claims, event_id.lower(), tenants)
    if entry is None:
        raise Problem("not_found", f"there is no event {event_id[:64]} for this token")
    return json(
        b'{"cursor":"%b","sequence":%d,"event":%b}' % (entry.cursor.encode(), entry.sequence, entry.json(claims.view))
    )


@router.get("/stream", responses={200: {"content": {"text/event-stream": {}}, "description": "Server-Sent Events"}})
async def stream(request: Request, hub: Hub, claims: Asking, filter: Filtered) -> Response:
    """The same as Server-Sent Events. `Last-Event-ID`, or `after`, is the cursor to resume from; else from now on."""
    after = request.headers.get("Last-Event-ID") or filter.after or "latest"
    query = await filter.query(hub, claims, STREAM_PAGE, after)
    first = await hub.reader.page(claims, query)
    return StreamingResponse(
        _server_sent(hub, claims, query, first),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


async def _server_sent(hub: Services, claims: Claims, query: reader.Query, page: reader.Page) -> AsyncIterator[bytes]:
    position = dict.fromkeys(query.tenants, "")
    yield b"retry: 2000\n\n"
    while True:
        pieces = [b"event: gap\ndata: %b\n\n" % orjson.dumps(gap) for gap in page.gaps]
        alone = len(position) == 1
        for entry in page.entries:
            # The id must resume every tenant; between the events of a page only a single tenant's cursor can.
            id = b"id: %b\n" % entry.cursor.encode() if alone else b""
            pieces.append(
                b'%bdata: {"cursor":"%b","sequence":%d,"event":%b}\n\n'
                % (id, entry.cursor.encode(), entry.sequence, entry.json(claims.view))
            )
        pieces.append(b"id: %b\n: at %b\n\n" % (page.next.encode(), page.next.encode()))
        yield b"".join(pieces)
        hub.delivered("sse", claims.system, query, page.entries)
        if hub.stopping.is_set() or hub.tokens.expired(claims):
            return
        query = replace(query, after=page.next)
        page = await hub.reader.wait(claims, query, KEEP_ALIVE_S, hub.stopping)
