"""`hub schemas`."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest
from hub_process import HubProcess

from hub.cli.main import main
from schemas.registry import EVENT_TYPES


def test_every_type_is_listed(bare: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With its schemas and actions, as JSON and as a table."""
    assert main(["schemas", "list", "--json"]) == 0
    found = {one["type"]: one for one in json.loads(capsys.readouterr().out)["schemas"]}
    assert found.keys() == EVENT_TYPES.keys()
    assert found["room"]["schemas"] == ["room.v1"]
    assert "status_changed" in found["room"]["actions"]

    assert main(["schemas", "list"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1 + len(EVENT_TYPES)


def test_what_is_exported_is_what_a_hub_serves(hub: HubProcess, bare: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Schemas and documents are the same over HTTP, by `show` and in the directory."""
    assert main(["schemas", "export", "out", "--json"]) == 0
    files = [Path(one) for one in json.loads(capsys.readouterr().out)["files"]]
    assert {file.name for file in files} >= {"openapi.json", "asyncapi.json", "hotel-events.d.ts", "room.v1.json"}

    for name, path in {"openapi": "openapi.json", "asyncapi": "asyncapi.json", "room": "schemas/room.v1.json"}.items():
        served = httpx.get(f"{hub.url}/{path}", trust_env=False).json()
        assert json.loads((bare / "out" / Path(path).name).read_text()) == served
        assert main(["schemas", "show", name]) == 0
        assert json.loads(capsys.readouterr().out) == served


def test_a_directory_that_cannot_be_written_is_named(bare: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An error with the path, no traceback."""
    (bare / "file").write_text("")

    assert main(["schemas", "export", "file"]) == 1

    assert capsys.readouterr().err.startswith("error: file: File exists")
