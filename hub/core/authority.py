"""Who may publish what: the source of authority of each type, and what it leaves to others (R29)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from schemas.envelope import EventType
from schemas.errors import FieldError
from schemas.types import HUB, TRACKING


def refusal(kind: EventType, action: str, system: str, data: Mapping[str, Any]) -> FieldError | None:
    """Why `system` may not publish this, naming the field; None when it may."""
    if system in (kind.authority, HUB):
        return None
    others = kind.others.get(action)
    if others is None:
        return FieldError("action", f"only {kind.authority} publishes {kind.name}.{action}")
    if others.fields is not None:
        for name, value in data.items():
            if value is not None and name not in others.fields and name not in TRACKING:
                return FieldError(f"data.{name}", f"belongs to {kind.authority}; leave it out")
        updated = data.get("updated_fields")
        for index, name in enumerate(updated if isinstance(updated, list) else ()):
            if name not in others.fields:
                return FieldError(f"data.updated_fields.{index}", f"{name!r} belongs to {kind.authority}")
    if others.permission is not None and data.get(others.permission) is not True:
        return FieldError(f"data.{others.permission}", f"must be true for {system} to publish {kind.name}.{action}")
    return None
