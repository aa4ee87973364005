"""`hub dead-letters`: what consumer groups could not handle."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Final, TypeVar

import typer

from hub.cli.access import DataDir, Json, Token, Url, access
from hub.cli.event_lines import name_of
from hub.cli.failure import CommandError, UsageError
from hub.cli.output import compact, json_document, line, on_terminal, table
from hub.cli.remote import Remote

AT_ONCE: Final = 1000
"""Letters one request moves or lists, at most."""

T = TypeVar("T")

app = typer.Typer()
group = typer.Typer(no_args_is_help=True, help="What consumer groups could not handle.")
app.add_typer(group, name="dead-letters")

Group = Annotated[str, typer.Option("--group", help="The consumer group")]
Ids = Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="As `hub dead-letters list` shows them")]
All = Annotated[bool, typer.Option("--all", help="All of the group")]


@group.command("list")
def list_(
    of: Annotated[str | None, typer.Option("--group", help="Only this consumer group")] = None,
    limit: Annotated[int, typer.Option(min=1, max=AT_ONCE, help="At most so many")] = 100,
    json: Json = False,
    url: Url = None,
    token: Token = None,
    data_dir: DataDir = None,
) -> None:
    """List dead letters, oldest first."""
    found = _run(url, token, data_dir, lambda hub: hub.get("dead-letters", group=of, limit=limit))
    if json:
        json_document(found)
        return
    columns = ("id", "group", "tenant", "event", "event id", "attempts", "failed at", "reason")
    table(columns, [_row(letter) for letter in found["dead_letters"]], right=("attempts",))


@group.command("show")
def show(
    id: Annotated[str, typer.Argument(help="As `hub dead-letters list` shows it")],
    of: Group,
    json: Json = False,
    url: Url = None,
    token: Token = None,
    data_dir: DataDir = None,
) -> None:
    """Print one dead letter with its event, as JSON."""
    found = _run(url, token, data_dir, lambda hub: hub.get("dead-letters", group=of, limit=AT_ONCE))
    letter = next((one for one in found["dead_letters"] if one["id"] == id), None)
    if letter is None:
        raise CommandError(
            f"the group {of} has no dead letter {id} among its oldest {AT_ONCE}", "`hub dead-letters list` shows them"
        )
    if json or not on_terminal():
        line(compact(letter))
    else:
        json_document(letter)


@group.command("redrive")
def redrive(
    of: Group,
    ids: Ids = None,
    all_: All = False,
    json: Json = False,
    url: Url = None,
    token: Token = None,
    data_dir: DataDir = None,
) -> None:
    """Hand dead letters to their group again."""
    count = _run(url, token, data_dir, lambda hub: _move(hub, "redrive", of, _chosen(ids, all_)))
    _moved("redriven", count, of, json)


@group.command("discard")
def discard(
    of: Group,
    ids: Ids = None,
    all_: All = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask")] = False,
    json: Json = False,
    url: Url = None,
    token: Token = None,
    data_dir: DataDir = None,
) -> None:
    """Remove dead letters for good. Their events stay in the log."""
    chosen = _chosen(ids, all_)
    if not yes:
        what = f"{len(chosen)} dead letters" if chosen else "all dead letters"
        if not sys.stdin.isatty():
            raise UsageError(f"discarding {what} of {of} cannot be undone", "Say --yes")
        typer.confirm(f"Discard {what} of {of} for good?", abort=True, err=True)
    count = _run(url, token, data_dir, lambda hub: _move(hub, "discard", of, chosen))
    _moved("discarded", count, of, json)


def _run(url: str | None, token: str | None, data_dir: Any, ask: Callable[[Remote], Awaitable[T]]) -> T:
    async def asking() -> T:
        async with Remote(access(url, token, data_dir)) as remote:
            return await ask(remote)

    return asyncio.run(asking())


def _chosen(ids: list[str] | None, all_: bool) -> list[str] | None:
    if bool(ids) == all_:
        raise UsageError("which dead letters?", "Name their ids, or say --all")
    return ids or None


async def _move(remote: Remote, how: str, of: str, ids: list[str] | None) -> int:
    count, moved = 0, AT_ONCE
    if ids is not None:
        for start in range(0, len(ids), AT_ONCE):
            answer = await remote.post(f"dead-letters/{how}", {"group": of, "ids": ids[start : start + AT_ONCE]})
            count += sum(answer.values())
        return count
    while moved >= AT_ONCE:
        moved = sum((await remote.post(f"dead-letters/{how}", {"group": of})).values())
        count += moved
    return count


def _moved(word: str, count: int, of: str, json: bool) -> None:
    if json:
        json_document({word: count})
    else:
        line(f"{count} dead letters of {of} {word}")


def _row(letter: dict[str, Any]) -> tuple[Any, ...]:
    event = letter["event"]
    return (
        letter["id"],
        letter["group"],
        letter["tenant_id"],
        name_of(event) if isinstance(event, dict) and {"type", "action"} <= event.keys() else "?",
        letter["event_id"],
        letter["attempts"],
        letter["failed_at"],
        letter["reason"],
    )
