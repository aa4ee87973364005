"""`hub schemas export` writes what the hub publishes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hub.services.schema_export import export
from schemas.asyncapi import asyncapi
from schemas.export import event_schemas
from schemas.export_typescript import typescript

OPENAPI = {"openapi": "3.1.0", "info": {"title": "日本", "version": "1"}}


def test_everything_is_written(tmp_path: Path) -> None:
    """Each document under its published name, in a directory that is made."""
    directory = tmp_path / "new" / "schemas"
    written = export(directory, OPENAPI)
    assert sorted(written) == sorted(directory.iterdir())
    found = {path.name: path.read_text(encoding="utf-8") for path in written}
    assert found.pop("hotel-events.d.ts") == typescript()
    assert {name: json.loads(text) for name, text in found.items()} == {
        **{f"{name}.json": schema for name, schema in event_schemas().items()},
        "asyncapi.json": asyncapi(),
        "openapi.json": OPENAPI,
    }


def test_writing_again_changes_nothing(tmp_path: Path) -> None:
    """The output can be kept under version control; files of others are left alone."""
    (tmp_path / "mine.txt").write_text("mine")
    first = {path: path.read_bytes() for path in export(tmp_path, OPENAPI)}
    assert {path: path.read_bytes() for path in export(tmp_path, OPENAPI)} == first
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_a_place_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    """The caller says so; nothing is hidden."""
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        export(tmp_path / "file", OPENAPI)
