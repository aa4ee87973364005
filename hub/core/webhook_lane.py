"""What one endpoint is owed, as far as it is in memory: in order within each entity, the entities beside each other.

Of each entity a few deliveries are held, of an endpoint a few thousand entities; what else there is stays in the store
until there is room. Of an entity whose next attempt is far off only that is held. So an entity that fails for days
holds back its own events and nothing else, however many they are, and however many such entities there are.
"""

from __future__ import annotations

import heapq
from collections import deque
from typing import Final

from hub.core.webhooks import Breaker, Bucket, Delivery, Endpoint, Key
from schemas.cursor import ZERO, StreamId

MAX_PARALLEL: Final = 8
"""Attempts at one endpoint at a time."""
MAX_ENTITIES: Final = 2000
"""Entities with deliveries in memory."""
MAX_EACH: Final = 16
"""Deliveries of one entity in memory."""
PARK_MS: Final = 60_000
"""An entity whose first delivery is due later than that is left to the store until then."""
MAX_PARKED: Final = 200_000
"""Entities of which no more is known than when they are due."""


class _Line:
    """The deliveries of one entity, the oldest first."""

    __slots__ = ("busy", "held", "missed", "parked_ms", "untried", "whole")

    def __init__(self) -> None:
        self.held: deque[Delivery] = deque()
        self.busy = False
        """Its first is being attempted."""
        self.whole = True
        """There are no later ones in the store."""
        self.missed = False
        """One was left to the store since it was asked for those that follow."""
        self.parked_ms: int | None = None
        """All of them are in the store alone, the first of them due then."""
        self.untried = False
        """While parked: its first waits for a batch, and was never attempted."""


class Lane:
    """One endpoint's. Deliveries are offered in the order of their places, by whoever wrote them down and by whoever
    reads them from the store; what is held already is passed over."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.breaker = Breaker()
        self._bucket = Bucket(endpoint.rate_per_s)
        self._lines: dict[str, _Line] = {}
        self._parked: list[tuple[int, str]] = []
        self._parked_lines = 0
        self._ready: list[tuple[int, StreamId, str]] = []
        self._keys: set[Key] = set()
        self._gone: set[Key] | None = None
        self._missed = False
        self._scan = 0
        self.busy = 0
        """Attempts under way."""
        self.paused = False
        """Nothing is attempted: earlier deliveries are still being looked for."""
        self.scanned = ZERO
        """Up to here everything in the store was looked at."""
        self.more = True
        """There may be deliveries in the store, past `scanned`, that were not looked at."""

    def change(self, endpoint: Endpoint) -> None:
        """The endpoint is another now."""
        if endpoint.rate_per_s != self.endpoint.rate_per_s:
            self._bucket = Bucket(endpoint.rate_per_s)
        if endpoint.url != self.endpoint.url:
            self.breaker = Breaker()
        self.endpoint = endpoint

    # -- filling --------------------------------------------------------------------------------------------------

    def offer(self, delivery: Delivery, now_ms: int) -> bool:
        """Take a delivery, or leave it to the store until its entity's turn comes; False when there is no room for
        another entity, and the store is to be read again from here."""
        if delivery.key in self._keys or (self._gone is not None and delivery.key in self._gone):
            return True
        line = self._lines.get(delivery.entity)
        if line is None:
            parks = delivery.due_ms - now_ms > PARK_MS
            if self._parked_lines >= MAX_PARKED if parks else self._active >= MAX_ENTITIES:
                return False
            line = self._lines[delivery.entity] = _Line()
            if parks:
                self._park(delivery.entity, line, delivery)
                return True
        if not line.whole or len(line.held) >= MAX_EACH:
            line.whole, line.missed = False, True
            if line.parked_ms is not None and line.untried and delivery.due_ms < line.parked_ms:
                line.parked_ms = delivery.due_ms
                heapq.heappush(self._parked, (delivery.due_ms, delivery.entity))
            return True
        line.held.append(delivery)
        self._keys.add(delivery.key)
        self._line_up(line)
        return True

    def offer_new(self, delivery: Delivery, now_ms: int) -> None:
        """The same for one that was written down just now: it is later than everything in the store."""
        if self.more or not self.offer(delivery, now_ms):
            self.more = self._missed = True
        else:
            self.scanned = max(self.scanned, delivery.key.id)

    def scanning(self) -> int:
        """The store is being read: what is settled from now on may come back from it, and is to be passed over. The
        number of the scan."""
        self._gone = set()
        self._missed = False
        self._scan += 1
        return self._scan

    def scanned_in(self, scan: int, delivery: Delivery, now_ms: int) -> bool:
        """Take a delivery that a scan found, as `offer` does; False too when the store is read from its beginning now,
        and what was read before no longer counts."""
        return scan == self._scan and self.offer(delivery, now_ms)

    def scan_ended(self, scan: int, reached: StreamId, *, more: bool) -> None:
        """It was read up to a place."""
        if scan != self._scan:
            return
        self._gone = None
        self.scanned = max(self.scanned, reached)
        self.more = more or self._missed

    @property
    def wants_more(self) -> bool:
        """Whether it is time to look into the store."""
        return self.more and self._active <= MAX_ENTITIES // 2

    @property
    def _active(self) -> int:
        return len(self._lines) - self._parked_lines

    def reload(self) -> None:
        """Forget what is not under way: the store is to be read from its beginning."""
        for entity, line in list(self._lines.items()):
            kept = [line.held[0]] if line.busy else []
            self._keys.difference_update(one.key for one in line.held if one not in kept)
            line.held = deque(kept)
            line.whole = False
            if not kept:
                del self._lines[entity]
        self._ready.clear()
        self._parked.clear()
        self._parked_lines = 0
        self.scanned, self.more = ZERO, True
        # Whoever is reading has begun behind what is to be read.
        self._scan += 1
        self._gone = None

    # -- attempting -----------------------------------------------------------------------------------------------

    def take(self, now_ms: int) -> Delivery | None:
        """The next delivery that may be attempted now; it is under way until `settled`, `again` or `left`."""
        while self._ready and not self._is_next(self._ready[0]):
            heapq.heappop(self._ready)
        if not self._ready or self._ready[0][0] > now_ms or self.busy >= MAX_PARALLEL or self._rests:
            return None
        if not self.breaker.allows(now_ms) or self._bucket.wait_ms(now_ms):
            return None
        _, _, entity = heapq.heappop(self._ready)
        line = self._lines[entity]
        line.busy = True
        self.busy += 1
        self.breaker.began()
        self._bucket.take()
        return line.held[0]

    def due_again(self, now_ms: int) -> str | None:
        """An entity that was left to the store and is due now: those that it has are to be offered with `refill`. None:
        there is none, or no room."""
        while self._parked and self._active < MAX_ENTITIES:
            due_ms, entity = self._parked[0]
            line = self._lines.get(entity)
            if line is None or line.parked_ms != due_ms:
                heapq.heappop(self._parked)
            elif due_ms > now_ms:
                break
            else:
                heapq.heappop(self._parked)
                self._unpark(line)
                return entity
        return None

    def _park(self, entity: str, line: _Line, first: Delivery) -> None:
        self._keys.difference_update(one.key for one in line.held)
        line.held.clear()
        line.whole, line.parked_ms, line.untried = False, first.due_ms, not first.attempts
        self._parked_lines += 1
        heapq.heappush(self._parked, (first.due_ms, entity))

    def _unpark(self, line: _Line) -> None:
        line.parked_ms, line.missed = None, False
        self._parked_lines -= 1

    @property
    def _rests(self) -> bool:
        return self.paused or not self.endpoint.enabled

    def _is_next(self, item: tuple[int, StreamId, str]) -> bool:
        due_ms, id, entity = item
        line = self._lines.get(entity)
        if line is None or line.busy or not line.held:
            return False
        first = line.held[0]
        return (first.due_ms, first.key.id) == (due_ms, id)

    def wait_ms(self, now_ms: int) -> int | None:
        """How long until something may be attempted or is due again; None: until something happens."""
        if self._rests:
            return None
        waits = []
        if self._ready and self.busy < MAX_PARALLEL:
            allowed = self.breaker.allows(now_ms) or now_ms < self.breaker.open_until_ms
            if allowed:
                ready = self._ready[0][0] - now_ms
                waits.append(max(ready, self._bucket.wait_ms(now_ms), self.breaker.open_until_ms - now_ms))
        if self._parked and self._active < MAX_ENTITIES:
            waits.append(self._parked[0][0] - now_ms)
        return max(1, min(waits)) if waits else None

    def settled(self, delivery: Delivery) -> bool:
        """It is delivered or given up; True when the store may have later ones of its entity, which are to be offered
        with `refill`."""
        line = self._end(delivery)
        line.held.popleft()
        self._keys.discard(delivery.key)
        if self._gone is not None:
            self._gone.add(delivery.key)
        if line.held:
            self._line_up(line)
            return False
        if line.whole:
            del self._lines[delivery.entity]
            return False
        line.missed = False
        return True

    def refill(self, entity: str, deliveries: list[Delivery], *, whole: bool) -> bool:
        """The next ones of an entity, from the store. `whole`: there are no others. True when the store is to be asked
        again: it was written to meanwhile."""
        line = self._lines.get(entity)
        if line is None or line.held or line.parked_ms is not None:
            return False
        for delivery in deliveries:
            if delivery.key not in self._keys:
                line.held.append(delivery)
                self._keys.add(delivery.key)
        line.whole = whole and not line.missed
        if line.held:
            self._line_up(line)
            return False
        if line.whole:
            del self._lines[entity]
            return False
        line.missed = False
        return True

    def again(self, delivery: Delivery, due_ms: int, now_ms: int) -> None:
        """It failed, and is due again then."""
        line = self._end(delivery)
        delivery.due_ms = due_ms
        if due_ms - now_ms > PARK_MS and self._parked_lines < MAX_PARKED:
            self._park(delivery.entity, line, delivery)
        else:
            self._line_up(line)

    def left(self, delivery: Delivery, due_ms: int) -> None:
        """It was not attempted after all."""
        self.breaker.left()
        line = self._end(delivery)
        delivery.due_ms = due_ms
        self._line_up(line, let_go=False)

    def _end(self, delivery: Delivery) -> _Line:
        line = self._lines[delivery.entity]
        line.busy = False
        self.busy -= 1
        return line

    def _line_up(self, line: _Line, *, let_go: bool = True) -> None:
        """Its first waits to be taken. One that waits for a batch does not hold up one that does not: the order counts
        more."""
        if line.busy:
            return
        first = line.held[0]
        if let_go and not first.attempts:
            first.due_ms = min(one.due_ms for one in line.held)
        heapq.heappush(self._ready, (first.due_ms, first.key.id, first.entity))

    def __len__(self) -> int:
        return len(self._keys)
