"""Folds the archive's events into the entities' states (see `hub.core.projection`), a transaction at a time.

Many events of one entity become one row; how far each tenant is projected is stored with the rows, so a crash folds
nothing twice.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import orjson

from hub.core import versions
from hub.core.projection import Folding
from hub.store.archive import Archived, Place
from hub.store.entities import NOTHING, Key, Reached, Stored, Written, restored, stored
from hub.store.store import Store
from schemas.cursor import ZERO, StreamId

MAX_BATCH: Final = 1500
"""Events in one transaction: more would keep other writers waiting."""
SLICE_S: Final = 0.0005
"""How long the event loop is held at a time."""
CACHE_BYTES: Final = 32 * 1024 * 1024
_ROW_BYTES: Final = 700
"""What a remembered state takes beside its data."""


@dataclass(slots=True)
class _Lane:
    """How far a partition was looked through."""

    at: StreamId
    epoch: int
    due: dict[int, int]
    """The positions that its tenants must have come to at its end, or some of their events lie at earlier places."""


class Projection:
    """One generation of states on its way to the archive's end. Owned by one task."""

    def __init__(
        self, store: Store, generation: int, *, current: bool, seeds: int | None = None, cache_bytes: int = CACHE_BYTES
    ) -> None:
        """`seeds` is the generation that knows what events said that are no longer archived."""
        self._archive = store.archive
        # Reading ahead takes turns with SQLite's own work, and would keep its one writer waiting.
        self._ahead = not store.database.sqlite
        self._entities = store.entities
        self.generation = generation
        self._current = current
        self._seeds = seeds
        self._lanes: dict[int, _Lane] | None = None
        self._stored: dict[int, Reached] = {}
        self._reached: dict[int, Reached] = {}
        """As stored, or the last event that the retention removed, where that is later."""
        self.expired: dict[int, StreamId] = {}
        """The tenants whose oldest events are gone, and the last of those."""
        self._whole: dict[int, int] = {}
        """The tenants all of whose events this object has folded, with the epoch of the first: in that one, a first
        revision has no state before it."""
        self._astray: set[int] = set()
        """Tenants with events at places that were passed already: a server with its clock behind took over."""
        self._turn = 0
        self._writing: asyncio.Task[None] | None = None
        self._unwritten: Mapping[Key, Stored] = {}
        self._cache: OrderedDict[Key, Stored] = OrderedDict()
        self._cached = 0
        self._cache_bytes = cache_bytes

    async def step(self) -> int:
        """Project one transaction's worth; how many events were looked at, 0 when there is nothing to do.

        Raises:
            Fenced: another projector is at work; the next step begins where that one is.
            Superseded: the generation is not what it was.
            StoreUnavailable: whether it was stored, the next step sees.
        """
        try:
            done = await self._step()
            if done < MAX_BATCH or not self._ahead:
                await self.settle()
            return done
        except BaseException:
            await self.aclose()
            raise

    async def settle(self) -> None:
        """Until everything that was projected is stored: a full step's transaction may run while the next one is read.

        Raises:
            Fenced, Superseded, StoreUnavailable: as `step`.
        """
        writing, self._writing = self._writing, None
        if writing is not None:
            await writing
            self._unwritten = {}

    async def aclose(self) -> None:
        """Give up what is not stored yet; a next step would look where the store is."""
        self._lanes = None
        self._cache.clear()
        self._cached = 0
        self._unwritten = {}
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)

    @property
    def position(self) -> int:
        """How many events are projected, of all tenants, the expired ones included."""
        return sum(reached.position for reached in self._reached.values())

    async def _step(self) -> int:
        places = await self._archive.places()
        lanes = self._lanes
        if lanes is None or any(_turned(lanes.get(number), place) for number, place in places.items()):
            lanes = self._lanes = await self._locate(places)
        if self._astray:
            return await self._follow_astray(next(iter(self._astray)))
        return await self._follow(lanes, places)

    # -- reading the archive --------------------------------------------------------------------------------------

    async def _locate(self, places: Mapping[int, Place]) -> dict[int, _Lane]:
        """Where each partition is to be read from, by how far its tenants are projected."""
        self._stored = await self._entities.reached(self.generation)
        self._reached = dict(self._stored)
        self._astray.clear()
        lanes = {number: _Lane(place.id, place.epoch, {}) for number, place in places.items()}
        for one in (await self._archive.tenants()).values():
            if one.base_position:
                self.expired[one.tenant_no] = one.base.id
            reached = self._reached.get(one.tenant_no, NOTHING)
            if reached.position < one.base_position:
                reached = self._reached[one.tenant_no] = _base(one)
            lane = lanes.get(one.partition)
            if lane is not None and reached.position < one.position:
                lane.at = min(lane.at, reached.id)
                lane.due[one.tenant_no] = one.position
        return lanes

    async def _follow(self, lanes: dict[int, _Lane], places: Mapping[int, Place]) -> int:
        """Read on in each partition, beginning with another one every time, as far as one transaction goes."""
        self._turn += 1
        room, rows, ends, dry = MAX_BATCH, list[Written](), dict[int, StreamId](), list[_Lane]()
        numbers = sorted(lanes)
        for step in range(len(numbers)):
            number = numbers[(self._turn + step) % len(numbers)]
            lane = lanes[number]
            if lane.at >= places[number].id and not lane.due:
                continue
            found = await self._entities.following(number, lane.at, room)
            if len(found) < room:
                dry.append(lane)
            if found:
                rows += found
                room -= len(found)
                ends[number] = StreamId(found[-1][2], found[-1][3])
            if room <= 0:
                break
        await self._project(rows)
        for number, id in ends.items():
            lanes[number].at = id
        for lane in dry:
            behind = (number for number, due in lane.due.items() if self.at(number).position < due)
            self._astray.update(behind)
            lane.due = {}
        return len(rows) or len(self._astray)

    async def _follow_astray(self, number: int) -> int:
        """Read one tenant by position. An event that is missing altogether is passed: the chain's check tells of it."""
        rows = await self._entities.following_of(number, self.at(number).position, MAX_BATCH)
        await self._project(rows, gaps=True)
        if len(rows) < MAX_BATCH:
            self._astray.discard(number)
        return len(rows) or 1

    def at(self, number: int) -> Reached:
        """How far a tenant is projected."""
        return self._reached.get(number, NOTHING)

    # -- folding --------------------------------------------------------------------------------------------------

    async def _project(self, rows: Iterable[Written], *, gaps: bool = False) -> None:
        groups: dict[Key, list[Written]] = {}
        ends: dict[int, Written] = {}
        positions: dict[int, int] = {}
        for row in rows:
            number, position, epoch = row[0], row[1], row[4]
            last = positions.get(number)
            if last is None:
                last = positions[number] = self.at(number).position
                if last == 0:
                    self._whole[number] = epoch
            if position <= last:
                continue
            if position != last + 1 and not gaps:
                self._astray.add(number)
                continue
            positions[number], ends[number] = position, row
            if row[9]:
                key = (number, row[7], row[8])
                if (group := groups.get(key)) is None:
                    groups[key] = [row]
                else:
                    group.append(row)
        if not ends:
            return
        states = await self._fold(groups, await self._states(groups))
        reached = {
            number: Reached(position, epoch, sequence, StreamId(ms, n))
            for number, (_, position, ms, n, epoch, sequence, *_) in ends.items()
        }
        moved = {number: (self._stored.get(number, NOTHING), now) for number, now in reached.items()}
        await self.settle()
        write = self._entities.write(self.generation, states, moved, current=self._current)
        self._writing = asyncio.create_task(write, name="projection-write")
        self._unwritten = states
        self._stored |= reached
        self._reached |= reached
        self._remember(states)

    async def _states(self, groups: Mapping[Key, list[Written]]) -> dict[Key, Stored]:
        """The states before these events, where there are any."""
        held: dict[Key, Stored] = {}
        unknown: list[Key] = []
        for key, rows in groups.items():
            if (row := self._cache.get(key) or self._unwritten.get(key)) is not None:
                held[key] = row
            elif not (_revision(rows[0]) == 1 and self._whole.get(key[0]) == rows[0][4]):
                unknown.append(key)
        held |= await self._entities.fetch(self.generation, unknown)
        if self._seeds is not None and self.expired:
            # What went before is only known from the states that it led to. Folding the rest again changes nothing.
            gone = [
                key for key in unknown if key not in held and key[0] in self.expired and _revision(groups[key][0]) > 1
            ]
            for key, row in (await self._entities.fetch(self._seeds, gone)).items():
                held[key] = await self._before_the_rest(key, row)
        return held

    async def _before_the_rest(self, key: Key, row: Stored) -> Stored:
        """A seed without its archived events in what it counts: folding them counts them again."""
        number, type, entity = key
        state, tenant, after = restored(row), await self._archive.name(number), ZERO
        writers = state.writers
        while entries := await self._archive.history(tenant, entity, MAX_BATCH, after):
            after = entries[-1].id
            # Numbers may have begun anew, or a server with its clock behind taken over; not both within an entity.
            mine = [
                one for one in entries if one.type == type and (one.id <= state.id or one.revision <= state.revision)
            ]
            writers = versions.without(writers, versions.tally(one.raw for one in mine))
        return stored(state._replace(writers=writers))

    @staticmethod
    async def _fold(groups: Mapping[Key, list[Written]], held: Mapping[Key, Stored]) -> dict[Key, Stored]:
        states: dict[Key, Stored] = {}
        until = time.perf_counter() + SLICE_S
        for key, rows in groups.items():
            before = held.get(key)
            folding = Folding(key[1], None if before is None else restored(before))
            for _, _, ms, n, _, sequence, _, _, _, body in rows:
                try:
                    event = orjson.loads(body)
                except ValueError:
                    continue
                folding.add(event, sequence, StreamId(ms, n))
            state = folding.state
            if state is not None:
                states[key] = stored(state)
            if time.perf_counter() > until:
                await asyncio.sleep(0)
                until = time.perf_counter() + SLICE_S
        return states

    def _remember(self, states: Mapping[Key, Stored]) -> None:
        cache = self._cache
        for key, row in states.items():
            before = cache.pop(key, None)
            cache[key] = row
            self._cached += len(row[7]) + (_ROW_BYTES if before is None else -len(before[7]))
        while self._cached > self._cache_bytes:
            _, gone = cache.popitem(last=False)
            self._cached -= len(gone[7]) + _ROW_BYTES


def _turned(lane: _Lane | None, place: Place) -> bool:
    """Whether the partition's history is another one than the lane follows."""
    return lane is None or lane.epoch != place.epoch or place.id < lane.at


def _revision(row: Written) -> int:
    return row[6]


def _base(one: Archived) -> Reached:
    return Reached(one.base_position, one.base.epoch, one.base.sequence, one.base.id)
