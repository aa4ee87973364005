"""One example of every WebSocket frame, for the published documents."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from schemas.cursor import Cursor, StreamId
from schemas.frames import HEARTBEAT_S, MAX_MESSAGE_BYTES, WINDOW

_TENANT: Final = "default"
_CURSOR: Final = Cursor.of(7, _TENANT, 42, StreamId(1784077440123, 0)).encode()
_EARLIER: Final = Cursor.of(7, _TENANT, 41, StreamId(1784077439011, 0)).encode()
_EVENT_ID: Final = "019f6c1e-5c3b-7a40-9d2e-3f8b6c5a7e10"
_DRAFT: Final[Mapping[str, Any]] = MappingProxyType(
    {
        "type": "room",
        "action": "status_changed",
        "data": {
            "room_id": "301",
            "room_number": "301",
            "room_type": "twin",
            "status": "vacant_clean",
            "availability_date": "2026-07-15",
        },
    }
)
_EVENT: Final[Mapping[str, Any]] = MappingProxyType(
    {
        "event_id": _EVENT_ID,
        "schema_version": 1,
        "tenant_id": _TENANT,
        "type": "room",
        "action": "status_changed",
        "priority": "HIGH",
        "sync_mode": "realtime",
        "targets": ["hotel-member", "hotel-pms"],
        "delivery_guarantee": "at_least_once",
        "occurred_at": "2026-07-15T10:04:00+09:00",
        "recorded_at": "2026-07-15T01:04:00.123Z",
        "entity": "room:301",
        "data": {
            **_DRAFT["data"],
            "origin_system": "hotel-pms",
            "updated_by_system": "hotel-pms",
            "synced_at": "2026-07-15T01:04:00.123Z",
        },
        "revision": 5,
    }
)

EXAMPLES: Final[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
    {
        "auth": {"op": "auth", "token": "eyJhbGciOi…", "device_id": "front-desk-1"},
        "subscribe": {
            "op": "subscribe",
            "id": 1,
            "patterns": ["room.*", "reservation.created"],
            "after": {_TENANT: _EARLIER},
            "name": "housekeeping",
        },
        "unsubscribe": {"op": "unsubscribe", "id": 1},
        "publish": {"op": "publish", "ref": "a1", "event": dict(_DRAFT)},
        "ack": {"op": "ack", "cursors": {_TENANT: _CURSOR}},
        "refresh": {"op": "refresh", "token": "eyJhbGciOi…"},
        "ping": {"op": "ping"},
        "welcome": {
            "op": "welcome",
            "session": "b7c1f0aa",
            "system": "hotel-pms",
            "tenants": [_TENANT],
            "server_time": "2026-07-15T01:04:00Z",
            "heartbeat_s": HEARTBEAT_S,
            "limits": {
                "window": WINDOW,
                "message_bytes": MAX_MESSAGE_BYTES,
                "subscriptions": 64,
                "publish_per_s": 100,
            },
        },
        "snapshot": {
            "op": "snapshot",
            "id": 1,
            "tenant_id": _TENANT,
            "entities": [
                {"type": "room", "entity": "room:301", "revision": 4, "sequence": 40, "data": dict(_DRAFT["data"])}
            ],
            "more": False,
            "cursor": _EARLIER,
        },
        "subscribed": {
            "op": "subscribed",
            "id": 1,
            "patterns": ["room.*", "reservation.created"],
            "tenants": [_TENANT],
            "recovered": True,
            "position": {_TENANT: _EARLIER},
            "changes_only": False,
        },
        "event": {"op": "event", "cursor": _CURSOR, "sequence": 42, "event": dict(_EVENT)},
        "published": {
            "op": "published",
            "ref": "a1",
            "event_id": _EVENT_ID,
            "cursor": _CURSOR,
            "sequence": 42,
            "revision": 5,
            "duplicate": False,
        },
        "gap": {"op": "gap", "id": 1, "tenant_id": _TENANT, "reason": "expired", "resume_from": _EARLIER},
        "error": {
            "op": "error",
            "ref": "a1",
            "code": "invalid_event",
            "message": "data.status: Input should be 'vacant_clean', …",
            "retryable": False,
            "errors": [{"path": "data.status", "message": "Input should be 'vacant_clean', …"}],
        },
        "notice": {"op": "notice", "code": "draining", "detail": {}, "reconnect_after_ms": 1200},
        "pong": {"op": "pong"},
    }
)

CHANGE: Final[Mapping[str, Any]] = MappingProxyType(
    {
        "op": "event",
        "cursor": _CURSOR,
        "sequence": 42,
        "base_revision": 4,
        "event": {
            **_EVENT,
            "data": {"room_id": "301", "status": "vacant_clean", "synced_at": _EVENT["data"]["synced_at"]},
        },
    }
)
"""An `event` frame of a subscription with `changes_only`."""
