"""What `hub simulate` and `hub demo` publish, and how they publish it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any, Final
from zoneinfo import ZoneInfo

import orjson

from hub.cli.remote import Remote
from hub.cli.resend import Resender
from hub.core.bookings import BookingPlan, plan_bookings
from hub.core.hotel_day import hotel_day
from hub.core.simulated import SimulatedEvent
from hub.services.booking_file import portuguese_hotels, read_rows

ZONE: Final = ZoneInfo("Asia/Tokyo")
_TOKEN_S: Final = 3600.0
_SHARED: Final = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "hotel_bookings.zip"


class Publications:
    """Publishes batches over HTTP, each with a token of the system and tenant it is of.

    The events bring their ids, so a batch without an answer is sent again.
    """

    def __init__(self, remote: Remote, told: Callable[[str], None]) -> None:
        self._remote = remote
        self._send = Resender(told)
        self._tokens: dict[tuple[str, str], tuple[str, float]] = {}

    async def __call__(self, system: str, tenant: str, drafts: Sequence[dict[str, Any]]) -> Sequence[Mapping[str, Any]]:
        """Publish in order; the receipts.

        Raises:
            CommandError: the hub said no, or stayed away.
        """
        body = orjson.dumps({"events": drafts})
        answer = await self._send(lambda: self._remote.post("events", body, self._token(system, tenant)))
        receipts: Sequence[Mapping[str, Any]] = answer["receipts"]
        return receipts

    def _token(self, system: str, tenant: str) -> str:
        signed, until = self._tokens.get((system, tenant), ("", 0.0))
        if time.monotonic() >= until:
            signed = self._remote.access.token(system, [tenant], ["publish:*"], life_s=_TOKEN_S)
            self._tokens[system, tenant] = signed, time.monotonic() + _TOKEN_S / 2
        return signed


def a_day(day: date, seed: int, tenant: str) -> list[SimulatedEvent]:
    """A made-up day of a hotel in Japan."""
    return hotel_day(day, seed=seed, zone=ZONE, tenant=tenant)


class Stopped(Exception):
    """The plan is not wanted any more."""


def bookings(path: Path, stopping: Callable[[], bool] = lambda: False) -> BookingPlan:
    """The real bookings in a file; takes some seconds.

    Raises:
        BookingFileError: it is no such file.
        Stopped: `stopping` became true meanwhile.
    """

    def rows() -> Iterator[tuple[int, dict[str, str]]]:
        for row in read_rows(path):
            if stopping():
                raise Stopped
            yield row

    return plan_bookings(rows(), portuguese_hotels())


def find_bookings() -> Path | None:
    """The file of bookings beside the project, if there is one."""
    return _SHARED if _SHARED.exists() else None


def first(events: Iterator[SimulatedEvent], limit: int | None) -> Iterator[SimulatedEvent]:
    """At most `limit` of them."""
    for number, event in enumerate(events):
        if limit is not None and number >= limit:
            return
        yield event
