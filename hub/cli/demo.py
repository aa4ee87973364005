"""`hub demo`: a hub, three systems that follow it, and a hotel's events, on one screen."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, closing, suppress
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from itertools import count, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from hub import settings as hub_settings
from hub.cli.access import Access
from hub.cli.demo_systems import PROGRAMS, System
from hub.cli.demo_view import Columns, Lines, View
from hub.cli.failure import CommandError, UsageError
from hub.cli.output import line, note, on_terminal
from hub.cli.played import ZONE, Publications, Stopped, a_day, bookings, find_bookings
from hub.cli.remote import Remote
from hub.cli.serve import run_loop
from hub.cli.showcase import Showcase, mark_of
from hub.core.bookings import BookingPlan
from hub.core.simulated import SimulatedEvent
from hub.errors import StartError
from hub.services.simulator import run
from hub.settings import Settings

if TYPE_CHECKING:
    from hub.app import Hub

DAY_SPEED: Final = 1200.0
"""Twenty minutes of the hotel a second: a day's bustle in three quarters of a minute."""
BUSY_DAY: Final = date(2015, 10, 20)
"""The day before the city hotel cancels 1,365 bookings at once."""
TENANT: Final = "default"
_LOOK_S: Final = 0.25
_CONNECT_S: Final = 30.0
_SETTLE_S: Final = 10.0
_TOKEN_S: Final = 30 * 86_400.0
_VISIT_S: Final = 8 * 3600.0
_DATES: Final = ["%Y-%m-%d"]

app = typer.Typer()


@dataclass(frozen=True, slots=True)
class _Options:
    settings: Settings
    directory: Path
    bookings: Path | None
    start: date | None
    speed: float
    once: bool
    duration: float | None


@app.command("demo")
def demo(
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="HUB_PORT, or a free one if that is busy")] = None,
    data_dir: Annotated[
        Path | None, typer.Option("--data-dir", help="Keep everything here; a temporary directory by default")
    ] = None,
    bookings_file: Annotated[
        Path | None,
        typer.Option("--bookings", envvar="HOTEL_BOOKINGS", help="Real bookings, hotel_bookings.csv or its zip"),
    ] = None,
    no_bookings: Annotated[bool, typer.Option("--no-bookings", help="The made-up day, whatever is there")] = False,
    from_: Annotated[datetime | None, typer.Option("--from", formats=_DATES, help="First day that is played")] = None,
    speed: Annotated[float, typer.Option(min=0.001, help="3600 is an hour a second")] = DAY_SPEED,
    once: Annotated[bool, typer.Option("--once", help="End after one day")] = False,
    duration: Annotated[float | None, typer.Option(min=0, help="End after so many seconds")] = None,
) -> None:
    """Run a hub with its own log server, three systems that follow it, and a hotel's day, until Ctrl-C.

    Plays real bookings where they are found, else a made-up hotel.
    """
    if no_bookings and bookings_file is not None:
        bookings_file = None
    elif not no_bookings and bookings_file is None:
        bookings_file = find_bookings()
    elif bookings_file is not None and not bookings_file.is_file():
        raise UsageError(f"--bookings {bookings_file} is no file", "Name hotel_bookings.csv or its zip")
    directory = data_dir
    temporary = None
    if directory is None:
        directory = temporary = Path(tempfile.mkdtemp(prefix="hub-demo-"))
    try:
        # The log server is the demonstration's own, whatever HUB_REDIS_URL says.
        settings = hub_settings.load(host="127.0.0.1", port=port, data_dir=directory, redis_url="", workers=1)
        options = _Options(
            settings, directory, bookings_file, None if from_ is None else from_.date(), speed, once, duration
        )
        code = run_loop(lambda stop: _until(stop, _Demonstration(options, stop.is_set).run()))
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
    raise typer.Exit(code)


async def _until(stop: asyncio.Event, work: Coroutine[Any, Any, None]) -> int:
    """Carry the work out, or break it off when asked to stop; it cleans up after itself either way."""
    working = asyncio.create_task(work, name="demonstration")
    asked = asyncio.create_task(stop.wait(), name="stop")
    try:
        await asyncio.wait({working, asked}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        asked.cancel()
        if not working.done():
            working.cancel()
        with suppress(asyncio.CancelledError, Stopped):
            await working
    return 0


class _Demonstration:
    def __init__(self, options: _Options, stopping: Callable[[], bool]) -> None:
        self._options = options
        self._stopping = stopping
        self._show = Showcase(tuple(PROGRAMS))
        self._view: View | None = None

    async def run(self) -> None:
        from hub.app import Hub, bind
        from hub.telemetry import configure_logging

        options = self._options
        chosen = "log_level" in options.settings.model_fields_set
        configure_logging(options.settings.log_level if chosen else "error", options.settings.log_format)
        plan = None
        if options.bookings is not None:
            note(f"reading {options.bookings}")
            plan = await asyncio.to_thread(bookings, options.bookings, self._stopping)
        async with AsyncExitStack() as stack:
            try:
                listener = bind(options.settings)
            except StartError:
                listener = bind(options.settings.model_copy(update={"port": 0}))
                note(f"port {options.settings.port} is busy: taking {listener.getsockname()[1]}")
            hub = await stack.enter_async_context(Hub(options.settings, listener))
            host = options.settings.host
            access = Access(f"http://{host}:{hub.port}", None, hub.tokens)
            systems = [System(name, self._arrived) for name in PROGRAMS]
            stack.push_async_callback(_stop, systems)
            for system in systems:
                scopes = ["publish:*", "subscribe:*"]
                token = hub.tokens.issue(system.name, ["*"], scopes, lifetime_s=_TOKEN_S)
                await system.start(f"ws://{host}:{hub.port}/ws", token, options.directory)
            self._introduce(access, plan)
            await self._play(hub, access, systems, plan)

    async def _play(self, hub: Hub, access: Access, systems: Sequence[System], plan: BookingPlan | None) -> None:
        ends = [asyncio.create_task(system.ended(), name=f"{system.name}-end") for system in systems]
        playing = asyncio.create_task(self._feed(hub, access, plan), name="feed")
        looking = asyncio.create_task(self._look(), name="view")
        tasks = [*ends, playing, looking]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _look(self) -> None:
        view: View = Columns(self._show) if on_terminal() else Lines(self._show)
        self._view = view
        with closing(view):
            while True:
                view.refresh()
                await asyncio.sleep(_LOOK_S)

    def _arrived(self, system: str, text: str) -> None:
        took = self._show.arrived(system, text, time.monotonic())
        if self._view is not None:
            self._view.arrived(system, text, took)

    async def _feed(self, hub: Hub, access: Access, plan: BookingPlan | None) -> None:
        """Play until the time is over, day after day; with `once` one day, and what it brings to its end."""
        await _connected(hub, self._show)
        with suppress(TimeoutError):
            async with asyncio.timeout(self._options.duration), Remote(access) as remote:
                publications = Publications(remote, note)

                async def publish(
                    system: str, tenant: str, drafts: Sequence[dict[str, Any]]
                ) -> Sequence[Mapping[str, Any]]:
                    now = time.monotonic()
                    for draft in drafts:
                        self._show.sending(mark_of(draft), now)
                    receipts = await publications(system, tenant, drafts)
                    self._show.published += sum("problem" not in receipt for receipt in receipts)
                    return receipts

                await run(
                    self._events(plan),
                    publish,
                    speed=self._options.speed,
                    now=time.monotonic,
                    sleep=asyncio.sleep,
                )
                await self._settled(hub)

    def _events(self, plan: BookingPlan | None) -> Iterator[SimulatedEvent]:
        begin = self._options.start or self._kept_day()
        if plan is not None:
            begin = begin or BUSY_DAY
            days: Iterable[SimulatedEvent] = plan.events(begin, begin if self._options.once else None)
        else:
            first = begin or datetime.now(ZONE).date()
            number = repeat(first, 1) if self._options.once else (first + timedelta(days=n) for n in count())
            days = (event for day in number for event in a_day(day, 1, TENANT))
        noted = None
        for event in days:
            if event.at.date() != noted:
                noted = event.at.date()
                self._day_file.write_text(noted.isoformat())
            yield event

    @property
    def _day_file(self) -> Path:
        """The day that is being played: over a directory that is kept, the next run goes on after it."""
        return self._options.directory / "demo-day"

    def _kept_day(self) -> date | None:
        try:
            return date.fromisoformat(self._day_file.read_text().strip()) + timedelta(days=1)
        except (OSError, ValueError):
            return None

    async def _settled(self, hub: Hub) -> None:
        """Wait until the systems have acknowledged what was published, and have told of it."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_SETTLE_S):
                seen = -1
                while seen != self._show.all_received or not all(one.settled for one in hub.sockets.connections):
                    seen = self._show.all_received
                    await asyncio.sleep(_LOOK_S)

    def _introduce(self, access: Access, plan: BookingPlan | None) -> None:
        options = self._options
        token = access.token(scopes=["subscribe:*"], life_s=_VISIT_S)
        what = f"real bookings of {options.bookings}" if plan is not None else "a made-up hotel"
        line(f"hub      {access.url}  (docs {access.url}/docs, metrics {access.url}/metrics)")
        line(f"playing  {what}, {options.speed:g} times as fast as it was")
        line("try, in another terminal:")
        line(f"  hub tail --url {access.url} --data-dir {options.directory}")
        line(f"  curl -H 'Authorization: Bearer {token}' '{access.url}/api/v1/events?limit=3'")


async def _stop(systems: Sequence[System]) -> None:
    await asyncio.gather(*(system.stop() for system in systems))


async def _connected(hub: Hub, show: Showcase) -> None:
    """Wait until every system has its connection.

    Raises:
        CommandError: one did not come.
    """

    def missing() -> list[str]:
        [metric] = hub.metrics.connections.collect()
        there = {sample.labels["system"] for sample in metric.samples if sample.value > 0}
        return [system for system in show.columns if system not in there]

    try:
        async with asyncio.timeout(_CONNECT_S):
            # The systems connect from processes of their own: there is nothing here to be woken by.
            while missing():  # noqa: ASYNC110
                await asyncio.sleep(_LOOK_S / 5)
    except TimeoutError:
        raise CommandError(f"{', '.join(missing())} did not connect within {_CONNECT_S:g} s", "See above") from None
