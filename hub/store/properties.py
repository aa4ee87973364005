"""A copy of the properties' settings: the log holds the ones that count."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import select
from sqlalchemy.dialects import postgresql, sqlite

from hub.store.database import Database
from hub.store.tables import properties


class Properties:
    """Settings as JSON, by tenant. Every method raises `StoreUnavailable` when the database does not answer."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: dict[str, str] = {}
        put = (sqlite if database.sqlite else postgresql).insert(properties)
        self._put = put.on_conflict_do_update(index_elements=["tenant_id"], set_={"settings": put.excluded.settings})

    async def put(self, settings: Mapping[str, str]) -> None:
        """Keep these; what this process has put as it is costs nothing."""
        new = {tenant: text for tenant, text in settings.items() if self._known.get(tenant) != text}
        if not new:
            return
        async with self._database.writing() as connection:
            await connection.execute(self._put, [{"tenant_id": name, "settings": text} for name, text in new.items()])
        self._known |= new

    async def all(self) -> dict[str, str]:
        """Every property's."""
        async with self._database.reading() as connection:
            return {row.tenant_id: row.settings for row in await connection.execute(select(properties))}
