"""Alembic's environment: the connection is the one that `hub.store.migrate` opened and holds the lock on."""

from __future__ import annotations

from alembic import context

from hub.store.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
