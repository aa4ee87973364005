"""The HTTP application: routers, problems, one log line a request."""

from __future__ import annotations

import time
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from redis.exceptions import RedisError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hub.gateways.http import (
    conflicts,
    deliveries,
    devices,
    documents,
    events,
    integrity,
    operations,
    replays,
    reports,
    snapshots,
    sync,
    sync_reading,
    webhooks,
)
from hub.gateways.http.context import Services, problem_response
from hub.store.database import StoreUnavailable
from schemas.errors import FieldError, Problem

log = structlog.get_logger("hub.http")
QUIET = frozenset({"/healthz", "/readyz", "/metrics"})


def create_app(services: Services, version: str) -> ASGIApp:
    """The ASGI application over these services."""
    app = FastAPI(title="Hotel event hub", version=version, openapi_url=None, docs_url=None, redoc_url=None)
    app.state.services = services
    app.include_router(events.router, prefix="/api/v1")
    app.include_router(deliveries.router, prefix="/api/v1")
    app.include_router(snapshots.router, prefix="/api/v1")
    app.include_router(operations.router, prefix="/api/v1")
    app.include_router(replays.router, prefix="/api/v1")
    app.include_router(webhooks.router, prefix="/api/v1")
    app.include_router(reports.router, prefix="/api/v1")
    app.include_router(sync.router, prefix="/api/v1")
    app.include_router(sync_reading.router, prefix="/api/v1")
    app.include_router(devices.router, prefix="/api/v1")
    app.include_router(conflicts.router, prefix="/api/v1")
    app.include_router(integrity.router, prefix="/api/v1")
    app.include_router(operations.health)
    app.include_router(documents.schema_routes)
    app.include_router(documents.router)
    app.add_exception_handler(Problem, _problem)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(StoreUnavailable, _no_store)
    app.add_exception_handler(RedisError, _unavailable)
    app.add_exception_handler(OSError, _unavailable)
    app.add_exception_handler(Exception, _failed)
    return _Logged(app)


async def _problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    request.state.code = error.code
    if (event_id := error.extra.get("event_id")) is not None:
        request.state.event_id = event_id
    return problem_response(error)


async def _invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    found = [FieldError(".".join(map(str, one["loc"][1:])), one["msg"]) for one in error.errors()]
    return problem_response(Problem("invalid_request", f"{found[0].path}: {found[0].message}", found))


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    status = error.status_code
    code = {404: "not_found", 405: "not_found", 413: "too_large"}.get(status, "invalid_request")
    what = {404: "there is no such route", 405: f"this route takes no {request.method}"}.get(status, str(error.detail))
    response = problem_response(Problem(code, what, extra={"status": status}))
    response.status_code = status
    response.headers.update(error.headers or {})
    return response


async def _unavailable(_: Request, error: Exception) -> Response:
    log.warning("log_not_reached", error=str(error) or type(error).__name__)
    return problem_response(Problem("log_unavailable", "the log cannot be reached now; ask again"))


async def _no_store(_: Request, error: Exception) -> Response:
    log.warning("store_not_reached", error=str(error))
    return problem_response(Problem("store_unavailable"))


async def _failed(_: Request, error: Exception) -> Response:
    log.error("request_failed", error=repr(error))
    return problem_response(Problem("internal"))


class _Logged:
    """One line a request: what, who, how long; never bodies, queries or tokens."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        status = 0

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        state: dict[str, Any] = scope.setdefault("state", {})
        try:
            await self._app(scope, receive, noted)
        finally:
            if scope["path"] not in QUIET:
                log.info(
                    "request",
                    method=scope["method"],
                    path=scope["path"],
                    status=status,
                    system=state.get("system"),
                    ms=round((time.perf_counter() - started) * 1000, 2),
                    **{key: state[key] for key in ("code", "event_id", "correlation_id", "events") if state.get(key)},
                )
