"""Where a subscription begins: what it may ask for, which tenants have a cursor or a kept position, where gaps are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hub.core.routing import Interest
from hub.core.subscription import Subscription
from hub.log.positions import Positions
from hub.log.stream_log import Head, Start
from hub.log.topology import RedisError
from hub.security.tokens import Claims
from hub.services.dispatcher import NOWHERE, Position
from hub.services.history import History
from hub.store.database import StoreUnavailable
from schemas import patterns
from schemas.cursor import ZERO, Cursor, StreamId, split
from schemas.errors import FieldError, Problem
from schemas.frames import Subscribe


@dataclass(frozen=True, slots=True)
class Opened:
    """A subscription at its beginning."""

    subscription: Subscription
    position: dict[str, str]
    """The cursor of that place, by tenant."""
    gaps: list[Start]
    resumed: bool
    """Whether some tenant began after a cursor."""


async def begin(
    log: History,
    positions: Positions,
    claims: Claims,
    frame: Subscribe,
    routed: Position,
    taken: Mapping[str, str] | None = None,
) -> Opened:
    """Find where a subscription begins; that of a durable name is written down.

    `routed` is what the dispatcher had routed before this was called: nothing of it can be newer than the ends of the
    tenants' histories that are asked for here. `taken` are the cursors of the snapshot that it goes on from.

    Raises:
        Problem: it is not allowed, a cursor is not one of this hub's, or the log cannot be read now.
    """
    interest = interest_of(claims, frame)
    try:
        known = await (log.tenants() if interest.tenants is None else log.heads(interest.tenants))
        cursors = _cursors(frame, interest, list(known))
        if frame.name is not None:
            held = await positions.get(claims.system, frame.name, known)
            if interest.tenants is None and await positions.known(claims.system, frame.name):
                # A tenant that came while the name was away is read from its first event.
                held = {tenant: Cursor.decode(log.cursor(tenant, NOWHERE)) for tenant in known} | held
            cursors = held | cursors
        if taken is not None:
            # A tenant that came after the snapshot is read from its first event.
            cursors = {tenant: Cursor.decode(log.cursor(tenant, NOWHERE)) for tenant in known}
            cursors |= {tenant: Cursor.decode(cursor, tenant) for tenant, cursor in taken.items()}
        starts = await log.resolve(cursors) if cursors else []
        subscription, position = _place(log, frame, interest, starts, known, routed)
        if frame.name is not None:
            await positions.begin(claims.system, frame.name, position)
    except (RedisError, OSError) as error:
        raise Problem("log_unavailable", "the log cannot be read now; subscribe again") from error
    except StoreUnavailable as error:
        raise Problem("store_unavailable", "the archive cannot be read now; subscribe again") from error
    return Opened(subscription, position, [start for start in starts if start.gap is not None], bool(starts))


def allows(claims: Claims, interest: Interest) -> bool:
    """Whether a token may ask for all of an interest that is open already."""
    tenants = interest.tenants
    if not claims.all_tenants and (tenants is None or not tenants <= claims.tenants):
        return False
    return all(patterns.covered(claims.patterns("subscribe"), pattern) for pattern in interest.patterns)


def interest_of(claims: Claims, frame: Subscribe) -> Interest:
    """What a subscription asks for.

    Raises:
        Problem: the token does not allow it.
    """
    for index, pattern in enumerate(frame.patterns):
        if not claims.may("subscribe", pattern):
            where = [FieldError(f"patterns.{index}", f"the token lacks the scope subscribe:{pattern}")]
            raise Problem("forbidden", where[0].message, where)
    if frame.tenants is not None:
        for tenant in frame.tenants:
            claims.require_tenant(tenant)
        tenants: frozenset[str] | None = frozenset(frame.tenants)
    else:
        tenants = None if claims.all_tenants else claims.tenants
    entities = None if frame.entities is None else frozenset(frame.entities)
    return Interest(tenants, frozenset(frame.patterns), entities)


def _cursors(frame: Subscribe, interest: Interest, known: list[str]) -> dict[str, Cursor]:
    after = frame.after
    if after is None or after in ("latest", "earliest"):
        return {}
    if isinstance(after, dict):
        for tenant in after:
            if interest.tenants is not None and tenant not in interest.tenants:
                raise Problem("forbidden", f"the subscription does not hold the tenant {tenant}")
        return {tenant: Cursor.decode(cursor, tenant) for tenant, cursor in after.items()}
    return split(after, known if interest.tenants is None else sorted(interest.tenants))


def _place(
    log: History,
    frame: Subscribe,
    interest: Interest,
    starts: Sequence[Start],
    known: Mapping[str, Head],
    routed: Position,
) -> tuple[Subscription, dict[str, str]]:
    earliest = frame.after == "earliest"
    resumed = {start.tenant_id for start in starts}
    places = {tenant: NOWHERE if earliest else head for tenant, head in known.items()}
    places |= {start.tenant_id: start.head for start in starts}
    begin_of: dict[str, StreamId] = {}
    for tenant, head in places.items():
        begin_of[tenant] = head.id
        if head == known.get(tenant, NOWHERE) and not (earliest and head == NOWHERE):
            # It has everything: what was routed since is other tenants', and need not be read again to see that.
            begin_of[tenant] = max(head.id, routed[log.partition(tenant)])
    otherwise = [ZERO] * len(routed) if earliest else list(routed)
    """For tenants that are not known yet."""
    ids: list[list[StreamId]] = [[] if interest.tenants is not None else [id] for id in otherwise]
    for tenant, id in begin_of.items():
        ids[log.partition(tenant)].append(id)
    subscription = Subscription(
        frame.id,
        interest,
        otherwise,
        begin_of,
        [min(here, default=otherwise[partition]) for partition, here in enumerate(ids)],
        [max(here, default=ZERO) for here in ids],
        frame.name,
        frame.batch_ms,
        frame.changes_only,
        # `earliest` is the earliest there is: what was trimmed before it is no gap.
        sequences={tenant: head.sequence for tenant, head in places.items() if head != NOWHERE or tenant in resumed},
        acked={tenant: head.sequence for tenant, head in places.items()} if frame.name is not None else {},
    )
    return subscription, {tenant: log.cursor(tenant, head) for tenant, head in places.items()}
