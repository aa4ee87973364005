"""`hub events`: what is in the log."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated, Any, Final

import typer

from hub.cli.access import Access, DataDir, Json, Token, Url, access, load_settings
from hub.cli.event_lines import COLUMNS, EventPrinter
from hub.cli.failure import CommandError
from hub.cli.output import Bar, compact, json_document, line, note, on_terminal, table
from hub.cli.remote import Remote, segment
from schemas.frames import MAX_PAGE

LIMIT: Final = 100

app = typer.Typer()
group = typer.Typer()
app.add_typer(group, name="events")


@group.callback(
    invoke_without_command=True,
    help=f"List events, oldest first; not on a terminal, tab-separated: {COLUMNS}. With --json one JSON object a line.",
)
def events(
    context: typer.Context,
    after: Annotated[str | None, typer.Option(help="A cursor, earliest (default) or latest")] = None,
    pattern: Annotated[list[str] | None, typer.Option(help="type.action, type.* or *; may be repeated")] = None,
    tenant: Annotated[list[str] | None, typer.Option(help="Only this tenant; may be repeated")] = None,
    entity: Annotated[list[str] | None, typer.Option(help="Only this entity, like reservation:R1")] = None,
    from_: Annotated[
        str | None, typer.Option("--from", help="Recorded at or after, like 2026-07-15T00:00+09:00")
    ] = None,
    to: Annotated[str | None, typer.Option(help="Recorded before")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many")] = LIMIT,
    all_: Annotated[bool, typer.Option("--all", help="All there are, whatever the limit")] = False,
    json: Json = False,
    url: Url = None,
    token: Token = None,
    data_dir: DataDir = None,
) -> None:
    """List events."""
    if context.invoked_subcommand is not None:
        return
    query: dict[str, Any] = {"patterns": pattern, "tenant": tenant, "entity": entity, "from": from_, "to": to}
    asyncio.run(_list(access(url, token, data_dir), query, after, None if all_ else limit, json))


async def _list(reached: Access, query: dict[str, Any], after: str | None, limit: int | None, json: bool) -> None:
    show, shown = EventPrinter(json=json), 0
    async with Remote(reached) as remote:
        while True:
            wanted = MAX_PAGE if limit is None else min(MAX_PAGE, limit - shown)
            page = await remote.get("events", **query, after=after, limit=wanted)
            for gap in page.get("gaps", ()):
                note(f"gap: {gap['tenant_id']}: {gap['reason']}; events follow from {gap['resume_from']} on")
            for found in page["events"]:
                show(found)
            shown += len(page["events"])
            # An empty page is the end only when it leaves the cursor where it was: a rare pattern is looked for
            # in stretches.
            ended = not page["events"] and page["next"] in (after, "")
            after = page["next"]
            if ended or (limit is not None and shown >= limit):
                break
    if limit is not None and shown >= limit:
        note(f"{shown} events; more may follow with --after {after}, or take --all")


@group.command("get")
def get(
    event_id: Annotated[str, typer.Argument(help="The event's id")],
    tenant: Annotated[list[str] | None, typer.Option(help="Look in this tenant; may be repeated")] = None,
    json: Json = False,
    url: Url = None,
    token: Token = None,
    data_dir: DataDir = None,
) -> None:
    """Print one event, as JSON."""

    async def ask() -> Any:
        async with Remote(access(url, token, data_dir)) as remote:
            return await remote.get(f"events/{segment(event_id)}", tenant=tenant)

    found = asyncio.run(ask())
    if json or not on_terminal():
        line(compact(found))
    else:
        json_document(found)


@group.command("verify")
def verify(
    tenant: Annotated[list[str] | None, typer.Option(help="Only this tenant's; may be repeated")] = None,
    json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """Check in the store that no archived event was changed, removed or put in. Exit code 1 when one was."""
    settings = load_settings(data_dir)

    async def check() -> list[dict[str, Any]]:
        from hub.cli.store import opened
        from hub.store.archive import Archive

        async with opened(settings) as database:
            archive = Archive(database)
            there = await archive.tenants(tenant)
            missing = sorted(set(tenant or ()) - set(there))
            if missing:
                raise CommandError(f"the store has no events of {', '.join(missing)}", "`hub store status` lists all")
            found, done = [], 0
            with Bar("events checked", sum(one.position - one.base_position for one in there.values())) as bar:
                for name in sorted(there):
                    events, broken = 0, None
                    async for result in archive.verify(name):
                        events, broken = result.events, result.broken
                        bar.at(done + events, time.monotonic())
                    done += events
                    found.append({"tenant_id": name, "events": events, "ok": broken is None, "broken": broken})
            return found

    found = asyncio.run(check())
    if json:
        json_document({"ok": all(one["ok"] for one in found), "tenants": found})
    else:
        table(
            ("tenant", "events", "chain"),
            [(one["tenant_id"], one["events"], one["broken"] or "holds") for one in found],
            right=("events",),
        )
    if not all(one["ok"] for one in found):
        raise typer.Exit(1)
