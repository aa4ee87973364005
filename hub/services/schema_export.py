"""Writes what the hub publishes about itself to a directory: `hub schemas export DIR`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from schemas.asyncapi import asyncapi
from schemas.export import event_schemas
from schemas.export_typescript import typescript

TYPESCRIPT: Final = "hotel-events.d.ts"


def export(directory: Path, openapi: Mapping[str, Any]) -> list[Path]:
    """Write `<type>.v<n>.json`, `openapi.json`, `asyncapi.json` and `hotel-events.d.ts`; make `directory` if need be.

    Files are the same for the same release, byte for byte. `openapi` is the gateway's document.

    Raises:
        OSError: a file cannot be written.
    """
    documents: dict[str, Mapping[str, Any]] = {f"{name}.json": schema for name, schema in event_schemas().items()}
    documents |= {"openapi.json": openapi, "asyncapi.json": asyncapi()}
    texts = {name: json.dumps(document, ensure_ascii=False, indent=2) + "\n" for name, document in documents.items()}
    texts[TYPESCRIPT] = typescript()
    directory.mkdir(parents=True, exist_ok=True)
    written = []
    for name, text in texts.items():
        path = directory / name
        path.write_text(text, encoding="utf-8", newline="\n")
        written.append(path)
    return written
