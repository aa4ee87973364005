"""`hub webhooks`: the endpoints that events are sent to."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal

import typer

from hub.cli.access import Access, DataDir, Json, Token, Url, access
from hub.cli.ago import instant_of
from hub.cli.failure import CommandError, UsageError
from hub.cli.output import json_document, note, table
from hub.cli.remote import Remote, segment
from schemas.webhooks import MAX_RATE

COLUMNS: Final = ("id", "tenant", "system", "state", "waiting", "patterns", "payload", "last success", "url", "problem")

app = typer.Typer()
group = typer.Typer(no_args_is_help=True, help="Webhook endpoints: where events are sent to, signed.")
app.add_typer(group, name="webhooks")

Id = Annotated[str, typer.Argument(metavar="ID", help="As `hub webhooks list` shows it")]
Target = Annotated[str, typer.Argument(metavar="URL", help="Where the events go, like https://pms.example/hook")]
Patterns = Annotated[list[str] | None, typer.Option("--pattern", help="Only type.action, type.* or *; may be repeated")]
Payload = Annotated[
    Literal["full", "thin"] | None, typer.Option(help="The whole event, or its ids alone", show_default=False)
]
Rate = Annotated[int | None, typer.Option(min=1, max=MAX_RATE, help="Attempts a second at most")]
Description = Annotated[str | None, typer.Option(help="What it is, for people")]
Secret = Annotated[
    str | None,
    typer.Option(help="Your own: whsec_ and base64 of 24 to 64 bytes; - reads it from stdin. By default the hub's"),
]


@group.command("list")
def list_(
    tenant: Annotated[list[str] | None, typer.Option(help="Only this tenant; may be repeated")] = None,
    json: Json = False,
    url: Url = None,
    token: Token = None,
    data_dir: DataDir = None,
) -> None:
    """List the endpoints, oldest first; times are local."""

    async def ask(reached: Access) -> Any:
        async with Remote(reached) as remote:
            return await remote.get("webhooks", tenant=tenant)

    found = asyncio.run(ask(access(url, token, data_dir)))
    if json:
        json_document(found)
    else:
        table(COLUMNS, [_row(one) for one in found["webhooks"]], right=("waiting",))


@group.command("create")
def create(
    target: Target,
    system: Annotated[str | None, typer.Option(help="Whose endpoint it is, like hotel-pms")] = None,
    tenant: Annotated[str | None, typer.Option(help="Of which tenant")] = None,
    pattern: Patterns = None,
    payload: Payload = None,
    rate_limit: Rate = None,
    description: Description = None,
    secret: Secret = None,
    json: Json = False,
    url: Url = None,
    token: Token = None,
    data_dir: DataDir = None,
) -> None:
    """Make an endpoint. Without --pattern it gets the events of priority CRITICAL. Prints its secret, once."""
    asked = {
        "url": target,
        "system": system,
        "tenant_id": tenant,
        "patterns": _parts(pattern),
        "payload": payload,
        "rate_limit": rate_limit,
        "description": description,
        "secret": _secret(secret),
    }
    given = {name: value for name, value in asked.items() if value is not None}
    _show_secret(_asked(access(url, token, data_dir), "POST", "webhooks", given), json)


@group.command("show")
def show(id: Id, json: Json = False, url: Url = None, token: Token = None, data_dir: DataDir = None) -> None:
    """Show one endpoint."""
    _show(_asked(access(url, token, data_dir), "GET", _path(id)), json)


@group.command("set")
def set_(
    id: Id,
    to: Annotated[str | None, typer.Option(metavar="URL", help="Send there from now on")] = None,
    pattern: Patterns = None,
    critical: Annotated[
        bool, typer.Option("--critical", help="No patterns: the events of priority CRITICAL alone")
    ] = False,
    payload: Payload = None,
    rate_limit: Rate = None,
    no_rate_limit: Annotated[bool, typer.Option("--no-rate-limit", help="As many attempts as come up")] = False,
    description: Description = None,
    json: Json = False,
    url: Url = None,
    token: Token = None,
    data_dir: DataDir = None,
) -> None:
    """Change an endpoint; what is not named stays as it is."""
    if critical and pattern:
        raise UsageError("--critical and --pattern exclude each other", "Give one of them")
    if no_rate_limit and rate_limit is not None:
        raise UsageError("--no-rate-limit and --rate-limit exclude each other", "Give one of them")
    values = {
        "url": to,
        "patterns": _parts(pattern),
        "payload": payload,
        "rate_limit": rate_limit,
        "description": description,
    }
    given: dict[str, Any] = {name: value for name, value in values.items() if value is not None}
    given |= ({"patterns": None} if critical else {}) | ({"rate_limit": None} if no_rate_limit else {})
    if not given:
        options = "--to, --pattern, --critical, --payload, --rate-limit, --no-rate-limit or --description"
        raise UsageError("nothing to set", f"Give {options}")
    _show(_asked(access(url, token, data_dir), "PATCH", _path(id), given), json)


@group.command("enable")
def enable(id: Id, json: Json = False, url: Url = None, token: Token = None, data_dir: DataDir = None) -> None:
    """Send to an endpoint again, from now on; `recover` sends what it missed."""
    _show(_asked(access(url, token, data_dir), "PATCH", _path(id), {"state": "enabled"}), json)


@group.command("disable")
def disable(id: Id, json: Json = False, url: Url = None, token: Token = None, data_dir: DataDir = None) -> None:
    """Send an endpoint nothing until it is enabled again."""
    _show(_asked(access(url, token, data_dir), "PATCH", _path(id), {"state": "disabled"}), json)


@group.command("delete")
def delete(id: Id, json: Json = False, url: Url = None, token: Token = None, data_dir: DataDir = None) -> None:
    """Remove an endpoint with everything it is still owed."""
    _asked(access(url, token, data_dir), "DELETE", _path(id))
    if json:
        json_document({"id": id, "deleted": True})
    else:
        note(f"{id} is deleted")


@group.command("test")
def sample(id: Id, json: Json = False, url: Url = None, token: Token = None, data_dir: DataDir = None) -> None:
    """Send an endpoint a signed sample, and show what it answers; exit code 1 unless it takes it."""
    found = _asked(access(url, token, data_dir), "POST", f"{_path(id)}/test")
    if json:
        json_document(found)
    else:
        _fields(found)
    if not found["delivered"]:
        raise CommandError(f"the endpoint did not take the sample: {found['error']}")


@group.command("rotate")
def rotate(
    id: Id,
    secret: Secret = None,
    json: Json = False,
    url: Url = None,
    token: Token = None,
    data_dir: DataDir = None,
) -> None:
    """Give an endpoint another secret, which is printed once; for a day messages are signed with both."""
    given = {} if secret is None else {"secret": _secret(secret)}
    _show_secret(_asked(access(url, token, data_dir), "POST", f"{_path(id)}/rotate", given), json)


@group.command("recover")
def recover(
    id: Id,
    after: Annotated[str | None, typer.Option(metavar="CURSOR", help="What follows this cursor")] = None,
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="What was recorded since an instant, or since as long ago as 2h")
    ] = None,
    json: Json = False,
    url: Url = None,
    token: Token = None,
    data_dir: DataDir = None,
) -> None:
    """Send an endpoint again what it missed, up to now."""
    if (after is None) == (since is None):
        raise UsageError("from where on?", "Give either --after or --since")
    given = {"after": after} if since is None else {"since": instant_of("--since", since, datetime.now(UTC))}
    found = _asked(access(url, token, data_dir), "POST", f"{_path(id)}/recover", given)
    _show(found, json)
    if (gap := found.get("gap")) is not None:
        note(f"the history no longer has everything since then: {gap}")


def _path(id: str) -> str:
    if not id.strip():
        raise UsageError("the endpoint's id is empty", "`hub webhooks list` shows them")
    return f"webhooks/{segment(id)}"


def _asked(reached: Access, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
    async def ask() -> Any:
        async with Remote(reached) as remote:
            match method:
                case "GET":
                    return await remote.get(path)
                case "DELETE":
                    return await remote.delete(path)
                case "PATCH":
                    return await remote.patch(path, body)
                case _:
                    return await remote.post(path, body or {})

    return asyncio.run(ask())


def _parts(patterns: list[str] | None) -> list[str] | None:
    if patterns is None:
        return None
    return [part.strip() for pattern in patterns for part in pattern.split(",") if part.strip()]


def _secret(given: str | None) -> str | None:
    """A secret as it was given; a command line can be read by others on the machine, stdin cannot."""
    return sys.stdin.readline().strip() if given == "-" else given


def _show_secret(found: Mapping[str, Any], json: bool) -> None:
    _show(found, json)
    note("keep the secret now: it is not shown again")


def _show(found: Mapping[str, Any], json: bool) -> None:
    if json:
        json_document(found)
    else:
        _fields(found)


def _fields(found: Mapping[str, Any]) -> None:
    table(("field", "value"), [(name, _cell(value)) for name, value in found.items()])


def _cell(value: Any) -> Any:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, list) else value


def _row(one: Mapping[str, Any]) -> tuple[Any, ...]:
    last = one["last_success_at"]
    return (
        one["id"],
        one["tenant_id"],
        one["system"],
        one["state"],
        one["waiting"],
        ", ".join(one["patterns"]) + (" (critical)" if one["critical_only"] else ""),
        one["payload"],
        None if last is None else datetime.fromisoformat(last).astimezone().strftime("%Y-%m-%d %H:%M:%S"),
        one["url"],
        one["reason"] or one["last_error"],
    )
