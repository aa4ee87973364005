"""One connection's subscriptions: backlog, then live, without a hole or a double at the seam.

A subscription that is behind is served by position from the log; when it has what the dispatcher has, and nothing was
awaited in between, it goes live: the connection joins the fan-out group of all its live subscriptions. A connection
whose socket or acknowledgement window is full leaves the group and is behind again. One task a connection does the
catching up, and only while there is something to catch up with.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final, Literal, Protocol

import structlog

from hub.core import subscription
from hub.core.entry import Entry
from hub.core.routing import Audience, Codec, may_see
from hub.core.subscription import Subscription
from hub.core.window import Window
from hub.log.positions import Positions
from hub.log.stream_log import Head
from hub.log.topology import RedisError
from hub.security.tokens import Claims
from hub.services.dispatcher import NOWHERE, Dispatcher, Position, encode
from hub.services.history import History
from hub.services.live_ranges import Trail
from hub.services.opening import allows, begin, interest_of
from hub.services.pages import Asked, Pages
from hub.services.replay_feed import ReplayFeed
from hub.services.replay_reading import Reading
from hub.services.replay_watch import ReplayWatch
from hub.services.snapshot_frames import send_snapshot
from hub.store.database import StoreUnavailable
from hub.telemetry import Metrics
from schemas.cursor import Cursor, StreamId
from schemas.errors import FieldError, Problem
from schemas.frames import WINDOW, Subscribe

_LAST: Final = StreamId(1 << 62, 0)
CHUNK: Final = 256
CHUNK_BYTES: Final = 256 * 1024
RETRY_S: Final = 0.5
MAX_SUBSCRIPTIONS: Final = 64

log = structlog.get_logger("hub.feed")


class Sink(Protocol):
    """A connection, as far as its feed is concerned."""

    @property
    def writable(self) -> bool:
        """False while the socket's buffer is over its high-water mark."""

    def write(self, frames: bytes) -> None:
        """Write ready-made frames; never blocks, never fails (a closed connection drops them)."""

    def send(self, op: str, **fields: Any) -> None:
        """Write one frame of fields."""

    def fail(self) -> None:
        """End the connection: its feed cannot go on."""


def _bounded(entries: list[Entry]) -> list[Entry]:
    """As many of the entries as may be written at once."""
    size = 0
    for index, entry in enumerate(entries):
        size += len(entry.raw)
        if size > CHUNK_BYTES:
            return entries[: index + 1]
    return entries


class Feed:
    """The subscriptions of one connection. The connection owns it and awaits `close`."""

    def __init__(
        self,
        sink: Sink,
        claims: Claims,
        dispatcher: Dispatcher,
        history: History,
        positions: Positions,
        metrics: Metrics,
        *,
        codec: Codec = "plain",
        window: int = WINDOW,
        session: str = "",
        replays: tuple[Reading, ReplayWatch] | None = None,
    ) -> None:
        self._sink = sink
        self.claims = claims
        self._dispatcher = dispatcher
        self._log = dispatcher.log
        self._recorder, self._trail = dispatcher.recorder, Trail(session, claims.system)
        self._history = history
        self._positions = positions
        self._metrics = metrics
        self._codec: Codec = codec
        self._window_size = window
        self._replays = (
            None
            if replays is None
            else ReplayFeed(sink, lambda: self.claims, *replays, metrics, codec, dispatcher.recorder)
        )
        self._subscriptions: dict[int | str, Subscription] = {}
        self._audience: Audience | None = None
        self._window: Window | None = None
        """What waits for its acknowledgement; None without durable subscriptions."""
        self._task: asyncio.Task[None] | None = None
        self._resumed = asyncio.Event()
        self._pages = Pages(history)
        self._holes: list[tuple[str, Head]] = []
        """Holes found, to be written down so that a cursor right after one is known."""
        self._lagging = False
        self._closed = False

    # -- subscribing ----------------------------------------------------------------------------------------------

    async def subscribe(self, frame: Subscribe) -> None:
        """Open a subscription: `subscribed`, gaps, backlog, live.

        Raises:
            Problem: it is not allowed, or the cursor is not one of this hub's.
        """
        if self._is_open(frame.id):
            raise Problem("invalid_request", f"the subscription {frame.id!r} is open", [FieldError("id", "is in use")])
        if len(self._subscriptions) + len(self._replays or ()) >= MAX_SUBSCRIPTIONS:
            raise Problem("rate_limited", f"a connection has at most {MAX_SUBSCRIPTIONS} subscriptions")
        if frame.replay is not None:
            if self._replays is None:
                raise Problem("unavailable_feature", "there are no replays here")
            await self._replays.subscribe(frame)
            return
        taken: dict[str, str] | None = None
        if frame.snapshot:
            interest = interest_of(self.claims, frame)
            taken = await send_snapshot(self._history, self._sink, self.claims, frame, interest, self._room)
        while True:
            history = self._dispatcher.history
            opened = await begin(self._history, self._positions, self.claims, frame, self._dispatcher.position, taken)
            if self._gone() or self._is_open(frame.id):
                return
            # A history that was replaced meanwhile was told to the others only.
            if history == self._dispatcher.history:
                break
        # In the group, the others would be sent events ahead of this one's backlog.
        self._leave()
        if frame.name is not None and self._window is None:
            self._window = Window(self._window_size)
        one = self._subscriptions[frame.id] = opened.subscription
        self._recorder.opened(self._trail, one)
        tenants = one.interest.tenants
        self._sink.send(
            "subscribed",
            id=frame.id,
            patterns=frame.patterns,
            tenants=["*"] if tenants is None else sorted(tenants),
            recovered=not opened.gaps,
            position=opened.position,
            changes_only=frame.changes_only,
        )
        for gap in opened.gaps:
            self._send_gap(one, gap.tenant_id, str(gap.gap), self._log.cursor(gap.tenant_id, gap.head))
        if opened.resumed:
            self._metrics.resumes.labels("gap" if opened.gaps else "recovered").inc()
        self._kick()

    async def _room(self) -> None:
        """Until the socket takes more."""
        while not self._sink.writable and not self._closed:
            self._resumed.clear()
            await self._resumed.wait()

    def _gone(self) -> bool:
        return self._closed

    def _is_open(self, id: int | str) -> bool:
        return id in self._subscriptions or (self._replays is not None and id in self._replays)

    def unsubscribe(self, id: int | str) -> None:
        """Close a subscription.

        Raises:
            Problem: there is none with this id.
        """
        if self._replays is not None and id in self._replays:
            self._replays.unsubscribe(id)
            return
        if id not in self._subscriptions:
            raise Problem("not_found", f"there is no subscription {id!r}")
        self._leave()
        del self._subscriptions[id]
        named = [one for one in self._subscriptions.values() if one.name is not None]
        if self._window is not None and not named:
            self._window = None
        elif self._window is not None:
            for tenant in self._window.tenants():
                if not any(one.interest.tenants is None or tenant in one.interest.tenants for one in named):
                    self._window.forget(tenant)
        self._kick()

    def may_continue(self, claims: Claims) -> bool:
        """Whether every open subscription would be allowed to another token of the same system."""
        if claims.system != self.claims.system or claims.view != self.claims.view:
            return False
        if not all(allows(claims, one.interest) for one in self._subscriptions.values()):
            return False
        return self._replays is None or self._replays.allowed(claims)

    # -- live -----------------------------------------------------------------------------------------------------

    def deliver(self, buffer: bytes, events: Sequence[Entry], before: Position) -> bool:
        """The group's bytes. Refused, leaving the group, when socket or window is full."""
        window = self._window
        if not self._sink.writable or (window is not None and window.outstanding + len(events) > window.size):
            self._fall_behind(before)
            return False
        if window is not None:
            for entry in events:
                window.sent(entry.tenant_id, entry.sequence, entry.epoch)
        self._sink.write(buffer)
        return True

    def _fall_behind(self, position: Position) -> None:
        self._audience = None
        self._recorder.left(self._trail)
        for one in self._subscriptions.values():
            if one.live:
                one.live, one.left_group = False, True
                one.at, one.sequences = list(position), {}
        if not self._sink.writable:
            self._set_lagging(True)
        self._kick()

    def _set_lagging(self, lagging: bool) -> None:
        if lagging != self._lagging:
            self._lagging = lagging
            self._metrics.lagging.inc(1 if lagging else -1)
            if lagging:
                self._sink.send("notice", code="lagging", detail={"message": "reading slower than events come"})

    def _leave(self) -> None:
        """Leave the group with everything that was routed; live subscriptions are behind by nothing."""
        if self._audience is None:
            return
        audience, self._audience = self._audience, None
        self._dispatcher.fanout.leave(self, audience)
        self._recorder.left(self._trail)
        position = self._dispatcher.position
        for one in self._subscriptions.values():
            if one.live:
                one.live, one.left_group = False, True
                one.at, one.sequences = list(position), {}

    def gap(self, tenant_id: str, reason: str, head: Head, cursor: str) -> None:
        """The dispatcher found a hole in a tenant's history; `cursor` is the place after it."""
        partition = self._log.partition(tenant_id)
        for one in self._subscriptions.values():
            if one.interest.tenants is None or tenant_id in one.interest.tenants:
                behind = not one.has(partition, head.id)
                if behind and reason == "expired":
                    # It meets the hole on its way, after what comes before it.
                    last = self._dispatcher.head(tenant_id)
                    if one.at[partition] >= last.id:
                        one.sequences[tenant_id] = last.sequence
                    continue
                one.sequences.pop(tenant_id, None)
                if behind:
                    # What it is still owed comes after the gap, from where it stands in the new history.
                    one.acked[tenant_id] = 0
                    self._send_gap(one, tenant_id, reason, self._log.cursor(tenant_id, NOWHERE))
                    continue
                if reason == "epoch":
                    one.begin_of[tenant_id] = one.begin[partition] = one.last_begin[partition] = head.id
                    one.acked[tenant_id] = head.sequence
                    one.at[partition] = min(one.at[partition], self._dispatcher.position[partition])
                    if self._window is not None and self._window.forget(tenant_id):
                        self._resumed.set()
                self._send_gap(one, tenant_id, reason, cursor)

    def _send_gap(self, one: Subscription, tenant_id: str, reason: str, cursor: str) -> None:
        self._sink.send("gap", id=one.id, tenant_id=tenant_id, reason=reason, resume_from=cursor)

    # -- catching up ----------------------------------------------------------------------------------------------

    def resume(self) -> None:
        """The socket has room again, or events were acknowledged."""
        self._resumed.set()
        if self._replays is not None:
            self._replays.resume()

    def _kick(self) -> None:
        self._resumed.set()
        if self._task is None and not self._closed and self._subscriptions:
            self._task = asyncio.create_task(self._catch_up(), name="catch-up")

    async def _catch_up(self) -> None:
        try:
            while not self._closed:
                if self._blocked():
                    self._resumed.clear()
                    await self._resumed.wait()
                    continue
                try:
                    step = self._next()
                    if step is None:
                        self._go_live()
                        return
                    partition, after = step
                    if after > self._dispatcher.position[partition]:
                        await self._dispatcher.wait(None)
                        await asyncio.sleep(0)
                        continue
                    entries = self._dispatcher.recent(partition, after, CHUNK)
                    remembered = entries is not None
                    if entries is None:
                        upto = self._dispatcher.position[partition]
                        asked = Asked(partition, self._asked(partition), self._dispatcher.history)
                        entries = await self._pages.next(asked, after, upto)
                        if asked.history != self._dispatcher.history:
                            continue  # read of a history that was replaced meanwhile
                        if self._lowest(partition) < after:
                            continue  # another subscription began before these meanwhile
                        if not entries:
                            self._pass(partition, after, upto)
                    elif not entries:
                        self._pass(partition, after, self._dispatcher.position[partition])
                    entries = _bounded(entries)
                    if entries and remembered and self._fell_behind_together(partition, after):
                        self._serve_shared(partition, after, entries)
                        entries = []
                    self._serve(partition, entries)
                    while self._holes:
                        await self._log.note_hole(*self._holes.pop())
                    # Another connection's turn, also when everything came from memory.
                    await asyncio.sleep(0)
                except (RedisError, OSError, StoreUnavailable):
                    await asyncio.sleep(RETRY_S)
        except Exception:
            log.exception("catch_up_failed", system=self.claims.system)
            self._sink.send("error", code="internal", message="the hub failed; connect again", retryable=True)
            self._closed = True
            self._sink.fail()
        finally:
            self._task = None

    def _blocked(self) -> bool:
        return not self._sink.writable or (self._window is not None and self._window.full)

    def _behind(self) -> list[Subscription]:
        return [one for one in self._subscriptions.values() if not one.live]

    def _next(self) -> tuple[int, StreamId] | None:
        """The partition to read next and from where; None when all have what the dispatcher has."""
        position = self._dispatcher.position
        for one in self._subscriptions.values():
            if one.live:
                continue
            for partition, at in enumerate(one.at):
                if not self._concerns(one, partition):
                    continue
                if at < position[partition]:
                    return (partition, self._lowest(partition))
                if (ahead := max(at, one.last_begin[partition])) > position[partition]:
                    return (partition, ahead)
        return None

    def _lowest(self, partition: int) -> StreamId:
        behind = (one.at[partition] for one in self._behind() if self._concerns(one, partition))
        return min(behind, default=_LAST)

    def _asked(self, partition: int) -> frozenset[str] | None:
        """The tenants that those who are behind ask for; None for all."""
        asked: set[str] = set()
        for one in self._behind():
            if one.interest.tenants is None:
                return None
            asked |= one.interest.tenants
        return frozenset(tenant for tenant in asked if self._log.partition(tenant) == partition)

    def _concerns(self, one: Subscription, partition: int) -> bool:
        tenants = one.interest.tenants
        return tenants is None or any(self._log.partition(tenant) == partition for tenant in tenants)

    def _pass(self, partition: int, after: StreamId, upto: StreamId) -> None:
        """Nothing lies between: everyone who stood at `after` stands at `upto`."""
        for one in self._behind():
            if after <= one.at[partition] < upto:
                one.at[partition] = upto

    def _fell_behind_together(self, partition: int, after: StreamId) -> bool:
        """Whether all subscriptions left the group here, so that others may have too."""
        return self._window is None and all(
            not one.live and one.left_group and one.at[partition] == after for one in self._subscriptions.values()
        )

    def _serve_shared(self, partition: int, after: StreamId, entries: list[Entry]) -> None:
        buffer, count = self._dispatcher.page(self._group(), partition, after, entries)
        served = [(one, after) for one in self._subscriptions.values() if self._sink.writable]
        for one in self._subscriptions.values():
            one.at[partition] = entries[-1].id
            one.sequences.clear()  # what comes from memory has no holes
        if count:
            self._sink.write(buffer)
            self._recorder.caught_up(self._trail, served, partition, entries)
            self._metrics.deliveries.labels("websocket", self.claims.system, "caught_up").inc(count)

    def _serve(self, partition: int, entries: Sequence[Entry]) -> None:
        everyone = list(self._subscriptions.values())
        behind = self._behind()
        view, system = self.claims.view, self.claims.system
        frames: list[bytes] = []
        # A connection that is closing by now drops what it is written: nothing is noted of it.
        served, wrote = [(one, one.at[partition]) for one in behind if self._sink.writable], False
        for entry in entries:
            self._check_sequence(behind, partition, entry, frames)
            if subscription.due(
                behind, everyone, partition, entry.id, entry.tenant_id, entry.type, entry.action, entry.entity
            ) and (entry.readable and may_see(system, entry.targets)):
                frames.append(encode(entry, view, self._codec))
                wrote = True
                if self._window is not None:
                    self._window.sent(entry.tenant_id, entry.sequence, entry.epoch)
            for one in behind:
                if one.at[partition] < entry.id:
                    one.at[partition] = entry.id
            if self._window is not None and self._window.full:
                break
        self._write(frames)
        if wrote:
            self._recorder.caught_up(self._trail, served, partition, entries)

    def _write(self, frames: list[bytes]) -> None:
        if frames:
            self._sink.write(b"".join(frames))
            self._metrics.deliveries.labels("websocket", self.claims.system, "caught_up").inc(len(frames))
            frames.clear()

    def _check_sequence(
        self, behind: Sequence[Subscription], partition: int, entry: Entry, frames: list[bytes]
    ) -> None:
        for one in behind:
            if one.at[partition] >= entry.id:
                continue
            last = one.sequences.get(entry.tenant_id)
            epoch = one.epochs.get(entry.tenant_id, entry.epoch)
            one.epochs[entry.tenant_id] = entry.epoch
            one.sequences[entry.tenant_id] = entry.sequence
            tenants = one.interest.tenants
            if last is None or entry.sequence == last + 1 or (tenants is not None and entry.tenant_id not in tenants):
                continue
            if entry.sequence <= last and epoch == entry.epoch:
                one.sequences[entry.tenant_id] = last
                continue
            self._write(frames)
            reason: Literal["expired", "epoch"] = "expired" if entry.sequence > last else "epoch"
            self._metrics.gaps.labels(reason).inc()
            hole = Head(entry.sequence - 1, entry.id.previous)
            if reason == "expired":
                self._holes.append((entry.tenant_id, hole))
            self._send_gap(one, entry.tenant_id, reason, self._log.cursor(entry.tenant_id, hole))

    def _go_live(self) -> None:
        for one in self._subscriptions.values():
            one.live = True
        if not self._subscriptions:
            return
        self._audience = self._group()
        self._dispatcher.fanout.join(self, self._audience)
        self._recorder.joined(self._trail, self._audience)
        self._set_lagging(False)

    def _group(self) -> Audience:
        return Audience(
            frozenset(one.interest for one in self._subscriptions.values()),
            self.claims.system,
            self.claims.view,
            self._codec,
            min(one.batch_ms for one in self._subscriptions.values()),
            all(one.changes_only for one in self._subscriptions.values()),
        )

    # -- acknowledgements -----------------------------------------------------------------------------------------

    def ack(self, cursors: dict[str, str]) -> None:
        """Everything up to these cursors is handled; moves the durable subscriptions.

        An acknowledgement of something that was not sent moves nothing.

        Raises:
            Problem: `invalid_cursor` or `forbidden`, naming the tenant.
        """
        window = self._window
        if window is None:
            raise Problem(
                "invalid_request", "no subscription of this connection has a name, so there is nothing to ack"
            )
        decoded: dict[str, Cursor] = {}
        for tenant, text in cursors.items():
            self.claims.require_tenant(tenant)
            cursor = decoded[tenant] = Cursor.decode(text, tenant)
            known = cursor.epoch == self._log.epochs[self._log.partition(tenant)]
            # What comes from the archive has the cursors it had when it was stored.
            known = known or window.sent_in(tenant, cursor.epoch)
            if not known or cursor.sequence > self._dispatcher.head(tenant).sequence:
                raise Problem("invalid_cursor", f"nothing was sent up to the cursor of {tenant}")
        for tenant, cursor in decoded.items():
            window.acked(tenant, cursor.sequence)
            self._move(tenant, Head(cursor.sequence, cursor.id), cursors[tenant], given=True)
        self.resume()

    def _move(self, tenant_id: str, head: Head, cursor: str, *, given: bool = False) -> None:
        partition = self._log.partition(tenant_id)
        for one in self._subscriptions.values():
            # What came to another subscription of the connection says nothing about one that is not there yet.
            if one.name is None or head.sequence <= one.acked.get(tenant_id, 0) or not one.has(partition, head.id):
                continue
            if one.interest.tenants is None or tenant_id in one.interest.tenants:
                one.acked[tenant_id] = head.sequence
                self._positions.move(self.claims.system, one.name, tenant_id, cursor)
                self._recorder.acked(self._trail, one, tenant_id, head.sequence, head.id, given)

    def settle(self) -> None:
        """Move durable positions past events that were not for them, where nothing is outstanding.

        Else a subscription to something rare would stand still until its position expired.
        """
        if self._window is None or self._audience is None or self._audience.batch_ms:
            return
        for one in self._subscriptions.values():
            if one.name is None or not one.live:
                continue
            for tenant in one.interest.tenants or self._dispatcher.tenants():
                head = self._dispatcher.head(tenant)
                if not self._window.holds(tenant) and head.sequence > one.acked.get(tenant, 0):
                    self._move(tenant, head, self._log.cursor(tenant, head))

    @property
    def outstanding(self) -> int:
        """Events sent and not acknowledged on durable subscriptions."""
        return 0 if self._window is None else self._window.outstanding

    async def close(self) -> None:
        """Leave the group and stop catching up."""
        self.settle()
        self._closed = True
        if self._replays is not None:
            await self._replays.close()
        self._leave()
        if self._lagging:
            self._lagging = False
            self._metrics.lagging.dec()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
