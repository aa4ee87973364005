"""What the routes need, who is asking, and how bodies and problems travel."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any, Final

import orjson
from fastapi import Depends, Request
from fastapi.responses import Response
from pydantic import TypeAdapter, ValidationError
from starlette.requests import ClientDisconnect

from hub.core.entry import Entry
from hub.log.dead_letters import DeadLetters
from hub.log.stream_log import StreamLog
from hub.log.tenants import Tenants
from hub.security.tokens import Claims, Tokens
from hub.services.conflict_desk import ConflictDesk
from hub.services.deliveries import Deliveries
from hub.services.devices import DeviceDesk
from hub.services.integrity_requests import IntegrityRequests
from hub.services.ledger import Recorder
from hub.services.publisher import Publisher
from hub.services.reader import Query, Reader
from hub.services.replay_jobs import ReplayJobs
from hub.services.report_requests import ReportRequests
from hub.services.snapshots import Snapshots
from hub.services.sync_reading import SyncReading
from hub.services.syncer import Syncer
from hub.services.webhook_desk import WebhookDesk
from hub.telemetry import Metrics
from schemas import strict_json
from schemas.errors import FieldError, Problem, invalid_request
from schemas.frames import MAX_BODY_BYTES, Pattern
from schemas.registry import EVENT_TYPES
from schemas.types import ENTITY_FORM, FORMS, SYSTEM_FORM, TENANT_FORM

BODY_TIMEOUT_S: Final = 30.0
_DIGITS: Final = re.compile(r"[0-9]{1,9}")
_TENANT: Final = re.compile(TENANT_FORM.removesuffix("$"))
_SYSTEM: Final = re.compile(SYSTEM_FORM.removesuffix("$"))
_ENTITY: Final = re.compile(ENTITY_FORM.removesuffix("$"))
_NEXT_ENTITY: Final = re.compile(r",(?=\s*[a-z_]{1,32}:)")
_pattern: TypeAdapter[str] = TypeAdapter(Pattern)


@dataclass(slots=True)
class Services:
    """What the routes call."""

    log: StreamLog
    tokens: Tokens
    publisher: Publisher
    reader: Reader
    dead_letters: DeadLetters
    tenants: Tenants
    metrics: Metrics
    readiness: Callable[[], dict[str, Any]]
    metrics_page: Callable[[], bytes]
    recorder: Recorder
    deliveries: Deliveries
    replays: ReplayJobs
    snapshots: Snapshots
    webhooks: WebhookDesk
    reports: ReportRequests
    syncer: Syncer
    sync_reading: SyncReading
    devices: DeviceDesk
    conflicts: ConflictDesk
    integrity: IntegrityRequests
    stopping: asyncio.Event = field(default_factory=asyncio.Event)

    def delivered(self, channel: str, system: str, query: Query, entries: Sequence[Entry]) -> None:
        """Note a page that was given by another channel than WebSocket."""
        if entries:
            self.metrics.deliveries.labels(channel, system, "sent").inc(len(entries))
            self.recorder.polled(system, channel, query.interest, entries, query.from_ms, query.to_ms)


async def services(request: Request) -> Services:
    """The services of the application. A coroutine, or it would be sent to a thread and back."""
    found: Services = request.app.state.services
    return found


async def claims(request: Request) -> Claims:
    """Who is asking.

    Raises:
        Problem: `unauthorized` or `token_expired`.
    """
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise Problem("unauthorized", "send Authorization: Bearer <token>")
    hub: Services = request.app.state.services
    found = hub.tokens.verify(token.strip())
    request.state.system = found.system
    return found


Asking = Annotated[Claims, Depends(claims)]
Hub = Annotated[Services, Depends(services)]


def page_limit(text: str | None, most: int, default: int = 100) -> int:
    """A parameter `limit`, from 1 to `most`.

    Raises:
        Problem: it is no such number.
    """
    if text is None:
        return default
    if not (_DIGITS.fullmatch(text) and 1 <= int(text) <= most):
        raise invalid_request("limit", f"must be a number between 1 and {most}")
    return int(text)


def whole(name: str, text: str | None, default: int, most: int) -> int:
    """A parameter that is a whole number from 1 to `most`.

    Raises:
        Problem: it is none.
    """
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 16 and 1 <= int(text) <= most):
        raise invalid_request(name, f"must be a whole number from 1 to {most}")
    return int(text)


def tenant_id(text: str) -> str:
    """A parameter that is the id of a tenant. What cannot be one never comes to the store: PostgreSQL knows no NUL.

    Raises:
        Problem: it cannot be.
    """
    if not _TENANT.fullmatch(text):
        raise invalid_request("tenant", "must be the id of a tenant")
    return text


async def json_object(request: Request, *, may_be_empty: bool = False) -> dict[str, Any]:
    """The body, a JSON object; an empty one where there may be none.

    Raises:
        Problem: it is something else, or too large.
    """
    raw = await body(request)
    said = {} if may_be_empty and not raw else strict_json.loads(raw)
    if not isinstance(said, dict):
        message = "the body must be a JSON object"
        raise Problem("invalid_request", message, [FieldError("", message)])
    return said


async def body(request: Request, *, may_be_folded: bool = False) -> bytes:
    """The whole body, at most 1 MiB.

    Raises:
        Problem: `too_large`; `invalid_request`: it did not come in time, was cut off, or is compressed and may not be.
    """
    encoding = request.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in ("", "identity") and not may_be_folded:
        raise invalid_request("Content-Encoding", f"{encoding[:40]!r} is not read here; send the body as it is")
    announced = request.headers.get("Content-Length", "0")
    if announced.isdigit() and int(announced) > MAX_BODY_BYTES:
        raise Problem("too_large", f"the body is {announced} bytes, the limit is {MAX_BODY_BYTES}")
    pieces, size = [], 0
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            async for piece in request.stream():
                size += len(piece)
                if size > MAX_BODY_BYTES:
                    raise Problem("too_large", f"the limit is {MAX_BODY_BYTES} bytes")
                pieces.append(piece)
    except ClientDisconnect:
        # Nobody is there to read this; else it would be told as a failure of the hub.
        raise Problem("invalid_request", f"the line was cut after {size} bytes of the body") from None
    except TimeoutError:
        raise Problem("invalid_request", f"the body did not arrive within {BODY_TIMEOUT_S:g} s") from None
    return b"".join(pieces)


def json(content: Any, status: int = 200, **headers: str) -> Response:
    """A JSON response."""
    raw = content if isinstance(content, bytes) else orjson.dumps(content)
    return Response(raw, status, media_type="application/json", headers=headers)


def problem_response(problem: Problem) -> Response:
    """A problem document (RFC 9457)."""
    headers = {}
    if problem.status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="hotel-event-hub"'
    if problem.retryable:
        headers["Retry-After"] = "1"
    return Response(
        orjson.dumps(problem.body()), problem.status, media_type="application/problem+json", headers=headers
    )


def listed(values: Sequence[str]) -> list[str]:
    """A list parameter, given several times or with commas."""
    return [part.strip() for value in values for part in value.split(",") if part.strip()]


def entities_of(values: Sequence[str]) -> list[str]:
    """A list parameter of entities. An id may have commas in it.

    Raises:
        Problem: one of them is none.
    """
    wanted = [part.strip() for value in values for part in _NEXT_ENTITY.split(value)]
    for entity in wanted:
        if not _ENTITY.fullmatch(entity):
            raise invalid_request("entity", f"{entity[:200]!r} {FORMS[ENTITY_FORM]}")
    return wanted


def types_of(values: Sequence[str]) -> list[str]:
    """A list parameter of types of events.

    Raises:
        Problem: one of them is none.
    """
    wanted = listed(values)
    for name in wanted:
        if name not in EVENT_TYPES:
            raise invalid_request("type", f"{name[:64]!r} is not an event type; one of: {', '.join(EVENT_TYPES)}")
    return wanted


def system_of(text: str | None) -> str | None:
    """A parameter that names a system, if it is given.

    Raises:
        Problem: it is no system's name.
    """
    if text is not None and not _SYSTEM.fullmatch(text):
        raise invalid_request("system", "must be the name of a system, like hotel-pms")
    return text


def patterns_of(values: Sequence[str]) -> list[str]:
    """A list parameter of patterns.

    Raises:
        Problem: one of them is none.
    """
    wanted = listed(values)
    for pattern in wanted:
        try:
            _pattern.validate_python(pattern)
        except ValidationError:
            raise invalid_request("patterns", f"{pattern!r} is not `type.action`, `type.*` or `*`") from None
    return wanted


def instant(name: str, value: str | None) -> int | None:
    """A parameter that is an instant, as Unix ms.

    Raises:
        Problem: it is none, or without an offset.
    """
    if value is None:
        return None
    try:
        # In a query string an unescaped + is a space.
        moment = datetime.fromisoformat(value.replace(" ", "+"))
    except ValueError:
        raise invalid_request(name, "must be an ISO 8601 instant, like 2026-07-15T10:04:00Z") from None
    if moment.tzinfo is None:
        raise invalid_request(name, "must carry an offset, like Z or %2B09:00")
    return int(moment.timestamp() * 1000)
