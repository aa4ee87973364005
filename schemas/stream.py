"""A stream entry's fields (R30), as the hub writes them and those beside Redis read them."""

from __future__ import annotations

from typing import Final

FIELDS: Final = (
    b"event_type",
    b"event_data",
    b"timestamp",
    b"event_id",
    b"tenant_id",
    b"action",
    b"entity",
    b"revision",
    b"sequence",
)
"""In this order; more may follow them."""
