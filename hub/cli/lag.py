"""`hub lag`: what the consumer groups have yet to do."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final

import typer
from rich.console import Group as Stacked
from rich.live import Live
from rich.text import Text

from hub.cli.access import Access, DataDir, Json, Token, Url, access
from hub.cli.output import compact, json_document, line, on_terminal, rich_table, table
from hub.cli.remote import Remote

COLUMNS: Final = ("group", "partition", "lag", "pending", "oldest", "consumers")
_RIGHT: Final = ("lag", "pending", "oldest", "consumers")

app = typer.Typer()


@app.command("lag")
def lag(
    group: Annotated[list[str] | None, typer.Option(help="Only this group; may be repeated")] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Again and again, until Ctrl-C")] = False,
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks of --watch")] = 2.0,
    json: Json = False,
    url: Url = None,
    token: Token = None,
    data_dir: DataDir = None,
) -> None:
    """Per consumer group and partition: entries not yet given out (lag), given out and unacknowledged (pending), the
    age of the oldest of those in seconds, and consumers."""
    reached = access(url, token, data_dir)
    asyncio.run(_watch(reached, group or [], every, json) if watch else _once(reached, group or [], json))


async def _states(remote: Remote, wanted: Sequence[str]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await remote.get("groups"))["groups"]
    return [state for state in found if not wanted or state["group"] in wanted]


async def _once(reached: Access, wanted: Sequence[str], json: bool) -> None:
    async with Remote(reached) as remote:
        states = await _states(remote, wanted)
    if json:
        json_document({"groups": states, "total": total(states)})
        return
    table(COLUMNS, [_row(state) for state in states], right=_RIGHT)
    line(_total_line(states))


async def _watch(reached: Access, wanted: Sequence[str], every: float, json: bool) -> None:
    async with Remote(reached) as remote:
        if json or not on_terminal():
            while True:
                states = await _states(remote, wanted)
                line(compact({"groups": states, "total": total(states)}) if json else _total_line(states))
                await asyncio.sleep(every)
        with Live(auto_refresh=False) as live:
            while True:
                states = await _states(remote, wanted)
                rows = [_row(state) for state in states]
                live.update(Stacked(rich_table(COLUMNS, rows, right=_RIGHT), Text(_total_line(states))), refresh=True)
                await asyncio.sleep(every)


def total(states: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """All groups and partitions together; `unknown` counts those whose lag the server cannot tell."""
    return {
        "lag": sum(state["lag"] or 0 for state in states),
        "unknown": sum(state["lag"] is None for state in states),
        "pending": sum(state["pending"] for state in states),
        "oldest_pending_seconds": max((state["oldest_pending_seconds"] for state in states), default=0.0),
        "consumers": sum(state["consumers"] for state in states),
    }


def _row(state: Mapping[str, Any]) -> tuple[Any, ...]:
    lag = "?" if state["lag"] is None else state["lag"]
    oldest = f"{state['oldest_pending_seconds']:.1f}"
    return state["group"], state["partition"], lag, state["pending"], oldest, state["consumers"]


def _total_line(states: Sequence[Mapping[str, Any]]) -> str:
    all_ = total(states)
    unknown = f" ({all_['unknown']} unknown)" if all_["unknown"] else ""
    cells = (
        f"total\t{len(states)} streams\t{all_['lag']}{unknown}\t{all_['pending']}",
        f"{all_['oldest_pending_seconds']:.1f}\t{all_['consumers']}",
    )
    if not on_terminal():
        return "\t".join(cells)
    return (
        f"total: lag {all_['lag']}{unknown}, pending {all_['pending']}, "
        f"oldest {all_['oldest_pending_seconds']:.1f} s, consumers {all_['consumers']}"
    )
