"""`hub devices`: the devices that work offline, how they are, and asking them to sync."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Final

import typer

from hub.cli.access import Access, DataDir, Json, Token, Url, access
from hub.cli.failure import UsageError
from hub.cli.listing import show_listing
from hub.cli.output import json_document, line, note, table
from hub.cli.remote import Remote, segment

ALL: Final = "*"
COLUMNS: Final = (
    "device",
    "tenant",
    "system",
    "state",
    "warnings",
    "last seen",
    "backlog",
    "behind",
    "skew ms",
    "asked",
)
HISTORY: Final = ("at", "kind", "items", "outcomes", "ms", "backlog", "skew ms")
_RIGHT: Final = ("backlog", "behind", "skew ms", "items", "ms")

app = typer.Typer()
group = typer.Typer(no_args_is_help=True, help="Devices that work offline: how they are, and asking them to sync.")
app.add_typer(group, name="devices")

Device = Annotated[str, typer.Argument(metavar="DEVICE", help="As `hub devices list` shows it")]
Tenant = Annotated[str | None, typer.Option(help="Its tenant; needed where several have a device of this name")]


@group.command("list")
def list_(
    tenant: Annotated[list[str] | None, typer.Option(help="Only this tenant; may be repeated")] = None,
    system: Annotated[str | None, typer.Option(help="Only of this system, like hotel-pms")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many")] = 1000,
    json: Json = False,
    url: Url = None,
    token: Token = None,
    data_dir: DataDir = None,
) -> None:
    """Devices by tenant and name; times are local. `behind`: events it has not pulled; `skew`: how far its clock is
    ahead. With --json one JSON object a line."""
    query = {"tenant": tenant, "system": system}
    show_listing(access(url, token, data_dir), "devices", query, limit, COLUMNS, _row, json=json, right=_RIGHT)


@group.command("show")
def show(
    device: Device,
    tenant: Tenant = None,
    json: Json = False,
    url: Url = None,
    token: Token = None,
    data_dir: DataDir = None,
) -> None:
    """One device with its last syncs, newest first."""

    async def ask(reached: Access) -> Any:
        async with Remote(reached) as remote:
            return await remote.get(f"devices/{segment(device)}", tenant=tenant)

    found = asyncio.run(ask(access(url, token, data_dir)))
    if json:
        json_document(found)
        return
    table(COLUMNS, [_row(found)], right=_RIGHT)
    if found["compared_at"] is not None:
        said = "held the same as the hub" if found["compared_equal"] else "did not hold the same as the hub"
        line(f"compared {_local(found['compared_at'])}: it {said}")
    line("")
    table(HISTORY, [_sync_row(one) for one in found["history"]], right=_RIGHT)


@group.command("sync")
def sync(
    device: Annotated[str | None, typer.Argument(metavar="[DEVICE]", help="As `hub devices list` shows it")] = None,
    all_: Annotated[bool, typer.Option("--all", help="Every device of the tenant")] = False,
    tenant: Tenant = None,
    json: Json = False,
    url: Url = None,
    token: Token = None,
    data_dir: DataDir = None,
) -> None:
    """Ask a device, or all of a tenant, to sync now: at once where they are connected, else with their next push."""
    if (device is None) != all_:
        raise UsageError("which device?", "Name one, or say --all")

    async def ask(reached: Access) -> Any:
        async with Remote(reached) as remote:
            query = "" if tenant is None else f"?tenant={segment(tenant)}"
            return await remote.post(f"devices/{segment(device or ALL)}/sync{query}", {})

    asked = asyncio.run(ask(access(url, token, data_dir)))
    if json:
        json_document(asked)
        return
    line(f"{asked['devices']} devices of {asked['tenant_id']} are asked to sync")
    if not asked["notified"]:
        note("the log did not take the notice: they hear of it with their next push")


def _row(one: Mapping[str, Any]) -> tuple[Any, ...]:
    return (
        one["device_id"],
        one["tenant_id"],
        one["system"],
        one["state"],
        ", ".join(one["warnings"]),
        _local(one["last_seen_at"]),
        one["backlog"],
        one["behind"],
        one["clock_skew_ms"],
        _local(one["sync_requested_at"]),
    )


def _sync_row(one: Mapping[str, Any]) -> tuple[Any, ...]:
    outcomes = ", ".join(f"{count} {outcome}" for outcome, count in one["outcomes"].items())
    return (
        _local(one["at"]),
        one["kind"],
        one["items"],
        outcomes,
        one["duration_ms"],
        one["backlog"],
        one["clock_skew_ms"],
    )


def _local(text: str | None) -> str:
    return "" if text is None else datetime.fromisoformat(text).astimezone().strftime("%Y-%m-%d %H:%M:%S")
