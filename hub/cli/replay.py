"""`hub replay`: send a part of the history again, to a system, a consumer group, a file or stdout."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from hub.cli.access import Access, DataDir, Json, Token, Url, access
from hub.cli.failure import CommandError, UsageError
from hub.cli.output import Bar, json_document, line, note, on_terminal, table
from hub.cli.remote import Remote, segment
from hub.cli.replay_lines import Held, Lines, export, incomplete

POLL_S: Final = 0.5
_COLUMNS: Final = ("replay id", "state", "target", "events", "sent", "first", "last", "eta")

app = typer.Typer()
group = typer.Typer()
app.add_typer(group, name="replay")

ReplayId = Annotated[str, typer.Argument(metavar="REPLAY_ID", help="As `hub replay list` shows it")]


@group.callback(
    invoke_without_command=True,
    help="Send events again: to a system's replay channel, to a consumer group, to a file, or as lines of JSON to "
    "stdout. All of the history, unless it is narrowed.",
)
def replay(
    context: typer.Context,
    to_system: Annotated[str | None, typer.Option(help="To a channel of this system; with --channel")] = None,
    channel: Annotated[str | None, typer.Option(help="The channel's name: the system subscribes to it")] = None,
    to_group: Annotated[str | None, typer.Option(help="To this consumer group, by its own stream")] = None,
    to_webhook: Annotated[str | None, typer.Option(help="To this webhook")] = None,
    to_file: Annotated[Path | None, typer.Option(help="Into this file, one JSON object a line")] = None,
    append: Annotated[bool, typer.Option("--append", help="Continue a file that was cut short, where it ends")] = False,
    from_: Annotated[
        str | None, typer.Option("--from", help="Recorded from: an instant, or a date of the property like 2026-11-17")
    ] = None,
    to: Annotated[str | None, typer.Option(help="Recorded before an instant, or up to and with a date")] = None,
    after: Annotated[str | None, typer.Option(help="Only what follows this cursor")] = None,
    until: Annotated[str | None, typer.Option(help="Nothing past this cursor")] = None,
    patterns: Annotated[list[str] | None, typer.Option(help="type.action, type.* or *; may be repeated")] = None,
    entity: Annotated[list[str] | None, typer.Option(help="Only this entity, like reservation:R1")] = None,
    tenant: Annotated[list[str] | None, typer.Option(help="Only this tenant; may be repeated")] = None,
    speed: Annotated[
        str | None,
        typer.Option(help="recorded, full, or like x10; by default full to a file or stdout, else recorded"),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count what would be sent")] = False,
    detach: Annotated[bool, typer.Option("--detach", help="Begin it and return; `hub replay show` follows it")] = False,
    replay_id: Annotated[
        str | None, typer.Option(help="A UUID for it: asking again with the same one makes no other replay")
    ] = None,
    json: Json = False,
    url: Url = None,
    token: Token = None,
    data_dir: DataDir = None,
) -> None:
    """Send events again."""
    if context.invoked_subcommand is not None:
        return
    asked = {
        "tenants": tenant,
        "patterns": _parts(patterns),
        "entities": entity,
        "from": from_,
        "to": to,
        "after": after,
        "until": until,
    }
    target = _target(to_system, channel, to_group, to_webhook, to_file)
    if append and to_file is None:
        raise UsageError("--append is for --to-file")
    if to_file is not None and to_file.exists() and not append:
        fix = "Name another file, or continue it with --append"
        raise UsageError(f"{to_file} is there already", fix)
    reached = access(url, token, data_dir)
    given: dict[str, Any] = {name: value for name, value in asked.items() if value}
    if dry_run:
        given["speed"] = speed or ("recorded" if target else "full")
        asyncio.run(_look(reached, given | ({"target": target} if target else {}), json))
    elif target is None:
        given["speed"] = speed or "full"
        if to_file is not None and to_file.exists() and after is None:
            held = Held(to_file)
            if held.end is not None:
                _is_whole(to_file, held)
                return
            given |= {"after": held.after} if held.after else {}
        asyncio.run(_export(reached, given, to_file, append))
    else:
        given |= {"target": target, "speed": speed or "recorded"} | ({"replay_id": replay_id} if replay_id else {})
        asyncio.run(_begin(reached, given, detach, json))


def _parts(patterns: list[str] | None) -> list[str]:
    return [part.strip() for pattern in patterns or () for part in pattern.split(",") if part.strip()]


def _target(
    system: str | None, channel: str | None, of: str | None, webhook: str | None, file: Path | None
) -> dict[str, str] | None:
    if (system is None) != (channel is None):
        raise UsageError("a channel is a system's", "Give --to-system and --channel together")
    targets: list[dict[str, str]] = []
    if system is not None and channel is not None:
        targets.append({"system": system, "channel": channel})
    if of is not None:
        targets.append({"group": of})
    if webhook is not None:
        targets.append({"webhook": webhook})
    if len(targets) + (file is not None) > 1:
        raise UsageError("a replay goes to one place", "Give one of --to-system, --to-group, --to-webhook, --to-file")
    return targets[0] if targets else None


def _is_whole(file: Path, held: Held) -> None:
    more = f"what came since follows with --append --after {held.after or 'earliest'}"
    note(f"{file} is whole, nothing was added; {more}")
    if held.end is not None and (skipped := held.end.get("skipped", 0)):
        raise incomplete(skipped)


async def _look(reached: Access, asked: Mapping[str, Any], json: bool) -> None:
    async with Remote(reached) as remote:
        found = await remote.post("replays", {**asked, "dry_run": True})
    if json:
        json_document(found)
        return
    table(("event", "events"), sorted(found["by_type"].items()), right=("events",))
    takes = found["takes_seconds"]
    duration = "as fast as it goes" if takes is None else f"takes {_duration(takes)}"
    line(f"{found['events']} events from {found['first'] or '-'} to {found['last'] or '-'}, {duration}")


async def _export(reached: Access, asked: Mapping[str, Any], file: Path | None, append: bool) -> None:
    async with Remote(reached) as remote:
        total = await _total(remote, asked)
        lines = Lines(str(asked.get("after", "")))
        try:
            with Bar("replayed", total) as bar:
                await export(remote, asked, lines, file, append, lambda: bar.at(lines.events, time.monotonic()))
        except (CommandError, KeyboardInterrupt, asyncio.CancelledError):
            if lines.after:
                more = " --append" if file is not None else ""
                note(f"{lines.events} events were written; the rest follows with{more} --after {lines.after}")
            raise
    note(f"{lines.events} events" + ("" if file is None else f" in {file}"))


async def _total(remote: Remote, asked: Mapping[str, Any]) -> int | None:
    """How many events there are to export, where that is known without counting them."""
    if asked.keys() - {"tenants", "speed"}:
        return None
    wanted = asked.get("tenants")
    found = (await remote.get("tenants"))["tenants"]
    return sum(int(one["sequence"]) for one in found if not wanted or one["tenant_id"] in wanted)


async def _begin(reached: Access, asked: Mapping[str, Any], detach: bool, json: bool) -> None:
    async with Remote(reached) as remote:
        made = await remote.post("replays", asked)
        if not detach:
            made = await _follow(remote, made)
    if json:
        json_document(made)
    else:
        line(f"{made['replay_id']}\t{made['state']}\t{made['progress']['events']} of {made['events']} events")
    if made["state"] in ("failed", "cancelled"):
        raise CommandError(f"the replay {made['replay_id']} was {made['state']}: {made.get('detail', '')}".rstrip(": "))


async def _follow(remote: Remote, replay: dict[str, Any]) -> dict[str, Any]:
    """Show how it goes on until it is over. Ctrl-C leaves it to the hub."""
    replay_id = replay["replay_id"]
    try:
        with Bar(f"replay {replay_id}", replay["events"]) as bar:
            while replay["state"] in ("running", "paused"):
                bar.at(replay["progress"]["events"], time.monotonic())
                await asyncio.sleep(POLL_S)
                replay = await remote.get(f"replays/{segment(replay_id)}")
    except (KeyboardInterrupt, asyncio.CancelledError):
        note(f"the replay goes on; `hub replay cancel {replay_id}` ends it")
        raise
    return replay


@group.command("list")
def list_(json: Json = False, url: Url = None, token: Token = None, data_dir: DataDir = None) -> None:
    """List replays, the newest first."""
    found = asyncio.run(_asked(access(url, token, data_dir), "GET", "replays"))
    if json:
        json_document(found)
        return
    table(_COLUMNS, [_row(one) for one in found["replays"]], right=("events", "sent", "eta"))


@group.command("show")
def show(
    replay_id: ReplayId, json: Json = False, url: Url = None, token: Token = None, data_dir: DataDir = None
) -> None:
    """Show one replay: what it sends, how far it is, when it should be over."""
    _show(asyncio.run(_asked(access(url, token, data_dir), "GET", f"replays/{segment(replay_id)}")), json)


@group.command("pause")
def pause(
    replay_id: ReplayId, json: Json = False, url: Url = None, token: Token = None, data_dir: DataDir = None
) -> None:
    """Stop a replay until it is resumed."""
    _show(asyncio.run(_asked(access(url, token, data_dir), "POST", f"replays/{segment(replay_id)}/pause")), json)


@group.command("resume")
def resume(
    replay_id: ReplayId, json: Json = False, url: Url = None, token: Token = None, data_dir: DataDir = None
) -> None:
    """Let a paused replay go on, at its pace."""
    _show(asyncio.run(_asked(access(url, token, data_dir), "POST", f"replays/{segment(replay_id)}/resume")), json)


@group.command("cancel")
def cancel(
    replay_id: ReplayId, json: Json = False, url: Url = None, token: Token = None, data_dir: DataDir = None
) -> None:
    """End a replay where it is."""
    _show(asyncio.run(_asked(access(url, token, data_dir), "POST", f"replays/{segment(replay_id)}/cancel")), json)


async def _asked(reached: Access, method: str, path: str) -> Any:
    async with Remote(reached) as remote:
        return await (remote.get(path) if method == "GET" else remote.post(path, {}))


def _show(found: Mapping[str, Any], json: bool) -> None:
    if json or on_terminal():
        json_document(found)
        return
    table(_COLUMNS, [_row(found)])


def _row(one: Mapping[str, Any]) -> tuple[Any, ...]:
    progress = one["progress"]
    eta = progress["eta_seconds"]
    return (
        one["replay_id"],
        one["state"],
        " ".join(one["target"].values()),
        one["events"],
        progress["events"],
        one["first"],
        one["last"],
        "" if eta is None else _duration(eta),
    )


def _duration(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    minutes, left = divmod(rest, 60)
    return f"{hours}:{minutes:02d}:{left:02d}" if hours else f"{minutes}:{left:02d}"
