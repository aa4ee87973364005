"""`hub trace` and `hub deliveries`: what became of events."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.text import Text

from hub.cli.access import DataDir, Json, Token, Url, access
from hub.cli.failure import UsageError
from hub.cli.listing import show_listing
from hub.cli.output import clean, json_document, line, note, on_terminal
from hub.cli.remote import Remote, segment

COLUMNS: Final = ("stored", "tenant", "event", "entity", "status", "systems", "retries", "event id", "error")
_COLOURS: Final[Mapping[str, str]] = {
    "success": "green",
    "acknowledged": "green",
    "handled": "green",
    "failed": "bold red",
    "dead_lettered": "bold red",
    "retrying": "yellow",
    "retried": "yellow",
    "outstanding": "bold yellow",
}

app = typer.Typer()

Tenant = Annotated[list[str] | None, typer.Option(help="Only this tenant; may be repeated")]


@app.command("trace")
def trace(
    event_id: Annotated[str, typer.Argument(help="The event's id")],
    tenant: Annotated[list[str] | None, typer.Option(help="Look in this tenant; may be repeated")] = None,
    json: Json = False,
    url: Url = None,
    token: Token = None,
    data_dir: DataDir = None,
) -> None:
    """The whole story of one event: its append, each system, each attempt, each acknowledgement; times are local."""

    async def ask() -> Any:
        async with Remote(access(url, token, data_dir)) as remote:
            return await remote.get(f"events/{segment(event_id)}/trace", tenant=tenant)

    found = asyncio.run(ask())
    if json:
        json_document(found)
    else:
        _show(found)


@app.command("deliveries")
def deliveries(
    failed: Annotated[bool, typer.Option("--failed", help="Only what ended as a dead letter")] = False,
    outstanding: Annotated[bool, typer.Option("--outstanding", help="Only what waits for a target too long")] = False,
    status: Annotated[str | None, typer.Option(help="Only success, failed, retrying, pending or outstanding")] = None,
    since: Annotated[str, typer.Option(help="How far back, like 1h or 7d, or an instant")] = "24h",
    until: Annotated[str | None, typer.Option(help="Up to then, the same way")] = None,
    tenant: Tenant = None,
    system: Annotated[str | None, typer.Option(help="Only for this system; the status is its own")] = None,
    pattern: Annotated[list[str] | None, typer.Option(help="type.action, type.* or *; may be repeated")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many")] = 100,
    json: Json = False,
    url: Url = None,
    token: Token = None,
    data_dir: DataDir = None,
) -> None:
    """What became of events, oldest first. With --failed, --since is the time of the failure. With --json one JSON
    object a line."""
    named = [one for one, asked in (("failed", failed), ("outstanding", outstanding), (status, status)) if asked]
    if len(named) > 1:
        raise UsageError("--failed, --outstanding and --status exclude each other", "Give one of them")
    query: dict[str, Any] = {
        "status": named[0] if named else None,
        "since": since,
        "until": until,
        "tenant": tenant,
        "system": system,
        "patterns": pattern,
    }
    show_listing(
        access(url, token, data_dir),
        "deliveries",
        query,
        limit,
        COLUMNS,
        _row,
        json=json,
        right=("retries",),
        noun="events",
    )


def _row(log: Mapping[str, Any]) -> tuple[Any, ...]:
    systems = ", ".join(f"{system} {one['status']}" for system, one in log["systems"].items())
    return (
        _local(_moment(log["recorded_at"])),
        log["tenant_id"],
        f"{log['event_type']}.{log['action']}",
        log["entity"],
        _status(log),
        systems,
        log["retry_count"],
        log["event_id"],
        log["error_message"],
    )


def _status(log: Mapping[str, Any]) -> str:
    return "outstanding" if log["outstanding"] else str(log["delivery_status"])


def _show(trace: Mapping[str, Any]) -> None:
    """The timeline, then each system's verdict."""
    console = Console(file=sys.stdout, highlight=False, soft_wrap=True)

    def say(text: Text) -> None:
        if on_terminal():
            console.print(text)
        else:
            line(text.plain)

    say(
        Text.assemble(
            (clean(f"{trace['event_type']}.{trace['action']}"), "bold"),
            clean(f"  {trace['entity']}  {trace['tenant_id']} #{trace['sequence']}  {trace['event_id']}"),
        )
    )
    began = before = _moment(trace["timeline"][0]["at"])
    for step in trace["timeline"]:
        at = _moment(step["at"])
        passed = f"+{_seconds((at - before).total_seconds())}" if step is not trace["timeline"][0] else ""
        before = at
        say(
            Text.assemble(
                (_local(at), "dim"),
                f"  {passed:>9}  ",
                (f"{step['step']:<13}", _COLOURS.get(step["step"], "")),
                f"  {clean(_what(step))}",
            )
        )
    if trace["truncated"]:
        note("there were more steps than are shown")
    for system, one in trace["systems"].items():
        say(_verdict(system, one, began))
    took = trace["delivery_time"]
    whole = _status(trace) + ("" if took is None else f" in {_seconds(took / 1000)}")
    if trace["retry_count"]:
        whole += f", {trace['retry_count']} retries"
    say(Text.assemble("delivery: ", (whole, _COLOURS.get(_status(trace), "bold"))))


def _what(step: Mapping[str, Any]) -> str:
    parts = [step["system"] or "", f"group {step['group']}" if step["group"] else ""]
    if step["channel"]:
        parts.append(f"by {step['channel']}" if step["step"] != "replayed" else f"to {step['channel']}")
    parts += [f"session {step['session']}" if step["session"] else "", f"as {step['name']}" if step["name"] else ""]
    parts += [step["ref"] or "", f"attempt {step['attempts']}" if step["attempts"] else ""]
    if step["step"] == "routed":
        parts.append(f"hub {step['hub']}")
    if step["error_message"]:
        parts.append(f"({step['error_message']})")
    return "  ".join(part for part in parts if part)


def _verdict(system: str, one: Mapping[str, Any], began: datetime) -> Text:
    after = ""
    if one["at"] is not None:
        after = f" after {_seconds((_moment(one['at']) - began).total_seconds())}"
    more: Sequence[str] = [
        *([f"{one['retry_count']} retries"] if one["retry_count"] else []),
        *([f"waiting for {', '.join(one['waiting_for'])}"] if one["waiting_for"] else []),
        *([one["error_message"]] if one["error_message"] else []),
    ]
    text = Text(f"{clean(system)}: ")
    text.append(one["status"], _COLOURS.get(one["status"], "bold"))
    text.append(clean(after + "".join(f"; {part}" for part in more)))
    return text


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def _local(moment: datetime) -> str:
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]


def _seconds(seconds: float) -> str:
    seconds = max(0.0, seconds)
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes, hours = seconds / 60, seconds / 3600
    return f"{minutes:.0f} min" if hours < 2 else f"{hours:.1f} h"
