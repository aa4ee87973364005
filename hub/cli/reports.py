"""`hub reports`: what report jobs did, the reports themselves, and a report made now."""

from __future__ import annotations

import asyncio
import shutil
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from hub.cli.access import Access, DataDir, Json, Token, Url, access
from hub.cli.ago import instant_of
from hub.cli.failure import CommandError, UsageError
from hub.cli.listing import show_listing
from hub.cli.output import clean, compact, json_document, note, on_terminal, table
from hub.cli.remote import Remote, segment
from hub.core.report_text import as_text

COLUMNS: Final = (
    "due",
    "tenant",
    "job",
    "report",
    "period",
    "stage",
    "state",
    "attempts",
    "targets",
    "run id",
    "error",
)
FORMATS: Final = ("text", "json", "csv", "html")

app = typer.Typer()
group = typer.Typer(no_args_is_help=True, help="Report jobs: their runs, the reports, and making one now.")
app.add_typer(group, name="reports")

Report = Annotated[str | None, typer.Option(help="daily_report, weekly_report or monthly_report")]
Date = Annotated[str | None, typer.Option(help="Any day of the period, like 2026-07-14")]


@group.command("list")
def list_(
    tenant: Annotated[list[str] | None, typer.Option(help="Only this tenant; may be repeated")] = None,
    job: Annotated[str | None, typer.Option(help="Only of this job, like daily-final or manual")] = None,
    report: Report = None,
    since: Annotated[str, typer.Option(help="Due how far back, like 12h or 7d, or an instant")] = "7d",
    failed: Annotated[bool, typer.Option("--failed", help="Only runs that were given up")] = False,
    limit: Annotated[int, typer.Option(min=1, help="At most so many")] = 100,
    json: Json = False,
    url: Url = None,
    token: Token = None,
    data_dir: DataDir = None,
) -> None:
    """Runs of report jobs, the one due last first; times are local. With --json one JSON object a line."""
    query = {"tenant": tenant, "job": job, "report": report, "from": instant_of("--since", since, datetime.now(UTC))}
    query["state"] = "failed" if failed else None
    show_listing(
        access(url, token, data_dir),
        "reports",
        query,
        limit,
        COLUMNS,
        _row,
        json=json,
        right=("attempts",),
        name="runs",
        noun="runs",
    )


@group.command("show")
def show(
    run_id: Annotated[str | None, typer.Argument(metavar="[RUN_ID]", help="As `hub reports list` shows it")] = None,
    tenant: Annotated[str | None, typer.Option(help="Without RUN_ID: the newest report of this tenant")] = None,
    report: Report = None,
    date: Date = None,
    format: Annotated[str | None, typer.Option(help="text (default), json, csv or html")] = None,
    output: Annotated[Path | None, typer.Option(help="Write it into this file")] = None,
    json: Json = False,
    url: Url = None,
    token: Token = None,
    data_dir: DataDir = None,
) -> None:
    """One report: of a run, or the newest one on a period. As JSON with its run and delivery log."""
    if (run_id is None) == (tenant is None):
        raise UsageError("which report?", "Give a RUN_ID, or --tenant with --report and --date")
    if run_id is None and (report is None or date is None):
        raise UsageError("which report of the tenant?", "Give --report and --date too")
    if json and format not in (None, "json"):
        raise UsageError(f"--json and --format {format} exclude each other", "Give one of them")
    wanted = "json" if json else format or "text"
    if wanted not in FORMATS:
        raise UsageError(f"there is no format {wanted}", f"One of: {', '.join(FORMATS)}")
    shown = asyncio.run(
        _read(access(url, token, data_dir), run_id, {"tenant": tenant, "report": report, "date": date}, wanted)
    )
    if output is not None:
        _write(output, shown if isinstance(shown, bytes) else compact(shown).encode() + b"\n")
    elif not isinstance(shown, bytes):
        _print(shown, wanted)
    else:
        sys.stdout.write(shown.decode())
        sys.stdout.flush()


async def _read(reached: Access, run_id: str | None, query: Mapping[str, Any], wanted: str) -> Any:
    """A run as JSON, or its report as bytes; text is made here where a terminal is, as wide as that."""
    async with Remote(reached) as remote:
        if run_id is None:
            page = await remote.get("reports", **query, state="done", limit=1)
            if not page["runs"]:
                what = f"{query['report']} of {query['tenant']} on {query['date']}"
                raise CommandError(f"there is no {what}", "`hub reports run` makes one")
            run_id = page["runs"][0]["run_id"]
        path = f"reports/{segment(str(run_id))}"
        if wanted == "json" or (wanted == "text" and on_terminal()):
            return await remote.get(path)
        return b"".join([chunk async for chunk in remote.stream(path, format=wanted)])


def _print(shown: Mapping[str, Any], wanted: str) -> None:
    if wanted == "json":
        json_document(shown)
    elif shown["data"] is None:
        raise CommandError(f"there is no report of the run {shown['run_id']}: it is {shown['state']}")
    else:
        sys.stdout.write(as_text(shown["data"], width=shutil.get_terminal_size().columns, colour=True))
        sys.stdout.flush()


def _write(file: Path, content: bytes) -> None:
    try:
        file.write_bytes(content)
    except OSError as error:
        raise CommandError(f"{file} cannot be written: {error.strerror}", "Give another --output") from error
    note(f"written to {file}")


@group.command("run")
def run(
    report: Annotated[str, typer.Option(help="daily_report, weekly_report or monthly_report")],
    tenant: Annotated[str, typer.Option(help="For this tenant")],
    date: Annotated[
        str | None, typer.Option(help="Any day of the period, like 2026-07-14; by default the last one that is over")
    ] = None,
    json: Json = False,
    url: Url = None,
    token: Token = None,
    data_dir: DataDir = None,
) -> None:
    """Make a report now, and emit it to its targets."""
    asked = {"tenant": tenant, "report": report} | ({} if date is None else {"date": date})

    async def ask() -> Any:
        async with Remote(access(url, token, data_dir)) as remote:
            return await remote.post("reports/run", asked)

    made = asyncio.run(ask())
    if json:
        json_document(made)
    else:
        table(COLUMNS, [_row(made)], right=("attempts",))


def _row(run: Mapping[str, Any]) -> tuple[Any, ...]:
    targets = ", ".join(f"{system} {one['status']}" for system, one in run["deliveries"].items())
    period = run["period_start"]
    if run["period_end"] != period:
        period += f" to {run['period_end']}"
    return (
        _local(run["due_at"]),
        run["tenant_id"],
        run["job"],
        run["report"],
        period,
        run["stage"],
        run["state"],
        run["attempts"],
        targets,
        run["run_id"],
        clean(run["error"]),
    )


def _local(text: str) -> str:
    return datetime.fromisoformat(text).astimezone().strftime("%Y-%m-%d %H:%M:%S")
