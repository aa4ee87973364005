"""`hub simulate`: a hotel's day, made up or of real bookings, published to a hub."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from datetime import date, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from hub.cli.access import Access, DataDir, Json, Url, access
from hub.cli.failure import CommandError, UsageError
from hub.cli.output import Bar, json_document, line, note, waiting
from hub.cli.played import ZONE, Publications, a_day, bookings, first
from hub.cli.remote import Remote
from hub.core.bookings import Survey
from hub.core.simulated import SimulatedEvent
from hub.services.simulator import Report, run
from schemas.frames import MAX_BATCH_EVENTS

app = typer.Typer()

_DATES = ["%Y-%m-%d"]


@app.command("simulate")
def simulate(
    bookings_file: Annotated[
        Path | None,
        typer.Option("--bookings", help="Real bookings, hotel_bookings.csv or its zip, instead of a made-up day"),
    ] = None,
    from_: Annotated[datetime | None, typer.Option("--from", formats=_DATES, help="First day of --bookings")] = None,
    to: Annotated[datetime | None, typer.Option("--to", formats=_DATES, help="Last day of --bookings")] = None,
    seed: Annotated[
        int | None, typer.Option(help="Of the made-up day; the same gives the same events [default: 1]")
    ] = None,
    day: Annotated[
        datetime | None, typer.Option("--date", formats=_DATES, help="The made-up day; today by default")
    ] = None,
    tenant: Annotated[str | None, typer.Option(help="Of the made-up day [default: default]")] = None,
    speed: Annotated[
        float | None, typer.Option(min=0, help="1 is real time, 3600 an hour a second; as fast as it goes by default")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many events")] = None,
    json: Json = False,
    url: Url = None,
    data_dir: DataDir = None,
) -> None:
    """Publish a hotel's day, or real bookings, each event as the system it is of. Running it again adds nothing."""
    reached = access(url, None, data_dir)
    if bookings_file is None:
        if from_ is not None or to is not None:
            raise UsageError("--from and --to are days of --bookings", "Give --date, or --bookings FILE")
        chosen = day.date() if day is not None else datetime.now(ZONE).date()
        events = a_day(chosen, 1 if seed is None else seed, tenant or "default")
        report, survey = _play(reached, events, len(events), speed, limit), None
    else:
        if seed is not None or day is not None or tenant is not None:
            raise UsageError(
                "--seed, --date and --tenant are of the made-up day", "Leave them out, or leave out --bookings"
            )
        start, end = _day(from_), _day(to)
        if start is not None and end is not None and end < start:
            raise UsageError("--to is before --from", "Exchange them")
        with waiting(f"reading {bookings_file}"):
            plan = bookings(bookings_file)
        survey = plan.survey
        total = sum(plan.counts(start, end).values())
        report = _play(reached, plan.events(start, end), total, speed, limit)
    if json:
        told: dict[str, Any] = {"report": report.to_dict()}
        json_document(told if survey is None else told | {"bookings": survey.to_dict()})
    else:
        _print(report, survey)
    if report.refused:
        raise typer.Exit(1)


def _day(moment: datetime | None) -> date | None:
    return None if moment is None else moment.date()


def _play(
    reached: Access, events: Iterable[SimulatedEvent], total: int, speed: float | None, limit: int | None
) -> Report:
    async def play() -> Report:
        with Bar("events published", total if limit is None else min(total, limit)) as bar:
            async with Remote(reached) as remote:
                return await run(
                    first(iter(events), limit),
                    Publications(remote, note),
                    speed=speed,
                    now=time.monotonic,
                    sleep=asyncio.sleep,
                    progress=lambda report: bar.at(report.sent, time.monotonic()),
                    batch=MAX_BATCH_EVENTS,
                )

    try:
        return asyncio.run(play())
    except CommandError as error:
        raise CommandError(
            error.message, f"{error.fix}. Running it again is safe: what is stored is not added twice"
        ) from error


def _print(report: Report, survey: Survey | None) -> None:
    for text in (*(survey.lines() if survey is not None else ()), *report.lines()):
        line(text)
