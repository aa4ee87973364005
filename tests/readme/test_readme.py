"""README.md against the code: what it names exists, and its tables are complete."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
from pathlib import Path
from typing import get_args

import pytest
import typer
from prometheus_client import CollectorRegistry, Counter

from hub.app import _BUILT
from hub.cli.main import app
from hub.gateways.http import (
    conflicts,
    deliveries,
    devices,
    documents,
    events,
    integrity,
    operations,
    reports,
    sync,
    sync_reading,
    webhooks,
)
from hub.settings import Role, Settings
from hub.telemetry import Metrics
from schemas.asyncapi import CLOSE_MEANINGS
from schemas.envelope import Event
from schemas.errors import CODES
from schemas.frames import Gap, may_reconnect
from schemas.registry import EVENT_TYPES
from schemas.types import SYSTEMS

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.S | re.M)
SHELL = "\n".join(text for language, text in BLOCKS if language == "sh")
PYTHON = [text for language, text in BLOCKS if language == "python"]
FOOTNOTES = re.compile(r" [¹²³]")
READ_BY_CLIENTS = {"HUB_TOKEN", "HUB_URL", "HUB_CONFIG"}


def table(first: str) -> dict[str, list[str]]:
    """The cells of the table whose head begins with `first`, by the first cell without its backticks."""
    lines = README.split("\n")
    start = next(number for number, line in enumerate(lines) if line.startswith(f"| {first} |"))
    rows: dict[str, list[str]] = {}
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        name, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        rows[name.strip("`")] = cells
    return rows


def commands() -> list[list[str]]:
    """Every `hub …` of the shell blocks and of the text, as words."""
    lines = SHELL.replace("$(", "\n").replace("; do", "\n").split("\n") + re.findall(r"`(hub [^`]+)`", README)
    plain = (line.split("#")[0].strip().removesuffix(")") for line in lines)
    found = [shlex.split(re.sub(r"^(\w+=\S+ )+", "", line)) for line in plain if re.match(r"^(\w+=\S+ )*hub ", line)]
    assert len(found) > 15
    return found


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_commands_exist(words: list[str]) -> None:
    """Each command and each of its options is the command line's."""
    found = typer.main.get_command(app)
    names = words[1:]
    while names and (below := getattr(found, "commands", {}).get(names[0])) is not None:
        found, names = below, names[1:]
    assert found.name != "hub", f"no command {words[1]}"
    alone = found.name in ("events", "replay") or not getattr(found, "commands", {})
    assert alone, f"{words[1]} needs one of its commands"
    options = {option for parameter in found.params for option in parameter.opts}
    assert {word for word in names if word.startswith("--")} <= options


def test_make_targets_exist() -> None:
    """`make …` is the Makefile's."""
    made = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.M))
    named = set(re.findall(r"(?:^|`)make (\w+)", README, re.M))
    assert {"demo", "test", "bench"} <= named <= made


def test_settings_exist() -> None:
    """Every `HUB_` name is a setting."""
    known = {f"HUB_{name}".upper() for name in Settings.model_fields} | READ_BY_CLIENTS
    assert set(re.findall(r"\bHUB_[A-Z_]*[A-Z]\b", README)) <= known


def test_defaults_that_are_told_are_true() -> None:
    """Numbers of the text that are settings' defaults."""
    fields = Settings.model_fields
    assert fields["idempotency_hours"].default == 168
    assert "`HUB_IDEMPOTENCY_HOURS` (168, not less)" in README
    assert fields["slow_timeout_s"].default == 30
    assert "after 30 s without reading" in re.sub(r"\s+", " ", README)
    groups = ", ".join(f"`{name}`" for name in fields["groups"].default[:-1])
    assert f"The groups {groups} and `{fields['groups'].default[-1]}` exist from the start" in README


def test_metrics_are_all_there() -> None:
    """The table names every metric with its labels, and the text no other."""
    known = {}
    for metric in vars(Metrics(CollectorRegistry())).values():
        name = f"{metric._name}_total" if isinstance(metric, Counter) else metric._name
        known[name] = ", ".join(metric._labelnames)
    assert {name: cells[0] for name, cells in table("metric").items()} == known
    assert set(re.findall(r"`(hub_[a-z_]+)", README)) <= known.keys()


def test_error_codes_are_all_there() -> None:
    """The table is the one of schemas/errors.py."""
    written = {code: (int(status), retry == "yes", meaning) for code, (status, retry, meaning) in table("code").items()}
    assert written == {name: tuple(code) for name, code in CODES.items()}


def test_close_codes_are_all_there() -> None:
    """The table names every close code, and says of the right ones not to come back."""
    written = table("close code")
    assert [int(code) for code in written] == list(CLOSE_MEANINGS)
    for code, (_, advice) in written.items():
        assert ("does not come back" in advice) is not may_reconnect(int(code)), code


def test_gap_reasons_are_all_there() -> None:
    """The table has the reasons a `gap` can give."""
    assert set(table("reason")) == set(Gap.model_json_schema()["properties"]["reason"]["enum"])


def test_the_event_is_complete() -> None:
    """The table has every field of the envelope, in order."""
    assert list(table("field")) == list(Event.model_fields)


@pytest.mark.parametrize("name", EVENT_TYPES)
def test_types_are_told_as_they_are(name: str) -> None:
    """Entity, actions, authority, what others may publish, targets and defaults."""
    kind = EVENT_TYPES[name]
    entity, actions, authority, others, targets, defaults = table("type")[name]
    fields = ":".join(f"<{field}>" for field in kind.entity_fields)
    assert entity == f"`{kind.entity_type or name}:{fields}`"
    assert actions == ", ".join(kind.actions)
    assert authority == kind.authority
    assert FOOTNOTES.sub("", others) == (", ".join(kind.others) or "–")
    assert targets == ("all three" if kind.targets == SYSTEMS else ", ".join(kind.targets))
    assert defaults == ", ".join((kind.priority, kind.sync_mode, kind.guarantee))


def test_types_are_all_there() -> None:
    """No type is left out; where others may publish only a part, a footnote says which."""
    assert list(table("type")) == list(EVENT_TYPES)
    partly = [
        action
        for kind in EVENT_TYPES.values()
        for action, others in kind.others.items()
        if others.fields is not None or others.permission is not None
    ]
    assert re.findall(r"(\w+) [¹²³]", ", ".join(cells[3] for cells in table("type").values())) == partly


def test_routes_exist() -> None:
    """Paths of the text are the hub's."""
    routers = (
        events.router,
        deliveries.router,
        operations.router,
        operations.health,
        webhooks.router,
        reports.router,
        sync.router,
        sync_reading.router,
        devices.router,
        conflicts.router,
        integrity.router,
        documents.router,
        documents.schema_routes,
    )
    known = {route.path for router in routers for route in router.routes} | {"/ws"}
    named = {re.split("[?\"' ]", path)[0] for path in re.findall(r"(?:localhost:3400|`)(/[a-z][^\s`)]*)", README)}
    named = {path.removeprefix("/api/v1") for path in named if not path.startswith(("/path", "/opt"))}
    assert {"/events", "/stream", "/readyz", "/metrics"} <= named
    assert named <= known


@pytest.mark.parametrize("text", PYTHON, ids=["HubClient", "Desk", "standardwebhooks", "StreamConsumer"])
def test_snippets_import_what_exists(text: str) -> None:
    """The Python is Python, and its imports and keyword arguments are the SDK's."""
    tree = ast.parse(text)
    imported = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(str(node.module))
            imported |= {alias.name: getattr(module, alias.name) for alias in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in imported:
            taken = imported[node.func.id].__init__.__kwdefaults__ or {}
            required = imported[node.func.id].__init__.__annotations__
            assert {str(keyword.arg) for keyword in node.keywords} <= {*taken, *required}


def test_errors_of_the_sdk_exist() -> None:
    """Exceptions the text names are the SDK's."""
    sdk = importlib.import_module("consumers")
    for name in ("PublishRefused", "PublishFailed", "OutcomeUnknown", "HandlerFailed"):
        assert f"`{name}`" in README
        assert issubclass(getattr(sdk, name), Exception)


def test_links_lead_somewhere() -> None:
    """Files and headings that are linked are there."""
    headings = {
        re.sub(r"[^\w\- ]", "", line.lstrip("# ")).lower().replace(" ", "-")
        for line in README.split("\n")
        if line.startswith("#")
    }
    for target in re.findall(r"\]\(([^)]+)\)", README):
        if target.startswith("#"):
            assert target[1:] in headings, target
        elif not target.startswith("http"):
            assert (ROOT / target).exists(), target


def test_every_role_is_performed() -> None:
    """None of those that can be named does nothing."""
    assert set(get_args(Role)) == set(_BUILT)


def test_the_changelog_knows_this_version() -> None:
    """The newest entry is the version of pyproject.toml."""
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.M)
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert version is not None
    assert newest is not None
    assert newest[1] == version[1]
