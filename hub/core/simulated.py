"""What the simulators make: a draft, who publishes it, and when."""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple


class SimulatedEvent(NamedTuple):
    """One event of a simulated hotel.

    `at` is the moment it is sent on the simulated clock, never before that of the event ahead of it. It is the draft's
    `occurred_at` but for events brought forward from earlier days, which are sent when the simulated day begins.
    """

    system: str
    tenant: str
    at: datetime
    draft: dict[str, Any]
    """As `schemas.envelope.Draft` reads it, with `event_id`, `tenant_id` and `occurred_at` set."""

    @property
    def name(self) -> str:
        """`type.action`."""
        return f"{self.draft['type']}.{self.draft['action']}"
