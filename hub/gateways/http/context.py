"""What the routes need, who is asking, and how bodies and problems travel."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Final

import orjson
from fastapi import Depends, Request
from fastapi.responses import Response

from hub.log.dead_letters import DeadLetters
from hub.log.stream_log import StreamLog
from hub.log.tenants import Tenants
from hub.security.tokens import Claims, Tokens
from hub.services.publisher import Publisher
from hub.services.reader import Reader
from hub.telemetry import Metrics
from schemas.errors import FieldError, Problem
from schemas.frames import MAX_BODY_BYTES

BODY_TIMEOUT_S: Final = 30.0


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
    stopping: asyncio.Event = field(default_factory=asyncio.Event)

    def delivered(self, channel: str, system: str, events: int) -> None:
        """Count events written by another channel than WebSocket."""
        if events:
            self.metrics.deliveries.labels(channel, system, "sent").inc(events)


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


async def body(request: Request) -> bytes:
    """The whole body, at most 1 MiB.

    Raises:
        Problem: `too_large`.
    """
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


def wrong(parameter: str, message: str) -> Problem:
    """The problem of one bad parameter."""
    return Problem("invalid_request", f"{parameter}: {message}", [FieldError(parameter, message)])
