"""`hub tenants`: the properties."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import typer

from hub.cli.access import Access, DataDir, Json, Token, Url, access
from hub.cli.failure import UsageError
from hub.cli.output import json_document, table
from hub.cli.remote import Remote

COLUMNS = ("tenant", "name", "currency", "timezone", "rollover hour", "rooms", "last sequence")

app = typer.Typer()
group = typer.Typer(no_args_is_help=True, help="The properties, their currency, time zone and business day.")
app.add_typer(group, name="tenants")


@group.command("list")
def list_(json: Json = False, url: Url = None, token: Token = None, data_dir: DataDir = None) -> None:
    """List every property that was described or has events."""

    async def ask(reached: Access) -> Any:
        async with Remote(reached) as remote:
            return await remote.get("tenants")

    found = asyncio.run(ask(access(url, token, data_dir)))
    if json:
        json_document(found)
    else:
        table(COLUMNS, [_row(one) for one in found["tenants"]], right=COLUMNS[4:])


@group.command("set")
def set_(
    id: Annotated[str, typer.Argument(help="The tenant's id")],
    name: Annotated[str | None, typer.Option(help="What people call it")] = None,
    currency: Annotated[str | None, typer.Option(help="ISO 4217, like JPY")] = None,
    timezone: Annotated[str | None, typer.Option(help="IANA, like Asia/Tokyo")] = None,
    rollover_hour: Annotated[
        int | None, typer.Option(min=0, max=23, help="The hour at which its business day turns")
    ] = None,
    rooms: Annotated[
        int | None, typer.Option(min=1, max=100_000, help="How many rooms there are to sell, for its reports")
    ] = None,
    json: Json = False,
    url: Url = None,
    token: Token = None,
    data_dir: DataDir = None,
) -> None:
    """Describe a property; what is not named stays as it is."""
    values = {
        "name": name,
        "currency": currency,
        "timezone": timezone,
        "rollover_hour": rollover_hour,
        "rooms": rooms,
    }
    given = {key: value for key, value in values.items() if value is not None}
    if not given:
        raise UsageError("nothing to set", "Give --name, --currency, --timezone, --rollover-hour or --rooms")

    async def ask(reached: Access) -> Any:
        async with Remote(reached) as remote:
            return await remote.post("tenants", {"tenant_id": id} | given)

    found = asyncio.run(ask(access(url, token, data_dir)))
    if json:
        json_document(found)
    else:
        table(COLUMNS[:6], [_row(found)[:6]], right=COLUMNS[4:6])


def _row(tenant: dict[str, Any]) -> tuple[Any, ...]:
    names = ("tenant_id", "name", "currency", "timezone", "rollover_hour", "rooms", "sequence")
    return tuple(tenant.get(name) for name in names)
