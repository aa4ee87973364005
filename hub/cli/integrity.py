"""`hub integrity`: the daily comparisons and weekly statistics, and a comparison made now."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Final

import typer

from hub.cli.access import Access, DataDir, Json, Token, Url, access
from hub.cli.failure import UsageError
from hub.cli.output import clean, json_document, line, note, table
from hub.cli.remote import Remote

COLUMNS: Final = ("day", "tenant", "kind", "result", "made", "compared", "found")
DEVICE_COLUMNS: Final = ("device", "tenant", "state", "compared", "equal", "backlog", "warnings")
KINDS: Final = ("daily", "weekly")

app = typer.Typer()
group = typer.Typer(no_args_is_help=True, help="Whether data are whole: daily comparisons, weekly statistics.")
app.add_typer(group, name="integrity")


@group.command("show")
def show(
    tenant: Annotated[str | None, typer.Option(help="Only of this tenant")] = None,
    kind: Annotated[str | None, typer.Option(help="daily or weekly; both by default")] = None,
    limit: Annotated[int, typer.Option(min=1, max=400, help="At most so many of each")] = 14,
    json: Json = False,
    url: Url = None,
    token: Token = None,
    data_dir: DataDir = None,
) -> None:
    """The newest comparisons and statistics, and the devices that should be looked at."""
    if kind is not None and kind not in KINDS:
        raise UsageError(f"there is no kind {kind}", f"One of: {', '.join(KINDS)}")

    async def ask(reached: Access) -> Any:
        async with Remote(reached) as remote:
            return await remote.get("integrity", tenant=tenant, kind=kind, limit=limit)

    found = asyncio.run(ask(access(url, token, data_dir)))
    if json:
        json_document(found)
        return
    table(COLUMNS, [_row(one) for name in KINDS for one in found[name]], right=("compared",))
    wanted = [one for one in found["devices"] if one["warnings"] or one["compared_at"] is None]
    if wanted:
        line("")
        table(DEVICE_COLUMNS, [_device(one) for one in wanted], right=("backlog",))


@group.command("run")
def run(
    tenant: Annotated[str, typer.Option(help="Of this tenant")],
    json: Json = False,
    url: Url = None,
    token: Token = None,
    data_dir: DataDir = None,
) -> None:
    """Compare a property's states with its events now, and these with their chain. Exit code 1 where they differ."""

    async def ask(reached: Access) -> Any:
        async with Remote(reached) as remote:
            while True:
                answer = await remote.post("integrity/run", {"tenant": tenant})
                if not answer.get("running"):
                    return answer
                # The hub answers after some seconds, whether or not it is done.
                note(f"compared so far: {answer['chain_events']} events of the history, {answer['states']} states")

    made = asyncio.run(ask(access(url, token, data_dir)))
    if json:
        json_document(made)
    else:
        table(COLUMNS, [_row(made)], right=("compared",))
    if not made["ok"]:
        raise typer.Exit(1)


def _row(one: Mapping[str, Any]) -> tuple[Any, ...]:
    if one["kind"] == "daily":
        compared = one.get("states", {}).get("compared")
        found = [finding["words"] for finding in one.get("findings", [])]
        result = "equal" if one["ok"] else "unequal"
    else:
        compared = one.get("weeks")
        found = [anomaly["words"] for anomaly in one.get("anomalies", [])]
        found += [finding["words"] for finding in one.get("findings", [])]
        found += [one["note"]] if "note" in one else []
        result = "usual" if one["ok"] else "unusual"
    if any(finding["what"] == "failed" for finding in one.get("findings", [])):
        result = "failed"
    return one["day"], one["tenant_id"], one["kind"], result, _local(one["made_at"]), compared, clean("; ".join(found))


def _device(one: Mapping[str, Any]) -> tuple[Any, ...]:
    compared = "never" if one["compared_at"] is None else _local(one["compared_at"])
    equal = {True: "yes", False: "no", None: ""}[one["equal"]]
    warnings = ", ".join(one["warnings"])
    return one["device_id"], one["tenant_id"], one["state"], compared, equal, one["backlog"], warnings


def _local(text: str) -> str:
    return datetime.fromisoformat(text).astimezone().strftime("%Y-%m-%d %H:%M:%S")
