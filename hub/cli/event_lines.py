"""Events as lines: for a person's eye on a terminal, tab-separated or JSON for programs."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.text import Text

from hub.cli.output import clean, compact, line, on_terminal

COLUMNS = "recorded_at, tenant, sequence, type.action, entity, revision, event id, cursor, data"


class EventPrinter:
    """Prints one line an event, at once."""

    def __init__(self, *, json: bool) -> None:
        self._json = json
        self._console = None if json or not on_terminal() else Console(file=sys.stdout, highlight=False)

    def __call__(self, found: Mapping[str, Any]) -> None:
        """Print what has `cursor`, `sequence` and `event`."""
        if self._json:
            line(compact({name: found[name] for name in ("cursor", "sequence", "event")}))
        elif self._console is not None:
            self._console.print(_coloured(found), no_wrap=True, overflow="ellipsis", crop=True)
        else:
            line(_fields(found))


def name_of(event: Mapping[str, Any]) -> str:
    """`type.action`."""
    return f"{event['type']}.{event['action']}"


def _fields(found: Mapping[str, Any]) -> str:
    event = found["event"]
    values = (
        event["recorded_at"],
        event["tenant_id"],
        found["sequence"],
        name_of(event),
        event["entity"],
        event["revision"],
        event["event_id"],
        found["cursor"],
        compact(event["data"]),
    )
    return "\t".join(clean(value) for value in values)


def _coloured(found: Mapping[str, Any]) -> Text:
    event = found["event"]
    text = Text()
    text.append(clean(event["recorded_at"]), "dim")
    text.append(f" {clean(event['tenant_id'])}", "cyan")
    text.append(f" #{found['sequence']}", "dim")
    text.append(f" {clean(name_of(event))}", "bold green")
    text.append(f" {clean(event['entity'])}")
    text.append(f" r{event['revision']}", "dim")
    text.append(f" {clean(compact(event['data']))}", "dim")
    return text
