"""The AsyncAPI 3.0 document: the WebSocket and the Redis streams, as `/asyncapi.json` answers it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from pydantic import BaseModel

from schemas.export import DEFS, Schema, event_schemas, frame_schema, schema_name
from schemas.frame_examples import CHANGE, EXAMPLES
from schemas.frames import (
    AUTH_TIMEOUT_S,
    CLIENT_FRAMES,
    HEARTBEAT_S,
    MAX_MESSAGE_BYTES,
    PONG_TIMEOUT_S,
    SERVER_FRAMES,
    SUBPROTOCOL,
    WINDOW,
    Close,
    may_reconnect,
)
from schemas.registry import EVENT_TYPES
from schemas.types import SYSTEMS

GROUPS: Final = ("archiver", "webhooks", *sorted(SYSTEMS))
"""The consumer groups that exist from the start on every partition."""

CLOSE_MEANINGS: Final[Mapping[int, str]] = MappingProxyType(
    {
        Close.GOING_AWAY: "The hub is draining; the notice before it carries `reconnect_after_ms`",
        Close.PROTOCOL_ERROR: "The WebSocket protocol was broken",
        Close.UNSUPPORTED: "A binary frame was sent",
        Close.INVALID_DATA: "The text was not UTF-8",
        Close.POLICY: "The frame or the origin is against the hub's policy",
        Close.TOO_BIG: f"A message was larger than {MAX_MESSAGE_BYTES // 1024} KiB",
        Close.INTERNAL: "The hub failed",
        Close.TRY_LATER: "The hub has no room for the connection now",
        Close.TOKEN_EXPIRED: "The token expired; come back with a new one",
        Close.TOO_SLOW: "The client reads too slowly; resume from the last cursor",
        Close.RATE_LIMITED: "The client sends too much",
        Close.BAD_TOKEN: "The token is not valid",
        Close.NO_AUTH: f"No token came within {AUTH_TIMEOUT_S} s",
        Close.FORBIDDEN: "The token may not do this, or was revoked",
    }
)

_STREAM_FIELDS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "event_type": "The event's type",
        "event_data": "The envelope as stored, JSON",
        "timestamp": "When it was appended, milliseconds since 1970",
        "event_id": "The envelope's",
        "tenant_id": "The envelope's",
        "action": "The envelope's",
        "entity": "The envelope's",
        "revision": "The envelope's",
        "sequence": "Contiguous per tenant",
    }
)
_DEAD_FIELDS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "reason": "Why it was given up",
        "attempts": "How often it was tried",
        "failed_at": "When it was given up, ISO 8601, UTC",
        "source_id": "The entry's id in the events stream",
    }
)

_COMPONENTS: Final = "#/components/schemas/"


def asyncapi() -> dict[str, Any]:
    """The document. Operations are the hub's: it receives what clients send, and sends what they read."""
    client = {op: _message(op, model) for op, model in CLIENT_FRAMES.items()}
    server = {op: _message(op, model) for op, model in _server_frames().items()}
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Hotel event hub",
            "version": "1.0.0",
            "description": (
                "Events of hotel systems: published and read over the WebSocket, and read from the Redis streams by "
                "consumer groups. HTTP is described in `/openapi.json`, each event in `/schemas/<type>.v<n>.json`."
            ),
            "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
        },
        "defaultContentType": "application/json",
        "servers": {
            "hub": {
                "host": "localhost:3400",
                "protocol": "ws",
                "description": "The hub; `wss` behind TLS",
                "security": [_ref("components/securitySchemes/bearer")],
            },
            "redis": {
                "host": "localhost:6379",
                "protocol": "redis",
                "description": "The Redis or Valkey that holds the log: the one of HUB_REDIS_URL, or the hub's own",
            },
        },
        "channels": {
            "ws": {
                "address": "/ws",
                "title": "WebSocket",
                "description": _ws_description(),
                "servers": [_ref("servers/hub")],
                "messages": {op: _ref(f"components/messages/{op}") for op in (*client, *server)},
                "bindings": {
                    "ws": {
                        "method": "GET",
                        "headers": {
                            "type": "object",
                            "properties": {
                                "Authorization": {"type": "string", "pattern": "^Bearer "},
                                "Sec-WebSocket-Protocol": {"type": "string", "const": SUBPROTOCOL},
                            },
                        },
                        "bindingVersion": "0.1.0",
                    }
                },
                "x-close-codes": [
                    {"code": code, "meaning": meaning, "reconnect": may_reconnect(code)}
                    for code, meaning in CLOSE_MEANINGS.items()
                ],
            },
            "events": _stream_channel(
                "{prefix}:{partition}:events",
                "Events",
                "One partition of the log. Fields stand in the entry in the order given; more may follow them. Read it "
                "with a consumer group (XREADGROUP) and XACK what is done; trimming waits for every group.",
                "entry",
            ),
            "dead": _stream_channel(
                "{prefix}:{partition}:dead:{group}",
                "Dead letters",
                "What a consumer group gave up on.",
                "deadLetter",
                group={"description": "The consumer group", "examples": list(GROUPS)},
            ),
        },
        "operations": _operations(list(client), list(server)),
        "components": {
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "bearerFormat": "JWT",
                    "description": (
                        f"In the Authorization header, or, from a browser, in an `auth` frame within {AUTH_TIMEOUT_S} s"
                    ),
                }
            },
            "messages": {
                **client,
                **server,
                "entry": {
                    "name": "entry",
                    "title": "Stream entry",
                    "contentType": "application/json",
                    "payload": _component("entry"),
                },
                "deadLetter": {
                    "name": "deadLetter",
                    "title": "Dead letter",
                    "contentType": "application/json",
                    "payload": _component("deadLetter"),
                },
            },
            "schemas": _schemas(),
        },
    }


def _server_frames() -> dict[str, type[BaseModel]]:
    return {frame_schema(model)["properties"]["op"]["const"]: model for model in SERVER_FRAMES}


def _message(op: str, model: type[BaseModel]) -> dict[str, Any]:
    return {
        "name": op,
        "title": op,
        "summary": frame_schema(model)["description"],
        "contentType": "application/json",
        "payload": _component(f"frame.{op}"),
        "examples": [
            {"name": op, "payload": dict(EXAMPLES[op])},
            *([{"name": "change", "payload": dict(CHANGE)}] if op == "event" else []),
        ],
    }


def _operations(client: list[str], server: list[str]) -> dict[str, Any]:
    answers = {
        "auth": ["welcome"],
        "subscribe": ["snapshot", "subscribed", "error"],
        "publish": ["published", "error"],
        "ping": ["pong"],
    }
    received = {
        op: {
            "action": "receive",
            "channel": _ref("channels/ws"),
            "messages": [_ref(f"channels/ws/messages/{op}")],
        }
        for op in client
    }
    for op, replies in answers.items():
        received[op]["reply"] = {
            "channel": _ref("channels/ws"),
            "messages": [_ref(f"channels/ws/messages/{reply}") for reply in replies],
        }
    sent = {
        op: {"action": "send", "channel": _ref("channels/ws"), "messages": [_ref(f"channels/ws/messages/{op}")]}
        for op in server
        if all(op not in replies for replies in answers.values()) or op == "error"
    }
    streams = {
        name: {
            "action": "send",
            "summary": summary,
            "channel": _ref(f"channels/{channel}"),
            "messages": [_ref(f"channels/{channel}/messages/{message}")],
        }
        for name, channel, message, summary in (
            ("append", "events", "entry", "Every event, durably, before it is delivered anywhere"),
            ("giveUp", "dead", "deadLetter", "An event that a consumer group could not handle"),
        )
    }
    return received | sent | streams


def _stream_channel(
    address: str, title: str, description: str, message: str, **parameters: dict[str, Any]
) -> dict[str, Any]:
    return {
        "address": address,
        "title": title,
        "description": description,
        "servers": [_ref("servers/redis")],
        "messages": {message: _ref(f"components/messages/{message}")},
        "parameters": {
            "prefix": {"default": "hub", "description": "HUB_KEY_PREFIX"},
            "partition": {
                "description": (
                    "crc32(tenant_id) modulo the number of partitions (8 by default), in two digits. The braces belong "
                    "to the key: they are the hash tag that keeps a partition on one cluster slot"
                ),
                "examples": ["{p00}", "{p07}"],
            },
            **parameters,
        },
        "x-consumer-groups": list(GROUPS),
    }


def _schemas() -> dict[str, Schema]:
    """Components have no `$defs`: each definition becomes a component, named after its owner."""
    found: dict[str, Schema] = {}
    for name, schema in event_schemas().items():
        found |= _hoisted(f"event.{name}", schema)
    found["event"] = {
        "description": "An event as the hub delivers it: at the newest version of its type",
        "anyOf": [_component(f"event.{schema_name(kind, kind.newest)}") for kind in EVENT_TYPES.values()],
    }
    found["storedEvent"] = {
        "description": "An event as it is published and stored: at any version of its type",
        "anyOf": [_component(f"event.{name}") for name in event_schemas()],
    }
    for op, model in (*CLIENT_FRAMES.items(), *_server_frames().items()):
        found |= _hoisted(f"frame.{op}", frame_schema(model))
    found["frame.publish"]["properties"]["event"] = _component("storedEvent")
    found["change"] = {
        "description": "An event of which `data` holds what differs from the entity's state at `base_revision`",
        "type": "object",
        "properties": {
            "type": {"type": "string"},
            "data": {"type": "object", "description": "A JSON merge patch (RFC 7396)"},
        },
        "required": ["event_id", "type", "action", "tenant_id", "entity", "revision", "data"],
    }
    found["frame.event"] |= {
        "if": {"properties": {"base_revision": {"type": "integer"}}, "required": ["base_revision"]},
        "then": {"properties": {"event": _component("change")}},
        "else": {"properties": {"event": _component("event")}},
    }
    found["entry"] = _entry(_STREAM_FIELDS)
    found["deadLetter"] = _entry({**_STREAM_FIELDS, **_DEAD_FIELDS})
    return found


def _entry(fields: Mapping[str, str]) -> Schema:
    properties: dict[str, Schema] = {name: {"type": "string", "description": text} for name, text in fields.items()}
    properties["event_data"] |= {"contentMediaType": "application/json", "contentSchema": _component("storedEvent")}
    return {"type": "object", "properties": properties, "required": list(fields)}


def _hoisted(name: str, schema: Schema) -> dict[str, Schema]:
    rest = {key: value for key, value in schema.items() if key not in ("$schema", "$id", "$defs")}
    parts = {f"{name}.{part}": inner for part, inner in schema.get("$defs", {}).items()}
    return {key: _moved(value, name) for key, value in {name: rest, **parts}.items()}


def _moved(node: Any, name: str) -> Any:
    if isinstance(node, dict):
        return {
            key: f"{_COMPONENTS}{name}.{value.removeprefix(DEFS)}" if key == "$ref" else _moved(value, name)
            for key, value in node.items()
        }
    return [_moved(item, name) for item in node] if isinstance(node, list) else node


def _ws_description() -> str:
    return (
        f"Text frames, one JSON object each; subprotocol `{SUBPROTOCOL}` is echoed when offered, not required. Unknown "
        f"fields are ignored, unknown ops answered by `error`. Messages are at most {MAX_MESSAGE_BYTES // 1024} KiB. "
        f"The hub pings every {HEARTBEAT_S} s and waits {PONG_TIMEOUT_S} s for the pong. A durable subscription leaves "
        f"at most {WINDOW} events unacknowledged. After a close code below 4500 the client comes back, after one above "
        "it does not with the same token:\n\n"
        + "\n".join(f"- {code}: {meaning}" for code, meaning in CLOSE_MEANINGS.items())
    )


def _ref(path: str) -> dict[str, str]:
    return {"$ref": f"#/{path}"}


def _component(name: str) -> dict[str, str]:
    return {"$ref": f"{_COMPONENTS}{name}"}
