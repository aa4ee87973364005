"""The webhook endpoints. What they are owed is in `hub.store.webhook_queue`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any

import orjson
from sqlalchemy import Select, delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from hub.core.webhooks import Endpoint
from hub.store.database import Database
from hub.store.outward_tables import webhook_deliveries, webhook_endpoints
from schemas.cursor import StreamId

_columns = webhook_endpoints.c


class Webhooks:
    """Every method raises `StoreUnavailable` when the database does not answer."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, endpoint: Endpoint, *, most: int | None = None) -> bool:
        """Write a new one down; False where its tenant has `most` already."""
        mine = select(func.count()).select_from(webhook_endpoints).where(_columns.tenant_id == endpoint.tenant_id)
        async with self._database.writing() as connection:
            if most is not None and (await connection.scalar(mine) or 0) >= most:
                return False
            await connection.execute(insert(webhook_endpoints).values(**_row(endpoint)))
            return True

    async def get(self, endpoint_id: str) -> Endpoint | None:
        """One of them."""
        async with self._database.reading() as connection:
            return await _one(connection, select(webhook_endpoints).where(_columns.endpoint_id == endpoint_id))

    async def listed(self, tenants: Collection[str] | None = None) -> list[Endpoint]:
        """All of some tenants (None: of all), oldest first."""
        query = select(webhook_endpoints).order_by(_columns.created_ms, _columns.endpoint_id)
        if tenants is not None:
            query = query.where(_columns.tenant_id.in_(tenants))
        async with self._database.reading() as connection:
            return [_endpoint(row) for row in (await connection.execute(query)).mappings()]

    async def versions(self) -> dict[str, int]:
        """What those who remember them look at to see which have changed."""
        async with self._database.reading() as connection:
            rows = await connection.execute(select(_columns.endpoint_id, _columns.version))
            return {row[0]: row[1] for row in rows}

    async def some(self, endpoint_ids: Collection[str]) -> list[Endpoint]:
        """Those of these that there are."""
        query = select(webhook_endpoints).where(_columns.endpoint_id.in_(endpoint_ids))
        async with self._database.reading() as connection:
            return [_endpoint(row) for row in (await connection.execute(query)).mappings()]

    async def change(self, endpoint_id: str, change: Callable[[Endpoint], Endpoint]) -> Endpoint | None:
        """Change one; as it is then. None when it is not there. `change` runs in the transaction; what it raises undoes
        it."""
        async with self._database.writing() as connection:
            query = select(webhook_endpoints).where(_columns.endpoint_id == endpoint_id).with_for_update()
            held = await _one(connection, query)
            if held is None:
                return None
            now = change(held)
            if now == held:
                return held
            now = replace(now, version=held.version + 1)
            await connection.execute(
                update(webhook_endpoints).where(_columns.endpoint_id == endpoint_id).values(**_row(now))
            )
            return now

    async def delete(self, endpoint_id: str) -> bool:
        """Remove one with everything it is owed; whether it was there."""
        async with self._database.writing() as connection:
            # In the order in which others write to both.
            await connection.execute(delete(webhook_deliveries).where(webhook_deliveries.c.endpoint_id == endpoint_id))
            gone = await connection.execute(delete(webhook_endpoints).where(_columns.endpoint_id == endpoint_id))
            return gone.rowcount == 1

    async def waiting(self, endpoint_ids: Collection[str]) -> dict[str, int]:
        """How many events each of these is owed."""
        of = webhook_deliveries.c.endpoint_id
        query = select(of, func.count()).where(of.in_(endpoint_ids)).group_by(of)
        async with self._database.reading() as connection:
            return {row[0]: row[1] for row in await connection.execute(query)}


async def _one(connection: AsyncConnection, query: Select[Any]) -> Endpoint | None:
    row = (await connection.execute(query)).mappings().first()
    return None if row is None else _endpoint(row)


_PLACES = ("since", "recover", "until")


def _row(endpoint: Endpoint) -> dict[str, Any]:
    values: dict[str, Any] = {name: getattr(endpoint, name) for name in Endpoint.__dataclass_fields__}
    values["patterns"] = orjson.dumps(endpoint.patterns).decode()
    values["critical_only"] = int(endpoint.critical_only)
    for name in _PLACES:
        place: StreamId | None = values.pop(name)
        values[f"{name}_ms"], values[f"{name}_n"] = (None, None) if place is None else place
    return values


def _endpoint(row: Mapping[Any, Any]) -> Endpoint:
    values = dict(row)
    for name in _PLACES:
        ms, n = values.pop(f"{name}_ms"), values.pop(f"{name}_n")
        values[name] = None if ms is None else StreamId(ms, n)
    values["patterns"] = tuple(orjson.loads(values["patterns"]))
    values["critical_only"] = bool(values["critical_only"])
    return Endpoint(**values)
