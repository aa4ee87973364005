"""`hub config`: every setting and where its value comes from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
import typer

from hub import settings as hub_settings
from hub.cli.access import Json
from hub.cli.output import json_document, table

app = typer.Typer()


@app.command("config")
def config(json: Json = False) -> None:
    """Print every setting with its value, origin, unit, default and what it is for."""
    found = hub_settings.explain(hub_settings.load())
    if json:
        json_document({"settings": [one._asdict() for one in found]})
        return
    rows = [(one.name, _shown(one.value), one.origin, one.unit, _shown(one.default), one.description) for one in found]
    table(("setting", "value", "origin", "unit", "default", "description"), rows)


def _shown(value: Any) -> str:
    """As one writes it in a variable."""
    if value is None:
        return "(unset)"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return ",".join(map(str, value)) or "(none)"
    if isinstance(value, Mapping):
        return orjson.dumps(dict(value)).decode()
    return str(value)
