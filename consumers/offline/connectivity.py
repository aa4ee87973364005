"""Whether the hub is reached: a small state machine over probes and failures, and what does the probing (R62).

The line counts as broken after one failed probe when a request failed too or no WebSocket stands, else after two; as
whole again after two good ones in a row, so that a line that comes and goes does not make the desk do so. A failed
request or WebSocket makes a probe at once, and so does a WebSocket that is asked for a sign of life, about once a
second, and gives none (`consumers.offline.live`): a line that breaks without a word is noticed within three seconds
(R101), though the usual probe is made every five.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

from consumers.clock import Clock

INTERVAL_S: Final = 5.0
"""Between two probes when nothing is the matter (R62)."""
PROBE_S: Final = 1.5
"""How long a probe may take."""
AGAIN_S: Final = 1.0
"""Until the second good probe on the way back; it shall be of another moment."""
CONFIRM_S: Final = 0.25
"""Until the second look at a line of which only one probe says that it is broken."""
UNHEARD_S: Final = 1.0
"""Between two probes while the desk is online without a WebSocket: nothing else would tell of a break in time."""


class Line(NamedTuple):
    """What is known of the line. `online` None: nothing yet; the first probe decides.

    `good` and `bad` are the probes in a row; `suspected`: a request or the socket failed since the last good one.
    """

    online: bool | None = None
    good: int = 0
    bad: int = 0
    suspected: bool = False


def after_probe(line: Line, reached: bool, *, heard: bool) -> Line:
    """The line after a probe. `heard`: a WebSocket stands that has not said otherwise."""
    if reached:
        good = line.good + 1
        return Line(True if line.online is None else line.online or good >= 2, good)
    bad = line.bad + 1
    return Line(bool(line.online) and bad < 2 and heard and not line.suspected, 0, bad, line.suspected)


def after_failure(line: Line) -> Line:
    """The line after a request, or the WebSocket, failed or kept silent: a reason to probe, not yet to go offline."""
    return line._replace(suspected=True)


def pause(line: Line, *, interval: float = INTERVAL_S, heard: bool) -> float:
    """Seconds until the next probe. `heard`: a WebSocket stands, and would tell of a break."""
    if not line.online:
        return min(AGAIN_S, interval) if line.good else interval
    if line.bad:
        return CONFIRM_S
    return interval if heard else min(UNHEARD_S, interval)


class Connectivity:
    """Probes the line and tells of its changes. `run` is a task of its owner's."""

    def __init__(
        self, probe: Callable[[], Awaitable[bool]], *, clock: Clock, on_change: Callable[[bool], None]
    ) -> None:
        """`probe` asks the hub for a sign of life: whether there was one. `on_change` must not raise."""
        self._probe = probe
        self._clock = clock
        self._on_change = on_change
        self._interval = INTERVAL_S
        self._nudged = asyncio.Event()
        self._probing = asyncio.Lock()
        self._up = asyncio.Event()
        self._back_at = 0.0
        self.line = Line()
        self.heard = False
        """Whether a WebSocket stands; kept by whoever holds it."""

    @property
    def online(self) -> bool:
        """Whether the line counts as whole."""
        return bool(self.line.online)

    @property
    def back_at(self) -> float:
        """When the first of the good probes was begun, by the clock: when the line was back at the latest."""
        return self._back_at

    def set_interval(self, seconds: float | None) -> None:
        """Probe more often for a while (R84); None: as usual."""
        self._interval = INTERVAL_S if seconds is None else seconds
        self._nudged.set()

    def suspect(self) -> None:
        """A request or the socket failed, or is silent: probe at once."""
        self.line = after_failure(self.line)
        self._nudged.set()

    async def check(self) -> bool:
        """Probe now, twice where that is what it takes; whether the line is whole."""
        await self._look()
        if not self.online and self.line.good:
            await self._look()
        return self.online

    async def until_online(self) -> None:
        """Wait until the line is whole."""
        await self._up.wait()

    async def run(self) -> None:
        """Probe until cancelled."""
        while True:
            self._nudged.clear()
            await self._look()
            try:
                async with self._clock.timeout(pause(self.line, interval=self._interval, heard=self.heard)):
                    await self._nudged.wait()
            except TimeoutError:
                pass

    async def _look(self) -> None:
        async with self._probing:
            began = self._clock.monotonic()
            try:
                async with self._clock.timeout(PROBE_S):
                    reached = await self._probe()
            except TimeoutError:
                reached = False
            before = self.line
            self.line = after_probe(before, reached, heard=self.heard)
            if self.line.good == 1:
                self._back_at = began
            if self.line.online == before.online:
                return
            if self.online:
                self._up.set()
            else:
                self._up.clear()
            self._on_change(self.online)
