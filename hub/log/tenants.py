"""What the hub knows of each property: name, currency, zone, when its business day turns."""

from __future__ import annotations

from functools import cache
from typing import Annotated, Final
from zoneinfo import ZoneInfo, available_timezones

import orjson
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from hub.log.stream_log import Head, StreamLog
from schemas import registry
from schemas.types import Currency, TenantId

REFRESH_S: Final = 30.0


@cache
def _zones() -> frozenset[str]:
    # It looks through a directory tree each time: milliseconds in which nothing else would happen.
    return frozenset(available_timezones())


def _zone(value: str) -> str:
    if value not in _zones():
        raise ValueError("is not an IANA time zone, like Asia/Tokyo")
    return value


class Tenant(BaseModel):
    """One property. Defaults: requirements of a hotel in Japan."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tenant_id: TenantId
    name: Annotated[str, Field(max_length=200)] = ""
    currency: Currency = "JPY"
    timezone: Annotated[str, AfterValidator(_zone)] = "Asia/Tokyo"
    rollover_hour: Annotated[int, Field(ge=0, le=23)] = 5
    rooms: Annotated[int | None, Field(ge=1, le=100_000)] = None
    """How many there are to sell; None: those that events spoke of."""

    @property
    def zone(self) -> ZoneInfo:
        """The property's time zone."""
        return ZoneInfo(self.timezone)


class Tenants:
    """The properties, remembered and read again every 30 seconds."""

    def __init__(self, log: StreamLog) -> None:
        self._log = log
        self._known: dict[str, Tenant] = {}

    def get(self, tenant_id: str) -> Tenant:
        """A property; one that was never described has the defaults."""
        return self._known.get(tenant_id) or Tenant(tenant_id=tenant_id)

    def currency(self, tenant_id: str) -> str:
        """The currency of amounts that name none."""
        known = self._known.get(tenant_id)
        return "JPY" if known is None else known.currency

    async def load(self) -> None:
        """Read all of them."""
        found: dict[str, Tenant] = {}
        for partition in range(self._log.partitions):
            for raw in (await self._log.source.client.hgetall(self._log.keys.tenants(partition))).values():
                tenant = Tenant.model_validate_json(raw)
                found[tenant.tenant_id] = tenant
        self._known = found

    async def put(self, values: dict[str, object]) -> Tenant:
        """Describe a property; what is not named keeps its value.

        Raises:
            Problem: a value is wrong, naming the field.
        """
        await self.load()
        tenant_id = str(values.get("tenant_id", ""))
        try:
            held = self.get(tenant_id).model_dump()
            tenant = Tenant.model_validate(held | {key: value for key, value in values.items() if value is not None})
        except ValidationError as error:
            raise registry.refused(error) from None
        partition = self._log.partition(tenant_id)
        await self._log.source.client.hset(
            self._log.keys.tenants(partition), tenant_id, orjson.dumps(tenant.model_dump())
        )
        self._known[tenant_id] = tenant
        return tenant

    def described(self) -> dict[str, str]:
        """Every property that was described, as JSON."""
        return {name: tenant.model_dump_json() for name, tenant in self._known.items()}

    async def listed(self) -> list[tuple[Tenant, Head | None]]:
        """Every property that was described or has events, and its last event."""
        await self.load()
        heads = await self._log.tenants()
        names = sorted({*self._known, *heads})
        return [(self.get(name), heads.get(name)) for name in names]
