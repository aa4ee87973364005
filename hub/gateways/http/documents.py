"""What the hub says of itself: OpenAPI, AsyncAPI, JSON Schemas, a page that lists the routes."""

from __future__ import annotations

from functools import cache
from html import escape
from typing import Any

import orjson
from fastapi import APIRouter, FastAPI, Request
from fastapi.openapi.utils import get_openapi
from fastapi.responses import HTMLResponse, Response

from hub.gateways.http.context import json
from schemas.asyncapi import asyncapi
from schemas.errors import CODES, Problem
from schemas.export import event_schemas

router = APIRouter(include_in_schema=False)
schema_routes = APIRouter(tags=["documents"])


def openapi(app: FastAPI, version: str) -> dict[str, Any]:
    """The OpenAPI document of the routes, made once."""
    if app.openapi_schema is None:
        document = get_openapi(
            title="Hotel event hub",
            version=version,
            description="Publish, read and operate a hotel's events. Errors are RFC 9457 problems with a `code`.",
            routes=app.routes,
        )
        components = document.setdefault("components", {})
        schemas = components.setdefault("schemas", {})
        schemas["Event"] = {
            "type": "object",
            "required": ["type", "action", "data"],
            "description": "An event; each type's own schema is at /schemas/<type>.v<n>.json",
            "properties": {"type": {"type": "string"}, "action": {"type": "string"}, "data": {"type": "object"}},
        }
        schemas["Problem"] = {
            "type": "object",
            "properties": {
                "code": {"type": "string", "enum": list(CODES)},
                "status": {"type": "integer"},
                "title": {"type": "string"},
                "detail": {"type": "string"},
                "retryable": {"type": "boolean"},
                "errors": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "properties": {"path": {"type": "string"}, "message": {"type": "string"}},
                    },
                },
            },
        }
        components["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}}
        for path, methods in document["paths"].items():
            for operation in methods.values():
                if path.startswith("/api/"):
                    operation["security"] = [{"bearer": []}]
                operation["responses"].pop("422", None)
                operation["responses"]["default"] = {
                    "description": "A problem",
                    "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
                }
        for unused in ("HTTPValidationError", "ValidationError"):
            schemas.pop(unused, None)
        app.openapi_schema = document
    return app.openapi_schema


@router.get("/openapi.json")
async def openapi_document(request: Request) -> Response:
    """OpenAPI of the HTTP routes."""
    return json(openapi(request.app, request.app.version))


@cache
def _asyncapi() -> bytes:
    return orjson.dumps(asyncapi())


@router.get("/asyncapi.json")
async def asyncapi_document() -> Response:
    """AsyncAPI of the WebSocket and the streams."""
    return json(_asyncapi())


@schema_routes.get("/schemas")
async def schema_index() -> Response:
    """The names of all event schemas."""
    return json({"schemas": [f"/schemas/{name}.json" for name in event_schemas()]})


@schema_routes.get("/schemas/{name}")
async def schema(name: str) -> Response:
    """The JSON Schema of one type and version of event, like `reservation.v1.json`."""
    found = event_schemas().get(name.removesuffix(".json"))
    if found is None:
        raise Problem("not_found", f"there is no schema {name[:80]}; /schemas lists them")
    return json(found)


@router.get("/docs")
async def docs(request: Request) -> Response:
    """The routes on one page, without scripts or anything from elsewhere."""
    document = openapi(request.app, request.app.version)
    rows = [
        f"<tr><td><code>{method.upper()}</code></td><td><code>{escape(path)}</code></td>"
        f"<td>{escape(operation.get('description') or operation.get('summary', ''))}</td></tr>"
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    page = (
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        "<title>Hotel event hub</title>"
        "<style>body{font:16px/1.5 system-ui;max-width:60rem;margin:2rem auto;padding:0 1rem}"
        "td{padding:.3rem .8rem .3rem 0;vertical-align:top;border-bottom:1px solid #ddd}</style>"
        f"<h1>Hotel event hub {escape(request.app.version)}</h1>"
        "<p>Machine-readable: <a href=/openapi.json>OpenAPI</a>, "
        "<a href=/asyncapi.json>AsyncAPI</a> (WebSocket <code>/ws</code>), <a href=/schemas>event schemas</a>. "
        "Every route under <code>/api</code> takes <code>Authorization: Bearer …</code>.</p>"
        f"<table>{''.join(rows)}</table></html>"
    )
    return HTMLResponse(page)
