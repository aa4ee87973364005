"""`hub doctor`: is everything as the hub needs it, and what to do where it is not."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from hub.cli.access import DataDir, Json
from hub.cli.output import clean, json_document, line, on_terminal

if TYPE_CHECKING:
    from hub.cli.check import Check

_STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}

app = typer.Typer()


@app.command("doctor")
def doctor(
    full: Annotated[
        bool, typer.Option("--full", help="Check and compare every event in log and store, not the newest alone")
    ] = False,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Check settings, data directory, key, server program, port, Redis, groups, clocks, the store and disk; hold the
    log against the store. Exit code 1 when something fails."""
    from hub.cli.checks import examine  # brings the log along, which no other client command needs

    checks = asyncio.run(examine(data_dir, full=full))
    if json:
        json_document({"ok": not _failed(checks), "checks": [check.to_dict() for check in checks]})
    elif on_terminal():
        console = Console(file=sys.stdout, highlight=False)
        for check in checks:
            console.print(_coloured(check))
    else:
        for check in checks:
            line(f"{check.status}\t{check.name}\t{clean(check.detail)}\t{clean(check.fix)}")
    if _failed(checks):
        raise typer.Exit(1)


def _failed(checks: list[Check]) -> bool:
    return any(check.status == "fail" for check in checks)


def _coloured(check: Check) -> Text:
    text = Text()
    text.append(f"{check.status:<5}", _STYLES[check.status])
    text.append(f"{check.name:<12}", "bold")
    text.append(clean(check.detail))
    if check.fix:
        text.append(f"\n{'':<17}→ {clean(check.fix)}", "yellow" if check.status == "warn" else "red")
    return text
