"""The digest tree of a tenant's states as a system sees them, true at one place of the projection.

A tree is made by reading every state once, in no hurry and while others write, and then what changed since that began.
It is kept, and later questions read what has changed since the last: by the events, which name the states. What cannot
be told by them (another generation is read, a history was replaced) is read anew.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from hub.core.digest_tree import DigestTree
from hub.core.projection import newest
from hub.log.topology import RedisError
from hub.services.sync_view import TYPES, SyncView
from hub.store.database import StoreUnavailable
from hub.store.entities import NOTHING, Reached, Stored
from schemas.errors import Problem
from schemas.sync import BUCKETS, BucketEntry, DigestResponse, state_hash

CHUNK: Final = 500
SLICE_S: Final = 0.002
"""How long the event loop is held at a time."""
MAX_HELD: Final = 200_000
"""States in all trees that are kept; the tree that was used last is, whatever its size."""
MAX_CHANGED: Final = 5000
"""Events since the last question; of more, all states are read anew."""
TRIES: Final = 3
MAX_BUCKETS: Final = 64
"""Buckets whose states one answer lists."""


@dataclass(slots=True)
class _Held:
    """A tree, and where it is true."""

    tree: DigestTree
    generation: int
    reached: Reached


class SyncDigests:
    """Makes trees on behalf of systems."""

    def __init__(self, view: SyncView) -> None:
        self._view = view
        self._held: OrderedDict[tuple[str, str], _Held] = OrderedDict()
        self._turns: dict[tuple[str, str], asyncio.Lock] = {}
        self._scanning = asyncio.Lock()
        self._slept = 0.0

    async def digest(self, system: str, tenant_id: str, buckets: Collection[int] | None = None) -> DigestResponse:
        """The tree, and of `buckets` the states.

        Raises:
            Problem: `log_unavailable`, `store_unavailable`: it cannot be read now.
        """
        try:
            number, _, reached = await self._view.fresh(tenant_id)
            if reached == NOTHING:
                return _answer(DigestTree(), self._view.cursor(tenant_id, NOTHING), buckets)
            key = (tenant_id, system)
            async with self._turns.setdefault(key, asyncio.Lock()):
                held = await self._current(key, number)
                for one in range(BUCKETS):
                    held.tree.hash(one)
                    await self._breathe()
                return _answer(held.tree, self._view.cursor(tenant_id, held.reached), buckets)
        except StoreUnavailable as error:
            raise Problem("store_unavailable", "the store cannot be read now; ask again") from error
        except (RedisError, OSError) as error:
            raise Problem("log_unavailable", "the log cannot be read now; ask again") from error

    async def _current(self, key: tuple[str, str], number: int) -> _Held:
        held = self._held.get(key)
        for _ in range(TRIES):
            if held is None:
                async with self._scanning:
                    held = await self._scan(key, number)
            changed = await self._view.states.changed(number, TYPES, held.reached, held.generation, MAX_CHANGED)
            if changed is None:
                held = None
                continue
            # Cut short in here, it is where it was: the next one reads these again.
            for (type, entity), row in changed.states.items():
                await self._put(held.tree, key, type, entity, row)
            held.reached = changed.reached
            self._keep(key, held)
            return held
        raise Problem("store_unavailable", "the states are being brought up to date; ask again")

    def _keep(self, key: tuple[str, str], held: _Held) -> None:
        self._held[key] = held
        self._held.move_to_end(key)
        size = sum(one.tree.count for one in self._held.values())
        while size > MAX_HELD and len(self._held) > 1:
            _, gone = self._held.popitem(last=False)
            size -= gone.tree.count

    async def _scan(self, key: tuple[str, str], number: int) -> _Held:
        """Every state, each as it is when it is read; true from where this began on, but for what changes meanwhile."""
        held: _Held | None = None
        after = ("", "")
        while True:
            slice = await self._view.states.page(number, TYPES, CHUNK, after=after, leisurely=True)
            if held is None:
                held = _Held(DigestTree(), slice.generation, slice.reached)
            for type, entity, row in slice.rows:
                await self._put(held.tree, key, type, entity, row)
                after = (type, entity)
            if len(slice.rows) < CHUNK:
                return held

    async def _put(self, tree: DigestTree, key: tuple[str, str], type: str, entity: str, row: Stored | None) -> None:
        tenant_id, system = key
        state = None if row is None else await self._view.seen(system, tenant_id, type, entity, row)
        if state is None:
            tree.remove(type, entity)
        else:
            try:
                hash = state_hash(type, entity, state.revision, newest(type, state).data)
            except ValueError:
                # A number that no double holds has no canonical JSON. The device cannot take its digest either.
                hash = ""
            tree.put(type, entity, state.revision, hash)
        await self._breathe()

    async def _breathe(self) -> None:
        now = time.perf_counter()
        if now - self._slept > SLICE_S:
            await asyncio.sleep(0)
            self._slept = time.perf_counter()


def _answer(tree: DigestTree, cursor: str, buckets: Collection[int] | None) -> DigestResponse:
    states = None
    if buckets is not None:
        states = [BucketEntry(**one._asdict()) for number in sorted(buckets) for one in tree.states(number)]
    return DigestResponse(cursor=cursor, root=tree.root, count=tree.count, buckets=tree.buckets, states=states)
