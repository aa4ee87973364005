"""Follows the archive and keeps the entities' states (see `hub.core.projection`).

Many events of one entity become one row; how far each tenant is projected is stored with the rows, so a crash folds
nothing twice. Of several hubs' projectors one gets on while the others wait.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

import orjson
import structlog

from hub.core.projection import State, change, fold
from hub.store.archive import Archived, Fenced, Place
from hub.store.database import StoreUnavailable, StoreVersionError
from hub.store.entities import NOTHING, Key, Reached, Row, Superseded, Written
from hub.store.store import Store
from schemas.cursor import ZERO, StreamId

MAX_BATCH: Final = 1000
"""Events in one transaction: more would keep other writers waiting."""
SLICE_S: Final = 0.004
"""How long the event loop is held at a time."""
CACHE_BYTES: Final = 32 * 1024 * 1024
_ROW_BYTES: Final = 700
"""What a remembered state takes beside its data."""
PACE_S: Final = 0.05
"""Between transactions that were not full: what comes meanwhile shares the next one's commit."""
IDLE_S: Final = 2.0
STANDBY_S: Final = 3.0
MAX_BACKOFF_S: Final = 5.0
SMALL_LAG: Final = MAX_BATCH
"""A rebuilt projection takes over when it is no further behind: the projector makes up for that at once."""
MAX_ROUNDS: Final = 50

log = structlog.get_logger("hub.projector")


@dataclass(slots=True)
class _Lane:
    """How far a partition was looked through."""

    at: StreamId
    epoch: int
    due: dict[int, int]
    """The positions that its tenants must have come to at its end, or some of their events lie at earlier places."""


class Projection:
    """Folds what is archived into one generation, a transaction a step. Owned by one task."""

    def __init__(self, store: Store, generation: int, *, current: bool, seeds: int | None = None) -> None:
        """`seeds` is the generation that knows what events said that are no longer archived."""
        self._archive = store.archive
        self._entities = store.entities
        self.generation = generation
        self._current = current
        self._seeds = seeds
        self._lanes: dict[int, _Lane] | None = None
        self._reached: dict[int, Reached] = {}
        self._expired: dict[int, StreamId] = {}
        """The tenants whose oldest events are gone, and up to where."""
        self._whole: dict[int, int] = {}
        """The tenants all of whose events this object has folded, while they are of one epoch: there a first revision
        has no state before it."""
        self._astray: set[int] = set()
        """Tenants with events at places that were passed already: a server with its clock behind took over."""
        self._turn = 0
        self._cache: OrderedDict[Key, Row] = OrderedDict()
        self._cached_bytes = 0

    async def step(self) -> int:
        """Project one transaction's worth; how many events, 0 when there is nothing to do.

        Raises:
            Fenced: another projector is at work; the next step begins where that one is.
            Superseded: the generation is not what it was.
            StoreUnavailable: nothing was stored, as far as one can tell; the next step looks.
        """
        try:
            return await self._step()
        except BaseException:
            self._lanes = None
            self._cache.clear()
            self._cached_bytes = 0
            raise

    async def _step(self) -> int:
        places = await self._archive.places()
        if self._lanes is None or any(_turned(self._lanes.get(number), place) for number, place in places.items()):
            self._lanes = await self._locate(places)
        if self._astray:
            return await self._gather_astray(next(iter(self._astray)))
        seen, batch = await self._gather(self._lanes, places)
        await self._project(batch, gaps=False)
        for number, id in seen.items():
            self._lanes[number].at = id
        return sum(len(rows) for rows in batch) if seen else int(bool(self._astray))

    # -- reading the archive --------------------------------------------------------------------------------------

    async def _locate(self, places: dict[int, Place]) -> dict[int, _Lane]:
        """Where each partition is to be read from, by how far its tenants are projected."""
        self._reached = await self._entities.reached(self.generation)
        tenants = await self._archive.tenants()
        lanes = {number: _Lane(place.id, place.epoch, {}) for number, place in places.items()}
        self._astray.clear()
        for one in tenants.values():
            reached = self._reached.get(one.tenant_no, NOTHING)
            self._see(one, reached)
            if reached.position < one.base_position:
                # A projection that is being built begins with what is left.
                self._reached[one.tenant_no] = _base(one) if self._seeds is not None else reached
                reached = self._reached[one.tenant_no]
            if reached.position < one.position:
                lane = lanes[one.partition]
                lane.at = min(lane.at, reached.id)
                lane.due[one.tenant_no] = one.position
        return lanes
