"""WebSocket frames, subprotocol `hub.v1`: one JSON object a text frame, told apart by `op`.

Client frames are validated; unknown fields are ignored. Server frames are written as bytes by the gateway and described
here for readers, for the published AsyncAPI document and for the SDK.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from schemas.types import ENTITY_FORM, TenantId

SUBPROTOCOL: Final = "hub.v1"
MAX_MESSAGE_BYTES: Final = 64 * 1024
MAX_BATCH_EVENTS: Final = 500
MAX_BODY_BYTES: Final = 1024 * 1024
MAX_PAGE: Final = 1000
MAX_WAIT_S: Final = 30
WINDOW: Final = 1000
"""Events a durable subscription may leave unacknowledged."""
HEARTBEAT_S: Final = 25
PONG_TIMEOUT_S: Final = 10
AUTH_TIMEOUT_S: Final = 5


class Close:
    """WebSocket close codes. At or above 4500 the client must not reconnect with the same credentials."""

    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    UNSUPPORTED = 1003
    INVALID_DATA = 1007
    POLICY = 1008
    TOO_BIG = 1009
    INTERNAL = 1011
    TRY_LATER = 1013
    TOKEN_EXPIRED = 4001
    TOO_SLOW = 4008
    RATE_LIMITED = 4029
    BAD_TOKEN = 4501
    NO_AUTH = 4502
    FORBIDDEN = 4503


def may_reconnect(code: int) -> bool:
    """Whether a client may come back after this close code, with full-jitter backoff."""
    return code < 4500


CHANNEL_FORM: Final = r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,99}$"
PATTERN_FORM: Final = r"^(\*|[a-z][a-z0-9_]*\.(\*|[a-z][a-z0-9_]*))$"
MAX_REF: Final = 200
_PATTERN: Final = re.compile(PATTERN_FORM[1:-1], re.ASCII)


def _pattern(value: str) -> str:
    if not _PATTERN.fullmatch(value):
        raise ValueError("a pattern is `type.action`, `type.*` or `*`")
    return value


def _ref(value: Any) -> Any:
    if type(value) is int or (type(value) is str and len(value) <= MAX_REF):
        return value
    raise ValueError(f"must be a number or a text of at most {MAX_REF} characters")


def _after(value: Any) -> Any:
    if isinstance(value, dict):
        for tenant, cursor in value.items():
            if not isinstance(cursor, str):
                raise ValueError(f"the cursor of {tenant} must be a text")
    elif not isinstance(value, str):
        raise ValueError("must be `latest`, `earliest`, a cursor, or an object of tenants and their cursors")
    return value


CURSOR_SCHEMA: Final[dict[str, Any]] = {"type": "string", "format": "hub-cursor", "description": "An opaque cursor"}

Pattern = Annotated[
    str,
    AfterValidator(_pattern),
    Field(max_length=80, json_schema_extra={"pattern": PATTERN_FORM, "format": "hub-pattern"}),
]
Entity = Annotated[str, Field(pattern=ENTITY_FORM)]
# One error for a wrong value, not one for each side of the union.
Ref = Annotated[
    int | str,
    BeforeValidator(_ref),
    WithJsonSchema({"anyOf": [{"type": "integer"}, {"type": "string", "maxLength": MAX_REF}]}),
]
CursorText = Annotated[str, WithJsonSchema(CURSOR_SCHEMA)]
After = Annotated[
    str | dict[str, str],
    BeforeValidator(_after),
    WithJsonSchema(
        {
            "anyOf": [
                {"enum": ["latest", "earliest"]},
                CURSOR_SCHEMA,
                {"type": "object", "additionalProperties": CURSOR_SCHEMA},
            ]
        }
    ),
]


class ClientFrame(BaseModel):
    """A frame from a client."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True, hide_input_in_errors=True)


class Auth(ClientFrame):
    """First frame of a client that cannot set headers; due within 5 s."""

    op: Literal["auth"]
    token: Annotated[str, Field(max_length=8192)]
    device_id: Annotated[str, Field(min_length=1, max_length=200)] | None = None


class Subscribe(ClientFrame):
    """Open a subscription: backlog after `after`, then live, without a hole or a double.

    With `replay`, the name of a channel of the system's own, it gets that channel's replays and nothing live; `after`
    is where an interrupted one goes on, and `replay_id` says which one that is.
    """

    op: Literal["subscribe"]
    id: Ref
    patterns: Annotated[list[Pattern], Field(min_length=1, max_length=64)]
    tenants: Annotated[list[TenantId], Field(min_length=1, max_length=1000)] | None = None
    entities: Annotated[list[Entity], Field(min_length=1, max_length=1000)] | None = None
    after: After | None = None
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,99}$")] | None = None
    snapshot: bool = False
    batch_ms: Annotated[int, Field(ge=0, le=1000)] = 0
    changes_only: bool = False
    replay: Annotated[str, Field(pattern=CHANNEL_FORM)] | None = None
    replay_id: Annotated[str, Field(max_length=36)] | None = None


class Unsubscribe(ClientFrame):
    """Close a subscription."""

    op: Literal["unsubscribe"]
    id: Ref


class Publish(ClientFrame):
    """Publish one event; answered by `published` or `error` with the same `ref`."""

    op: Literal["publish"]
    ref: Ref | None = None
    event: Any = None


class Ack(ClientFrame):
    """Everything up to these cursors is handled; moves the durable subscriptions of this connection."""

    op: Literal["ack"]
    cursors: Annotated[dict[str, CursorText], Field(min_length=1, max_length=1000)]


class Refresh(ClientFrame):
    """A new token for the same system and tenants, before the old one expires."""

    op: Literal["refresh"]
    token: Annotated[str, Field(max_length=8192)]


class Ping(ClientFrame):
    """Answered by `pong`; for clients that cannot send protocol pings."""

    op: Literal["ping"]


CLIENT_FRAMES: Final[Mapping[str, type[ClientFrame]]] = MappingProxyType(
    {
        "auth": Auth,
        "subscribe": Subscribe,
        "unsubscribe": Unsubscribe,
        "publish": Publish,
        "ack": Ack,
        "refresh": Refresh,
        "ping": Ping,
    }
)


class Limits(BaseModel):
    """What the hub allows one connection."""

    window: int
    message_bytes: int
    subscriptions: int
    publish_per_s: int


class Welcome(BaseModel):
    """The token is accepted. `tenants` is `["*"]` for a token of all tenants."""

    op: Literal["welcome"]
    session: str
    system: str
    tenants: list[str]
    server_time: str
    heartbeat_s: int
    limits: Limits


class Subscribed(BaseModel):
    """The subscription stands; `position` is where each tenant's events will follow."""

    op: Literal["subscribed"]
    id: Ref
    patterns: list[str]
    tenants: list[str]
    recovered: bool
    position: dict[str, CursorText]
    changes_only: bool = False


class SnapshotEntity(BaseModel):
    """The state of an entity by the events of one type, as of its `revision`."""

    type: str
    entity: str
    revision: int
    sequence: int
    data: dict[str, Any]


class Snapshot(BaseModel):
    """A page of a tenant's state, before `subscribed`. The last page has the cursor it is true at: events follow it."""

    op: Literal["snapshot"]
    id: Ref
    tenant_id: str
    entities: list[SnapshotEntity]
    more: bool
    cursor: CursorText | None = None


class EventFrame(BaseModel):
    """One event. `replay` stands on replayed ones."""

    op: Literal["event"]
    cursor: CursorText
    sequence: int
    base_revision: Annotated[
        int | None,
        Field(description="`event.data` is a merge patch (RFC 7396) on the entity's state after this revision"),
    ] = None
    event: dict[str, Any]
    replay: bool = False
    replay_id: str | None = None
    sub: Ref | None = None


class Receipt(BaseModel):
    """A durable append. A duplicate gets the first append's receipt and `duplicate: true`."""

    event_id: str
    cursor: CursorText
    sequence: int
    revision: int
    duplicate: bool


class Published(Receipt):
    """The answer to `publish`."""

    op: Literal["published"]
    ref: Ref | None


class Gap(BaseModel):
    """Some events of a tenant cannot be delivered. Events follow from `resume_from` on."""

    op: Literal["gap"]
    id: Ref
    tenant_id: str
    reason: Literal["expired", "epoch", "future"]
    resume_from: CursorText


class Error(BaseModel):
    """A frame was not carried out; the connection goes on. `code`: the table in `schemas/errors.py`."""

    op: Literal["error"]
    ref: Ref | None = None
    id: Ref | None = None
    code: str
    message: str
    retryable: bool
    errors: list[dict[str, str]] | None = None
    latest: dict[str, Any] | None = None


class Notice(BaseModel):
    """Something the client should act on. `draining` carries `reconnect_after_ms`; the detail of `replay_done` has the
    subscription (`sub`), `channel`, `replay_id`, the number of `events` sent, and `state`: done, cancelled, failed."""

    op: Literal["notice"]
    code: Literal["token_expiring", "lagging", "draining", "sync_requested", "replay_done"]
    detail: dict[str, Any]
    reconnect_after_ms: int | None = None


class Pong(BaseModel):
    """The answer to `ping`."""

    op: Literal["pong"]


SERVER_FRAMES: Final = (Welcome, Snapshot, Subscribed, EventFrame, Published, Gap, Error, Notice, Pong)
