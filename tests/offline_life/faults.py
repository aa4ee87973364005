"""What goes wrong between desks and hub, drawn from the seed: cuts, losses, doubles, delays, deaths, races."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from consumers.errors import Disconnected
from schemas.errors import Problem

from .clock import SimulatedClock
from .desk_side import DeskSide
from .hub_side import HubDied, HubSide

MINUTE: Final = 60.0
HOUR: Final = 3600.0
At = Callable[[float, Callable[[], Awaitable[None]]], None]
"""Does something so many seconds from now."""


@dataclass(frozen=True)
class Rates:
    """How often. The chances are a request's."""

    lost: float = 0.04
    """The request never arrives."""
    late: float = 0.02
    """It seems lost, and arrives hours later."""
    doubled: float = 0.04
    answer_lost: float = 0.05
    hub_dies: float = 0.006
    device_dies: float = 0.015
    """Of a sync or an operation."""
    raced: float = 0.05
    """Another device's whole sync comes in right before the first event of a push is stored."""
    cuts_every_s: float = 20 * HOUR
    """Mean time between a device's cuts."""
    cut_from_s: float = 2 * MINUTE
    cut_to_s: float = 30 * HOUR


NONE: Final = Rates(0, 0, 0, 0, 0, 0, 0, math.inf)


class Faults:
    """The lines of all devices."""

    def __init__(self, draw: random.Random, clock: SimulatedClock, hub: HubSide, at: At, rates: Rates) -> None:
        self.rates = rates
        self.counts: Counter[str] = Counter()
        self.racer: Callable[[DeskSide], DeskSide | None] = lambda _: None
        """Who may come in between."""
        self._draw = draw
        self._clock = clock
        self._hub = hub
        self._at = at
        self._cut: dict[str, float] = {}
        """Until when a device's line is cut."""
        self._hub_back = 0.0
        self._racing = False

    # -- lines ----------------------------------------------------------------------------------------------------

    def begin(self, desks: list[DeskSide]) -> None:
        """Cut lines from now on."""
        for desk in desks:
            self._next_cut(desk)

    def _next_cut(self, desk: DeskSide) -> None:
        if self.rates.cuts_every_s < math.inf:
            self._at(self._draw.expovariate(1 / self.rates.cuts_every_s), lambda: self._break(desk))

    async def _break(self, desk: DeskSide) -> None:
        if self.rates.cuts_every_s == math.inf:
            return
        low, high = math.log(self.rates.cut_from_s), math.log(self.rates.cut_to_s)
        length = math.exp(self._draw.uniform(low, high))
        self._cut[desk.name] = self._clock.seconds + length
        self.counts["cut"] += 1
        self.counts["cut_hours"] += round(length / HOUR)
        self._at(length, self._mended(desk))

    def _mended(self, desk: DeskSide) -> Callable[[], Awaitable[None]]:
        async def mended() -> None:
            self._next_cut(desk)

        return mended

    def down_for(self, desk: DeskSide) -> float:
        """Seconds until there is a line to a hub again; 0 when there is."""
        return max(0.0, self._cut.get(desk.name, 0.0) - self._clock.seconds, self._hub_back - self._clock.seconds)

    def calm(self) -> None:
        """From now on all is well."""
        self.rates = NONE
        self._cut.clear()

    def _happens(self, chance: float) -> bool:
        return self._draw.random() < chance

    async def __call__(self, desk: DeskSide, kind: str, request: Callable[[], Awaitable[bytes]]) -> bytes:
        """Carry a request (`desk_side.Line`)."""
        rates = self.rates
        if self.down_for(desk):
            raise Disconnected("the line is down")
        if self._happens(rates.lost):
            self.counts["lost"] += 1
            raise Disconnected("no answer in time", sent=True)
        if kind == "push" and self._happens(rates.late):
            self.counts["late"] += 1
            self._at(self._draw.uniform(MINUTE, 8 * HOUR), lambda: self._late(request))
            raise Disconnected("no answer in time", sent=True)
        if kind == "push" and not self._racing and self._happens(rates.raced):
            self._race(desk)
        if not self._racing and self._hub.beside is None and self._happens(rates.hub_dies):
            self._hub.doom(self._draw.randrange(12))
        try:
            answers = [await self._carried(request)]
            if self._happens(rates.doubled):
                self.counts["doubled"] += 1
                answers.append(await self._carried(request))
        finally:
            self._hub.beside = None
        if self._happens(rates.answer_lost):
            self.counts["answer_lost"] += 1
            raise Disconnected("no answer in time", sent=True)
        return self._draw.choice(answers)

    async def _carried(self, request: Callable[[], Awaitable[bytes]]) -> bytes:
        if self._hub.dead:
            raise Disconnected("the hub is away")
        try:
            return await request()
        except HubDied:
            if self._racing:
                raise
            await self.hub_died()
            raise Disconnected("the connection broke", sent=True) from None

    async def hub_died(self) -> None:
        """A new hub comes up some time later."""
        self.counts["hub_died"] += 1
        await self._hub.kill()
        away = self._draw.uniform(30, 40 * MINUTE)
        self._hub_back = self._clock.seconds + away
        self._at(away, self._hub.boot)

    async def _late(self, request: Callable[[], Awaitable[bytes]]) -> None:
        """It arrives after all, and nobody waits for the answer."""
        try:
            await self._carried(request)
        except (Disconnected, Problem) as error:
            self.counts[f"late: {type(error).__name__}"] += 1

    def _race(self, desk: DeskSide) -> None:
        other = self.racer(desk)
        if other is None or self.down_for(other) or self._hub._steps_left is not None:
            return

        async def beside() -> None:
            self.counts["raced"] += 1
            self._racing = True
            try:
                await other.sync()
            finally:
                self._racing = False

        self._hub.beside = beside
