"""A copy of the properties' settings, for a log that was emptied."""

from __future__ import annotations

from alembic import op
from sqlalchemy import Column, String, Text

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """From the version before."""
    op.create_table(
        "properties",
        Column("tenant_id", String(100), primary_key=True),
        Column("settings", Text, nullable=False),
    )
