"""`hub conflicts`: what two changed at once, shown field by field, and resolved by a person."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Final, Literal

import orjson
import typer

from hub.cli.access import Access, DataDir, Json, Token, Url, access
from hub.cli.failure import CommandError, UsageError
from hub.cli.listing import show_listing
from hub.cli.output import compact, json_document, line, table
from hub.cli.remote import Refused, Remote, segment

COLUMNS: Final = (
    "opened",
    "tenant",
    "entity",
    "model",
    "device",
    "fields",
    "state",
    "policy",
    "decided",
    "conflict id",
)
FIELDS: Final = ("field", "contested", "before", "present", "current", "by", "at", "incoming", "device", "made at")

app = typer.Typer()
group = typer.Typer(no_args_is_help=True, help="Conflicts of devices that worked offline: list, show and resolve them.")
app.add_typer(group, name="conflicts")

ConflictId = Annotated[str, typer.Argument(metavar="CONFLICT_ID", help="As `hub conflicts list` shows it")]


@group.command("list")
def list_(
    tenant: Annotated[list[str] | None, typer.Option(help="Only this tenant; may be repeated")] = None,
    state: Annotated[Literal["open", "resolved", "all"], typer.Option(help="Which ones")] = "open",
    entity: Annotated[str | None, typer.Option(help="Only about this entity, like reservation:R1")] = None,
    device: Annotated[str | None, typer.Option(help="Only from this device")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many")] = 100,
    json: Json = False,
    url: Url = None,
    token: Token = None,
    data_dir: DataDir = None,
) -> None:
    """Conflicts, the oldest first: by default those that wait for a person. With --json one JSON object a line."""
    query = {"tenant": tenant, "state": state, "entity": entity, "device": device}
    show_listing(access(url, token, data_dir), "conflicts", query, limit, COLUMNS, _row, json=json)


@group.command("show")
def show(
    conflict_id: ConflictId, json: Json = False, url: Url = None, token: Token = None, data_dir: DataDir = None
) -> None:
    """One conflict, field by field: what the desk had seen, what is so now, what others said, what it says."""
    found = asyncio.run(_get(access(url, token, data_dir), conflict_id))
    if json:
        json_document(found)
        return
    table(COLUMNS, [_row(found)])
    if found["reason"] is not None:
        line(f"{found['operation']} {found['model']}: {found['reason']}")
    line("")
    table(FIELDS, [_field_row(one) for one in found["fields"]])


async def _get(reached: Access, conflict_id: str) -> Any:
    async with Remote(reached) as remote:
        return await remote.get(f"conflicts/{segment(conflict_id)}")


@group.command("resolve")
def resolve(
    conflict_id: ConflictId,
    take: Annotated[
        Literal["incoming", "current"] | None, typer.Option(help="What the device said, or what is so now")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="Set a field otherwise, null takes it out; may be repeated"),
    ] = None,
    reason: Annotated[str | None, typer.Option(help="Why, for those who look later")] = None,
    json: Json = False,
    url: Url = None,
    token: Token = None,
    data_dir: DataDir = None,
) -> None:
    """Decide a conflict. --set goes with what the device said, or, with --take current, lets the contested fields that
    it does not name stay as they are."""
    fields = dict(_field(text) for text in set_ or ())
    if take is None and not fields:
        raise UsageError("who is right?", "Say --take incoming or --take current, or --set fields")

    async def ask(reached: Access) -> Any:
        asked: dict[str, Any] = {"choice": take, "reason": reason}
        async with Remote(reached) as remote:
            path = f"conflicts/{segment(conflict_id)}"
            if fields:
                known = {one["field"]: one for one in (await remote.get(path))["fields"]}
                stay = {name: one["present"] for name, one in known.items() if one["contested"] and take == "current"}
                given = {name: _value_of(text, known.get(name, {})) for name, text in fields.items()}
                asked |= {"choice": "edited", "data": stay | given}
            try:
                return await remote.post(f"{path}/resolve", asked)
            except Refused as refused:
                if refused.code == "conflict":
                    raise CommandError(str(refused.problem["detail"])) from refused
                raise

    found = asyncio.run(ask(access(url, token, data_dir)))
    if json:
        json_document(found)
    else:
        table(COLUMNS, [_row(found)])


def _field(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (equals and name.strip()):
        raise UsageError(f"--set {text}", "Write it like --set room_number=302")
    return name.strip(), value


def _value_of(text: str, known: Mapping[str, Any]) -> Any:
    """What was typed, as the field has it: a room's number is a text."""
    is_text = any(isinstance(known.get(side), str) for side in ("incoming", "current", "present", "base"))
    if is_text and text != "null":
        return text
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text


def _row(one: Mapping[str, Any]) -> tuple[Any, ...]:
    resolved, resolving = one["resolved"], one["resolving"]
    decided = ""
    if resolved is not None:
        decided = " by ".join(part for part in (resolved["choice"] or resolved["winner"], resolved["by"]) if part)
    elif resolving is not None:
        decided = f"{resolving['by']} is at it"
    return (
        _local(one["opened_at"]),
        one["tenant_id"],
        one["entity"],
        one["model"],
        one["device_id"],
        # Two guests in one room contest no field.
        ", ".join(field["field"] for field in one["fields"] if field.get("contested", True)) or one["reason"] or "",
        one["state"],
        one["policy"],
        decided,
        one["conflict_id"],
    )


def _field_row(one: Mapping[str, Any]) -> tuple[Any, ...]:
    return (
        one["field"],
        "yes" if one["contested"] else "",
        _value(one["base"]),
        _value(one["present"]),
        _value(one["current"]),
        one["current_by"],
        _local(one["current_at"]),
        _value(one["incoming"]),
        one["incoming_by"],
        _local(one["incoming_at"]),
    )


def _value(value: Any) -> str:
    return "" if value is None else value if isinstance(value, str) else compact(value)


def _local(text: str | None) -> str:
    return "" if text is None else datetime.fromisoformat(text).astimezone().strftime("%Y-%m-%d %H:%M:%S")
