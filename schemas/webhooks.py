"""Webhook endpoints as they are asked for and shown (`/webhooks`)."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import Field, field_validator

from schemas.envelope import InstantText
from schemas.frames import Pattern
from schemas.types import Model, SystemName, TenantId

MAX_RATE: Final = 1000

Url = Annotated[str, Field(min_length=1, max_length=2000)]
Patterns = Annotated[list[Pattern], Field(min_length=1, max_length=64)]
Rate = Annotated[int, Field(ge=1, le=MAX_RATE, description="Attempts a second at most")]
Description = Annotated[str, Field(max_length=500)]
Secret = Annotated[str, Field(description="`whsec_` and base64 of 24 to 64 bytes; the hub makes one by default")]


class WebhookRequest(Model):
    """`POST /webhooks`. Without `patterns`: every event of priority CRITICAL that the token may subscribe to."""

    url: Url
    system: Annotated[SystemName | None, Field(description="Whose endpoint it is; the token's by default")] = None
    tenant_id: Annotated[TenantId | None, Field(description="Needed where the token holds several")] = None
    patterns: Patterns | None = None
    payload: Annotated[Literal["full", "thin"], Field(description="The event, or its ids alone")] = "full"
    description: Description = ""
    rate_limit: Rate | None = None
    secret: Secret | None = None


class WebhookChange(Model):
    """`PATCH /webhooks/{id}`: what is named changes. `null` removes a rate limit, or patterns: then critical events."""

    url: Url | None = None
    patterns: Patterns | None = None
    payload: Literal["full", "thin"] | None = None
    description: Description | None = None
    rate_limit: Rate | None = None
    state: Literal["enabled", "disabled"] | None = None

    @field_validator("url", "payload", "description", "state", mode="before")
    @classmethod
    def _not_null(cls, value: Any) -> Any:
        if value is None:
            raise ValueError("cannot be removed; leave it out to keep it")
        return value


class RecoverRequest(Model):
    """`POST /webhooks/{id}/recover`: send again what lies after a cursor, or what was recorded since a time."""

    after: Annotated[str, Field(max_length=2000)] | None = None
    since: InstantText | None = None


class RotateRequest(Model):
    """`POST /webhooks/{id}/rotate`: another secret, the hub's or your own; the old one signs beside it for a day."""

    secret: Secret | None = None
