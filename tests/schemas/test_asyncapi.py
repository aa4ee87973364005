"""The AsyncAPI document: its structure is that of AsyncAPI 3.0.0, and it says what the code does."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from schemas.asyncapi import GROUPS, asyncapi
from schemas.frame_examples import CHANGE, EXAMPLES
from schemas.frames import CLIENT_FRAMES, SERVER_FRAMES

DOCUMENT = asyncapi()
KEY = re.compile(r"[A-Za-z0-9.\-_]+")
# The fixed fields of AsyncAPI 3.0.0, by the place of the object; `x-` fields may join them anywhere.
ROOT = {"asyncapi", "id", "info", "servers", "defaultContentType", "channels", "operations", "components"}
SERVER = {"host", "protocol", "protocolVersion", "pathname", "description", "title", "summary", "variables", "security"}
CHANNEL = {"address", "messages", "title", "summary", "description", "servers", "parameters", "tags", "bindings"}
OPERATION = {"action", "channel", "title", "summary", "description", "security", "bindings", "messages", "reply"}
MESSAGE = {"headers", "payload", "correlationId", "contentType", "name", "title", "summary", "description", "examples"}
PARAMETER = {"enum", "default", "description", "examples", "location"}
COMPONENTS = {"schemas", "servers", "channels", "operations", "messages", "securitySchemes", "parameters"}


def references(node: Any) -> Iterator[str]:
    """Every `$ref` in a tree."""
    if isinstance(node, dict):
        if "$ref" in node:
            yield node["$ref"]
        node = list(node.values())
    if isinstance(node, list):
        for inner in node:
            yield from references(inner)


def resolve(reference: str) -> Any:
    """What a reference of the document points at."""
    node: Any = DOCUMENT
    for step in reference.removeprefix("#/").split("/"):
        node = node[step]
    return resolve(node["$ref"]) if set(node) == {"$ref"} else node


def fields(node: dict[str, Any]) -> set[str]:
    """The fields of an object that AsyncAPI defines."""
    return {key for key in node if not key.startswith("x-")}


def payload(name: str) -> Draft202012Validator:
    """A validator of a message's payload, with the document's components at hand."""
    schema = resolve(f"#/components/messages/{name}")["payload"]
    return Draft202012Validator(schema | {"components": DOCUMENT["components"]})


def test_the_document_is_json() -> None:
    """Nothing in it is more than JSON can say, and each call gives a new one."""
    assert json.loads(json.dumps(DOCUMENT, allow_nan=False)) == DOCUMENT
    assert asyncapi() == DOCUMENT
    assert asyncapi()["channels"] is not DOCUMENT["channels"]


def test_objects_have_the_fields_of_asyncapi_3() -> None:
    """Required fields are there, and no unknown ones; names of components are allowed ones."""
    assert fields(DOCUMENT) <= ROOT
    assert DOCUMENT["asyncapi"] == "3.0.0"
    assert {"title", "version"} <= set(DOCUMENT["info"])
    for server in DOCUMENT["servers"].values():
        assert {"host", "protocol"} <= fields(server) <= SERVER
    for channel in DOCUMENT["channels"].values():
        assert {"address", "messages"} <= fields(channel) <= CHANNEL
        names = set(re.findall(r"\{(\w+)\}", channel["address"]))
        assert names == set(channel.get("parameters", {}))
        for parameter in channel.get("parameters", {}).values():
            assert fields(parameter) <= PARAMETER
    for operation in DOCUMENT["operations"].values():
        assert {"action", "channel"} <= fields(operation) <= OPERATION
        assert operation["action"] in ("send", "receive")
    assert fields(DOCUMENT["components"]) <= COMPONENTS
    for message in DOCUMENT["components"]["messages"].values():
        assert fields(message) <= MESSAGE
    for part in DOCUMENT["components"].values():
        assert all(KEY.fullmatch(name) for name in part)


def test_every_reference_leads_somewhere() -> None:
    """And none leaves the document."""
    found = set(references(DOCUMENT))
    assert found
    for reference in found:
        assert reference.startswith("#/")
        resolve(reference)


def test_operations_use_the_messages_of_their_channel() -> None:
    """AsyncAPI 3 wants an operation's and a reply's messages named by way of the channel."""
    for operation in DOCUMENT["operations"].values():
        for part in (operation, operation.get("reply", operation)):
            assert part["channel"]["$ref"].removeprefix("#/channels/") in DOCUMENT["channels"]
            for message in part["messages"]:
                assert message["$ref"].startswith(part["channel"]["$ref"] + "/messages/")


def test_every_frame_goes_its_way() -> None:
    """The hub receives what clients send, and sends the rest, alone or as a reply."""
    received: set[str] = set()
    sent: set[str] = set()
    for operation in DOCUMENT["operations"].values():
        if operation["channel"] == {"$ref": "#/channels/ws"}:
            way = received if operation["action"] == "receive" else sent
            way |= {message["$ref"].rsplit("/", 1)[1] for message in operation["messages"]}
            sent |= {message["$ref"].rsplit("/", 1)[1] for message in operation.get("reply", {}).get("messages", ())}
    assert received == set(CLIENT_FRAMES)
    assert sent == {model.model_json_schema()["properties"]["op"]["const"] for model in SERVER_FRAMES}
    assert set(DOCUMENT["channels"]["ws"]["messages"]) == received | sent


@pytest.mark.parametrize("op", EXAMPLES)
def test_examples_fit_their_payload(op: str) -> None:
    """Each message carries its example, and its schema accepts that and refuses another frame's."""
    message = DOCUMENT["components"]["messages"][op]
    assert message["examples"][0] == {"name": op, "payload": EXAMPLES[op]}
    for example in message["examples"]:
        payload(op).validate(example["payload"])
    other = next(name for name in EXAMPLES if name != op)
    assert not payload(op).is_valid(EXAMPLES[other])


def test_frames_with_events_know_the_events(golden: Callable[[str], dict[str, Any]]) -> None:
    """A published event may be of an old version, a delivered one is of the newest; junk is neither."""
    for name, published, delivered in (("order.v1", True, False), ("order.v2", True, True)):
        event = golden(name)
        assert payload("publish").is_valid({"op": "publish", "ref": 1, "event": event}) is published
        assert payload("event").is_valid({**EXAMPLES["event"], "event": event}) is delivered
    assert not payload("publish").is_valid({"op": "publish", "ref": 1})
    assert not payload("event").is_valid({**EXAMPLES["event"], "event": {"type": "order"}})
    whole = {key: value for key, value in CHANGE.items() if key != "base_revision"}
    assert not payload("event").is_valid(whole)


def test_components_have_no_definitions_of_their_own() -> None:
    """A reference to `#/$defs` would lead out of a component that is used elsewhere."""
    assert "$defs" not in json.dumps(DOCUMENT)


def test_the_websocket_is_described() -> None:
    """Its address, its token, its close codes and whether to come back after them."""
    channel = DOCUMENT["channels"]["ws"]
    assert channel["address"] == "/ws"
    security = DOCUMENT["servers"]["hub"]["security"]
    assert [resolve(item["$ref"])["scheme"] for item in security] == ["bearer"]
    codes = {row["code"]: row["reconnect"] for row in channel["x-close-codes"]}
    assert codes[4008] is True
    assert codes[4501] is False
    assert all(f"- {code}: " in channel["description"] for code in codes)


def test_the_stream_is_described() -> None:
    """Its key, its fields in their order, its groups."""
    channel = DOCUMENT["channels"]["events"]
    key = channel["address"].replace("{prefix}", channel["parameters"]["prefix"]["default"])
    examples = channel["parameters"]["partition"]["examples"]
    assert key.replace("{partition}", examples[0]) == "hub:{p00}:events"
    assert channel["x-consumer-groups"] == list(GROUPS)
    entry = DOCUMENT["components"]["schemas"]["entry"]
    assert entry["required"] == [
        "event_type",
        "event_data",
        "timestamp",
        "event_id",
        "tenant_id",
        "action",
        "entity",
        "revision",
        "sequence",
    ]
    dead = DOCUMENT["components"]["schemas"]["deadLetter"]["required"]
    assert dead == [*entry["required"], "reason", "attempts", "failed_at", "source_id"]
