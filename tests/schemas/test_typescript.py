"""The TypeScript types: whole, well-formed, and the same fields as the models."""

from __future__ import annotations

import re

import pytest

from schemas.errors import CODES
from schemas.export_typescript import typescript
from schemas.frames import CLIENT_FRAMES, SERVER_FRAMES
from schemas.registry import EVENT_TYPES

TEXT = typescript()
# Comments and literals out of the way, only punctuation and names are left.
BARE = re.sub(r'/\*.*?\*/|//[^\n]*|"(?:[^"\\\n]|\\.)*"|`[^`]*`', '""', TEXT, flags=re.DOTALL)
INTERFACES = {
    name: set(re.findall(r"^  (\w+)\??: ", body, flags=re.MULTILINE))
    for name, body in re.findall(r"^export interface (\w+)[^{]*\{\n(.*?)^\}", TEXT, flags=re.DOTALL | re.MULTILINE)
}
UNIONS = dict(re.findall(r"^export type (\w+) =(.*?);$", TEXT, flags=re.DOTALL | re.MULTILINE))
BUILT_IN = {"string", "number", "boolean", "null", "unknown", "Record", "readonly", "true", "false"}
VERSIONS = [(name, version) for name, kind in EVENT_TYPES.items() for version in kind.versions]


def pascal(name: str) -> str:
    """`checkin_checkout` as TypeScript names it."""
    return "".join(part.capitalize() for part in name.split("_"))


def members(union: str) -> list[str]:
    """The members of a union."""
    return [member.strip() for member in UNIONS[union].split("|") if member.strip()]


def block(name: str) -> str:
    """The text of an interface."""
    found = re.search(rf"^export interface {name}\b.*?^\}}", TEXT, flags=re.DOTALL | re.MULTILINE)
    assert found is not None
    return found[0]


def test_declarations_are_well_formed() -> None:
    """Brackets close, every member ends, nothing is declared twice, comments and templates end where they should."""
    for opening, closing in ("{}", "[]", "()", "<>"):
        assert BARE.count(opening) == BARE.count(closing)
    for line in BARE.splitlines():
        stripped = line.strip()
        assert not stripped or stripped in ('""', "}") or stripped[-1] in "{;=" or stripped.startswith("|"), line
    declared = re.findall(r"^export (?:type|interface) (\w+)", TEXT, flags=re.MULTILINE)
    assert len(declared) == len(set(declared))
    assert set(declared) == set(INTERFACES) | set(UNIONS)
    assert TEXT.endswith(";\n")


def test_every_name_that_is_used_is_declared() -> None:
    """A type that is missing would stop the compiler."""
    types = re.findall(r"(?:: |= ?|\| |<|extends |, )\(?([A-Za-z]\w*)", BARE)
    assert set(types) - BUILT_IN <= set(INTERFACES) | set(UNIONS)
    assert len(set(types)) > len(VERSIONS)


@pytest.mark.parametrize(("name", "version"), VERSIONS)
def test_data_has_the_fields_of_its_model(name: str, version: int) -> None:
    """Each version has its interface, with the same fields, and the required ones required."""
    model = EVENT_TYPES[name].versions[version]
    interface = f"{pascal(name)}DataV{version}"
    assert INTERFACES[interface] == set(model.model_fields)
    for field, info in model.model_fields.items():
        assert (f"  {field}: " in block(interface)) is info.is_required()


@pytest.mark.parametrize(("name", "version"), VERSIONS)
def test_events_are_told_apart_by_literals(name: str, version: int) -> None:
    """Type, action and version are literals, so that a `switch` on them narrows the data."""
    for form in ("Event", "Draft"):
        text = block(f"{pascal(name)}{form}V{version}")
        assert f'  type: "{name}";' in text
        assert f"  action: {pascal(name)}Action;" in text
        assert re.search(rf"  schema_version\??: {version};", text)
        assert f"  data: {pascal(name)}DataV{version};" in text
    assert members(f"{pascal(name)}Action") == [f'"{action}"' for action in EVENT_TYPES[name].actions]


def test_unions_name_every_event() -> None:
    """Delivered events are of the newest versions, stored and published ones of any."""
    every = [f"{pascal(name)}{{}}V{version}" for name, version in VERSIONS]
    newest = [f"{pascal(name)}EventV{kind.newest}" for name, kind in EVENT_TYPES.items()]
    assert members("HotelEvent") == newest
    assert members("StoredEvent") == [name.format("Event") for name in every]
    assert members("HotelEventDraft") == [name.format("Draft") for name in every]


def test_an_old_version_must_be_named() -> None:
    """Only the newest version is what an event without a version is."""
    assert "  schema_version: 1;" in block("OrderDraftV1")
    assert "  schema_version?: 2;" in block("OrderDraftV2")


def test_frames_both_ways() -> None:
    """Every frame is in the union of its direction, with its fields."""
    for union, models in (("ClientFrame", CLIENT_FRAMES.values()), ("ServerFrame", SERVER_FRAMES)):
        ops = {model.model_json_schema()["properties"]["op"]["const"]: model for model in models}
        assert members(union) == [f"{pascal(op)}Frame" for op in ops]
        for op, model in ops.items():
            assert INTERFACES[f"{pascal(op)}Frame"] == set(model.model_fields)
            assert f'  op: "{op}";' in block(f"{pascal(op)}Frame")


def test_cursors_are_branded() -> None:
    """A plain string is not taken for a cursor."""
    assert 'export type Cursor = string & { readonly __brand: "Cursor" };' in TEXT
    assert "cursors: Record<string, Cursor>;" in block("AckFrame")
    assert "position: Record<string, Cursor>;" in block("SubscribedFrame")
    assert "resume_from: Cursor;" in block("GapFrame")
    for name in ("EventFrame", "PublishedFrame"):
        assert "cursor: Cursor;" in block(name)
    assert '"latest" | "earliest" | Cursor | Record<string, Cursor> | null;' in block("SubscribeFrame")


def test_frames_carry_typed_events() -> None:
    """A client publishes drafts, with one there, and reads events."""
    assert "  event: HotelEventDraft;" in block("PublishFrame")
    assert "  event: HotelEvent;" in block("EventFrame")


def test_codes_are_literals() -> None:
    """Error codes and close codes can be switched on."""
    assert members("ErrorCode") == [f'"{code}"' for code in CODES]
    assert members("FinalClose") == ["4501", "4502", "4503"]
    assert "4008" in members("RetryableClose")
