"""Who gets an event: tenants, patterns, entities and targets."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from schemas.types import HUB

View = Literal["full", "masked"]
Codec = Literal["plain", "deflate"]


@dataclass(frozen=True, slots=True)
class Interest:
    """What one subscription asks for; None is everything."""

    tenants: frozenset[str] | None
    patterns: frozenset[str]
    entities: frozenset[str] | None = None

    def wants_kind(self, tenant_id: str, type: str, action: str) -> bool:
        """Whether it asks for events of this tenant, type and action, for some entity."""
        if self.tenants is not None and tenant_id not in self.tenants:
            return False
        wanted = self.patterns
        return "*" in wanted or f"{type}.*" in wanted or f"{type}.{action}" in wanted

    def wants(self, tenant_id: str, type: str, action: str, entity: str) -> bool:
        """Whether it asks for this event."""
        return (self.entities is None or entity in self.entities) and self.wants_kind(tenant_id, type, action)


@dataclass(frozen=True, slots=True)
class Audience:
    """Connections with equal audiences get equal bytes at equal times."""

    interests: frozenset[Interest]
    system: str
    view: View = "full"
    codec: Codec = "plain"
    batch_ms: int = 0
    changes_only: bool = False


def may_see(system: str, targets: Iterable[str]) -> bool:
    """Whether an event with these targets may reach a system (R14–R23); the hub's own tools see everything."""
    return system == HUB or system in targets
