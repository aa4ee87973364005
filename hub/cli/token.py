"""`hub token`: a token signed with the hub's own key."""

from __future__ import annotations

import re
from typing import Annotated, Final

import typer

from hub.cli.access import DataDir, Json, key_file, load_settings
from hub.cli.failure import CommandError, UsageError
from hub.cli.output import compact, line, note
from hub.security.tokens import Tokens, own_key
from schemas.errors import Problem
from schemas.frames import PATTERN_FORM
from schemas.registry import EVENT_TYPES

DEFAULT_SCOPES: Final = ("publish:*", "subscribe:*")
PLAIN_SCOPES: Final = ("sync", "ops", "admin")
_LIFETIME: Final = re.compile(r"(\d+(?:\.\d+)?)([smhd])")
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
LONGEST_S: Final = 366 * 86_400

app = typer.Typer()


@app.command("token")
def token(
    system: Annotated[str, typer.Option(help="The system it is for, like hotel-pms")],
    tenant: Annotated[list[str], typer.Option(help="A tenant it holds, or * for all; may be repeated")],
    scope: Annotated[
        list[str] | None,
        typer.Option(
            help="publish:PATTERN, subscribe:PATTERN, sync, ops or admin; may be repeated. "
            "Without any: publish:* and subscribe:*"
        ),
    ] = None,
    view: Annotated[str, typer.Option(help="full, or masked: without what identifies guests")] = "full",
    expires: Annotated[str, typer.Option(help="How long it lasts, like 30m, 8h or 7d")] = "8h",
    device_id: Annotated[str | None, typer.Option("--device-id", help="The one device it is for")] = None,
    subject: Annotated[str | None, typer.Option(help="Whom the hub's log names; the system by default")] = None,
    json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """Print a token signed with the hub's own key. It is a credential: keep it out of logs and shell history."""
    scopes = scope or list(DEFAULT_SCOPES)
    for one in scopes:
        _check_scope(one)
    if view not in ("full", "masked"):
        raise UsageError(f"--view {view} is not a view", "Say full or masked")
    lifetime = _seconds(expires)
    try:
        signed = _signer(data_dir).issue(
            system,
            tenant,
            scopes,
            subject=subject or "",
            lifetime_s=lifetime,
            device_id=device_id,
            view="masked" if view == "masked" else "full",
        )
    except Problem as problem:
        raise UsageError(problem.detail, "`hub token --help` tells what each option takes") from None
    if json:
        line(compact({"token": signed, "system": system, "tenants": tenant, "scopes": scopes, "expires_in": lifetime}))
    else:
        line(signed)


def _signer(data_dir: DataDir) -> Tokens:
    directory = load_settings(data_dir).data_dir
    path = key_file(directory)
    try:
        if not path.exists():
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            key = own_key(directory)
            note(f"made the hub's key, {path}; a hub on another data directory will not accept this token")
        else:
            key = own_key(directory)
    except OSError as error:
        raise CommandError(
            f"the hub's key {path} cannot be used: {error.strerror}",
            "Run as the hub's user, or set HUB_DATA_DIR to the hub's data",
        ) from error
    return Tokens([key])


def _check_scope(scope: str) -> None:
    verb, colon, pattern = scope.partition(":")
    fix = f"A scope is publish:PATTERN, subscribe:PATTERN, {', '.join(PLAIN_SCOPES)}; a pattern like reservation.*"
    if not colon:
        if scope not in PLAIN_SCOPES:
            raise UsageError(f"--scope {scope} is not a scope", fix)
        return
    if verb not in ("publish", "subscribe") or not re.match(PATTERN_FORM, pattern):
        raise UsageError(f"--scope {scope} is not a scope", fix)
    type_, _, action = pattern.partition(".")
    if pattern == "*":
        return
    kind = EVENT_TYPES.get(type_)
    if kind is None or action not in ("*", *kind.actions):
        known = ", ".join(EVENT_TYPES) if kind is None else ", ".join(kind.actions)
        raise UsageError(f"--scope {scope} names an unknown {'type' if kind is None else 'action'}", f"Known: {known}")


def _seconds(text: str) -> float:
    found = _LIFETIME.fullmatch(text)
    seconds = float(found[1]) * _UNITS[found[2]] if found is not None else 0.0
    if not 0 < seconds <= LONGEST_S:
        raise UsageError(f"--expires {text} is not a lifetime", "Write it like 30m, 8h or 7d; at most 366d")
    return seconds
