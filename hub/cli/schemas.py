"""`hub schemas`: what the hub publishes about its events."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, cast

import typer

from hub.cli.access import Json
from hub.cli.failure import CommandError, UsageError
from hub.cli.output import json_document, line, table
from hub.services.schema_export import export as write
from schemas.asyncapi import asyncapi
from schemas.export import event_schemas
from schemas.registry import EVENT_TYPES

if TYPE_CHECKING:
    from hub.gateways.http.context import Services

app = typer.Typer()
group = typer.Typer(no_args_is_help=True, help="JSON Schemas of the events, OpenAPI, AsyncAPI, TypeScript types.")
app.add_typer(group, name="schemas")

DOCUMENTS: Final = ("openapi", "asyncapi")


@group.command("list")
def list_(json: Json = False) -> None:
    """List the event types with their versions and actions."""
    kinds = [
        {
            "type": kind.name,
            "schemas": [f"{kind.name}.v{version}" for version in sorted(kind.versions)],
            "actions": list(kind.actions),
            "authority": kind.authority,
            "targets": list(kind.targets),
        }
        for kind in EVENT_TYPES.values()
    ]
    if json:
        json_document({"schemas": kinds, "documents": DOCUMENTS})
        return
    rows = [
        (
            kind["type"],
            " ".join(kind["schemas"]),
            " ".join(kind["actions"]),
            kind["authority"],
            " ".join(kind["targets"]),
        )
        for kind in kinds
    ]
    table(("type", "schemas", "actions", "authority", "targets"), rows)


@group.command("show")
def show(
    name: Annotated[str, typer.Argument(help="Like reservation.v1 or reservation (the newest); openapi, asyncapi")],
) -> None:
    """Print one schema or document, as JSON."""
    wanted = name.removesuffix(".json")
    if wanted == "asyncapi":
        json_document(asyncapi())
    elif wanted == "openapi":
        json_document(_openapi())
    else:
        found = event_schemas()
        kind = EVENT_TYPES.get(wanted)
        schema = found.get(wanted if kind is None else f"{wanted}.v{kind.newest}")
        if schema is None:
            raise UsageError(f"there is no schema {name}", f"One of: {', '.join((*found, *DOCUMENTS))}")
        json_document(schema)


@group.command("export")
def export(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Is made when it is not there")],
    json: Json = False,
) -> None:
    """Write all of them to a directory: JSON Schemas, openapi.json, asyncapi.json, hotel-events.d.ts."""
    try:
        written = write(directory, _openapi())
    except OSError as error:
        raise CommandError(
            f"{error.filename or directory}: {error.strerror}", "Name a directory that can be written"
        ) from error
    if json:
        json_document({"files": [str(path) for path in written]})
    else:
        for path in written:
            line(str(path))


def _openapi() -> Mapping[str, Any]:
    """What a hub answers at `/openapi.json`, from its own routes; no hub has to run."""
    # They bring the whole server along.
    import httpx

    from hub.app import VERSION
    from hub.gateways.http.app import create_app
    from hub.telemetry import configure_logging

    configure_logging("error", "auto")
    # The document is made of the routes alone; nothing behind them is called.
    routes = create_app(cast("Services", None), VERSION)

    async def ask() -> Any:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=routes), base_url="http://hub") as client:
            return (await client.get("/openapi.json")).raise_for_status().json()

    document: Mapping[str, Any] = asyncio.run(ask())
    return document
