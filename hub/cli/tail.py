"""`hub tail`: events as they arrive."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Annotated

import typer

from hub.cli.access import Access, DataDir, Json, Token, Url, access
from hub.cli.event_lines import COLUMNS, EventPrinter
from hub.cli.output import note
from hub.cli.remote import Remote
from schemas.types import HUB

app = typer.Typer()


@app.command(
    "tail",
    help=f"Print events as they arrive, one line each; not on a terminal, tab-separated: {COLUMNS}. Ctrl-C ends it.",
)
def tail(
    patterns: Annotated[
        list[str] | None, typer.Argument(metavar="[PATTERN]...", help="type.action, type.* or * (default)")
    ] = None,
    tenant: Annotated[list[str] | None, typer.Option(help="Only this tenant; may be repeated")] = None,
    entity: Annotated[list[str] | None, typer.Option(help="Only this entity, like reservation:R1")] = None,
    after: Annotated[str, typer.Option(help="latest, earliest, or a cursor to resume from")] = "latest",
    system: Annotated[str | None, typer.Option(help="See what this system gets, instead of everything")] = None,
    json: Json = False,
    url: Url = None,
    token: Token = None,
    data_dir: DataDir = None,
) -> None:
    """Print events as they arrive."""
    reached = access(url, token, data_dir, system=system)
    asyncio.run(_tail(reached, patterns or ["*"], tenant or [], entity or [], after, system or HUB, json))


async def _tail(
    reached: Access,
    patterns: list[str],
    tenants: list[str],
    entities: list[str],
    after: str,
    system: str,
    json: bool,
) -> None:
    show = EventPrinter(json=json)
    async with (
        Remote(reached) as remote,
        aclosing(
            remote.follow(patterns, tenants=tenants, entities=entities, after=after, system=system, told=note)
        ) as frames,
    ):
        async for frame in frames:
            if frame["op"] == "gap":
                note(f"gap: {frame['tenant_id']}: {frame['reason']}; events follow from {frame['resume_from']} on")
            else:
                show(frame)
